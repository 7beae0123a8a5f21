with

bank_transactions as (

    select *
    from {{ ref('stg_app__bank_transactions') }}
    where deleted_at is null

),

bank_accounts as (

    select *
    from {{ ref('stg_app__bank_accounts') }}
    where deleted_at is null

),

transactions as (

    select
        bank_accounts.customer_id,
        bank_transactions.currency,
        {{ business_date('bank_transactions.booked_at') }} as booked_date,
        bank_transactions.amount
    from bank_transactions
    inner join bank_accounts on bank_transactions.account_id = bank_accounts.account_id

),

final as (

    select
        customer_id,
        currency,
        booked_date,
        {{ money('sum(case when amount > 0 then amount else 0 end)') }} as inflow,
        {{ money('sum(case when amount < 0 then -amount else 0 end)') }} as outflow,
        {{ money('sum(amount)') }} as net,
        count(*) as transactions
    from transactions
    where booked_date <= {{ as_of_date() }}
    group by 1, 2, 3

)

select * from final
