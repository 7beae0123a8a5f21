-- Credits, debits and their number add up to the transactions: by currency. Those of an account that is in
-- quarantine or deleted belong to no customer: quarantine.children lists them.
with

bank_transactions as (

    select *
    from {{ ref('stg_app__bank_transactions') }}
    where deleted_at is null

),

children as (

    select child_key
    from {{ ref('quarantine_children') }}
    where child_table = 'app__bank_transactions'

),

customer_monthly_bank_flow as (

    select * from {{ ref('customer_monthly_bank_flow') }}

),

source_transactions as (

    select
        bank_transactions.currency,
        count(*) as transactions,
        sum(case when bank_transactions.amount > 0 then bank_transactions.amount else 0 end) as inflow,
        sum(case when bank_transactions.amount < 0 then -bank_transactions.amount else 0 end) as outflow
    from bank_transactions
    left join children on cast(bank_transactions.transaction_id as varchar) = children.child_key
    where
        children.child_key is null
        and {{ business_date('bank_transactions.booked_at') }} <= {{ as_of_date() }}
    group by 1

),

mart as (

    select
        currency,
        sum(transactions) as transactions,
        sum(inflow) as inflow,
        sum(outflow) as outflow
    from customer_monthly_bank_flow
    group by 1

)

select
    coalesce(source_transactions.currency, mart.currency) as currency,
    source_transactions.transactions as source_count,
    mart.transactions as mart_count,
    source_transactions.inflow as source_inflow,
    mart.inflow as mart_inflow,
    source_transactions.outflow as source_outflow,
    mart.outflow as mart_outflow
from source_transactions
full outer join mart on source_transactions.currency = mart.currency
where
    coalesce(source_transactions.transactions, 0) <> coalesce(mart.transactions, 0)
    or coalesce(source_transactions.inflow, 0) <> coalesce(mart.inflow, 0)
    or coalesce(source_transactions.outflow, 0) <> coalesce(mart.outflow, 0)
