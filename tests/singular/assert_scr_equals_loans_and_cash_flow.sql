-- The last month of the SCR is the position of the loans, and the overdue amounts of every month are those of the
-- cash flow: three models, one figure.
with

positions as (

    select * from {{ ref('scr_monthly_position') }}

),

loans as (

    select * from {{ ref('int_loans__position') }}

),

monthly_cash_flow as (

    select * from {{ ref('monthly_cash_flow') }}

),

last_positions as (

    select *
    from positions
    where month = {{ month_of(as_of_date()) }}

),

other_loans as (

    select
        loans.order_id,
        cast(null as date) as month,
        loans.outstanding_amount as expected_amount,
        last_positions.outstanding_amount as scr_amount
    from loans
    left join last_positions on loans.order_id = last_positions.order_id
    where
        loans.is_ledger_complete
        and (
            last_positions.order_id is null
            or loans.outstanding_amount <> last_positions.outstanding_amount
            or loans.overdue_amount <> last_positions.overdue_amount
            or loans.days_past_due <> last_positions.days_past_due
        )

),

overdue as (

    select
        month,
        currency,
        sum(overdue_amount) as overdue_amount
    from positions
    group by 1, 2

),

other_months as (

    select
        monthly_cash_flow.currency as order_id,
        monthly_cash_flow.month,
        monthly_cash_flow.overdue_amount as expected_amount,
        overdue.overdue_amount as scr_amount
    from monthly_cash_flow
    left join overdue
        on
            monthly_cash_flow.month = overdue.month
            and monthly_cash_flow.currency = overdue.currency
    where monthly_cash_flow.overdue_amount <> coalesce(overdue.overdue_amount, 0)

)

select * from other_loans
union all
select * from other_months
