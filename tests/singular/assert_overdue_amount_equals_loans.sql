-- The last month's overdue amount, made of changes, equals what the loans' positions say: by currency.
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
        and overdue_amount is not null

),

positions as (

    select
        currency,
        sum(open_amount) as overdue_amount
    from installments
    where due_date <= {{ as_of_date() }}
    group by 1

)

select
    mart.currency,
    mart.overdue_amount as mart_amount,
    positions.overdue_amount as positions_amount
from mart
left join positions on mart.currency = positions.currency
where mart.overdue_amount <> coalesce(positions.overdue_amount, 0)
