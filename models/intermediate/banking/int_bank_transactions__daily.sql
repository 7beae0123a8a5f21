{{ config(materialized = 'view') }}

with

by_day as (

    select * from {{ ref('int_bank_transactions__by_day') }}

),

bank_accounts as (

    select *
    from {{ ref('stg_app__bank_accounts') }}
    where deleted_at is null

),

final as (

    select
        by_day.account_id,
        by_day.currency,
        by_day.booked_date,
        bank_accounts.customer_id,
        by_day.inflow,
        by_day.outflow,
        by_day.net,
        by_day.transactions,
        greatest(by_day._batch_id, bank_accounts._batch_id) as _batch_id
    from by_day
    inner join bank_accounts on by_day.account_id = bank_accounts.account_id

)

select * from final
