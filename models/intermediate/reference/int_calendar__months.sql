with

bank_transactions as (

    select *
    from {{ ref('int_bank_transactions__daily') }}
    where booked_date <= {{ as_of_date() }}

),

credit_orders as (

    select * from {{ ref('int_credit_orders__dated') }}

),

installments as (

    select * from {{ ref('int_installments__in_force') }}

),

payments as (

    select * from {{ ref('int_loan_payments__net') }}

),

first_days as (

    select min(booked_date) as first_day from bank_transactions
    union all
    select min(requested_date) as first_day from credit_orders
    union all
    select min(disbursed_date) as first_day from credit_orders
    union all
    select min(due_date) as first_day from installments
    union all
    select min(paid_date) as first_day from payments

),

first_month as (

    -- before anything has happened the calendar is the month of as_of_date alone
    select coalesce({{ month_of('min(first_day)') }}, {{ month_of(as_of_date()) }}) as month
    from first_days

),

digits as (

    select n as digit from {{ numbers_from_zero(10) }}

),

numbers as (

    select thousands.digit * 1000 + hundreds.digit * 100 + tens.digit * 10 + ones.digit as n
    from digits as ones
    cross join digits as tens
    cross join digits as hundreds
    cross join digits as thousands

),

months as (

    select cast({{ dbt.dateadd('month', 'numbers.n', 'first_month.month') }} as date) as month
    from first_month
    inner join numbers
        on {{ dbt.datediff('first_month.month', as_of_date(), 'month') }} >= numbers.n

),

final as (

    select
        month,
        {{ month_end('month') }} as month_end,
        -- the day on which balances of the month are measured
        least({{ month_end('month') }}, {{ as_of_date() }}) as measured_on
    from months

)

select * from final
