-- Every order requested by as_of_date is in credit_decisions, and nothing else is.
with

credit_orders as (

    select *
    from {{ ref('stg_app__credit_orders') }}
    where deleted_at is null

),

credit_decisions as (

    select * from {{ ref('credit_decisions') }}

),

source_orders as (

    select
        order_id,
        requested_amount
    from credit_orders
    where {{ business_date('created_at') }} <= {{ as_of_date() }}

)

select
    coalesce(source_orders.order_id, credit_decisions.order_id) as order_id,
    source_orders.requested_amount as source_amount,
    credit_decisions.requested_amount as mart_amount
from source_orders
full outer join credit_decisions on source_orders.order_id = credit_decisions.order_id
where
    source_orders.order_id is null
    or credit_decisions.order_id is null
    or source_orders.requested_amount <> credit_decisions.requested_amount
