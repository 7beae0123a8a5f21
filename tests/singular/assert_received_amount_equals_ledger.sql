-- Every cent of the ledger, reversals taken off, is received in some month: by currency. What was paid on an
-- order that is in quarantine has no currency yet: quarantine.children lists it.
with

loan_payments as (

    select *
    from {{ ref('stg_app__loan_payments') }}
    where deleted_at is null

),

credit_orders as (

    select *
    from {{ ref('stg_app__credit_orders') }}
    where deleted_at is null

),

monthly_cash_flow as (

    select * from {{ ref('monthly_cash_flow') }}

),

ledger as (

    select
        credit_orders.currency,
        sum(
            case
                when loan_payments.reversal_of is not null then -abs(loan_payments.amount)
                else loan_payments.amount
            end
        ) as amount
    from loan_payments
    inner join credit_orders on loan_payments.order_id = credit_orders.order_id
    where {{ business_date('loan_payments.paid_at') }} <= {{ as_of_date() }}
    group by 1

),

mart as (

    select
        currency,
        sum(received_amount) as amount
    from monthly_cash_flow
    group by 1

)

select
    coalesce(ledger.currency, mart.currency) as currency,
    ledger.amount as ledger_amount,
    mart.amount as mart_amount
from ledger
full outer join mart on ledger.currency = mart.currency
where coalesce(ledger.amount, 0) <> coalesce(mart.amount, 0)
