-- The last month's overdue amount, made of changes, equals what the loans' positions say: by currency, where the
-- ledger is complete.
with

monthly_cash_flow as (

    select * from {{ ref('monthly_cash_flow') }}

),

installments as (

    select * from {{ ref('int_installments__position') }}

),

mart as (

    select
        currency,
        overdue_amount
    from monthly_cash_flow
    where
        month = {{ month_of(as_of_date()) }}
        and {{ ledger_is_complete_on(as_of_date()) }}

),

positions as (

    select
        currency,
        sum(open_amount) as overdue_amount
    from installments
    where
        due_date <= {{ as_of_date() }}
        and {{ ledger_is_complete_on(as_of_date()) }}
    group by 1

)

select
    coalesce(mart.currency, positions.currency) as currency,
    mart.overdue_amount as mart_amount,
    positions.overdue_amount as positions_amount
from mart
full outer join positions on mart.currency = positions.currency
where coalesce(mart.overdue_amount, 0) <> coalesce(positions.overdue_amount, 0)
