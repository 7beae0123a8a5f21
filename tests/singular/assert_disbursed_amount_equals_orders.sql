-- Every disbursed order is paid out in some month, with its amount: by currency.
with

credit_orders as (

    select *
    from {{ ref('stg_app__credit_orders') }}
    where deleted_at is null

),

monthly_cash_flow as (

    select * from {{ ref('monthly_cash_flow') }}

),

source_orders as (

    select
        currency,
        count(*) as orders,
        sum(coalesce(disbursed_amount, approved_amount)) as amount
    from credit_orders
    where {{ business_date('disbursed_at') }} <= {{ as_of_date() }}
    group by 1

),

mart as (

    select
        currency,
        sum(orders_disbursed) as orders,
        sum(disbursed_amount) as amount
    from monthly_cash_flow
    group by 1

)

select
    coalesce(source_orders.currency, mart.currency) as currency,
    source_orders.orders as source_orders,
    mart.orders as mart_orders,
    source_orders.amount as source_amount,
    mart.amount as mart_amount
from source_orders
full outer join mart on source_orders.currency = mart.currency
where
    coalesce(source_orders.orders, 0) <> coalesce(mart.orders, 0)
    or coalesce(source_orders.amount, 0) <> coalesce(mart.amount, 0)
