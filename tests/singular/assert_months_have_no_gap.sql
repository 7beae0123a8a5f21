-- From its first month to that of as_of_date, a series has every month once.
with

monthly_cash_flow as (

    select * from {{ ref('monthly_cash_flow') }}

),

customer_monthly_bank_flow as (

    select * from {{ ref('customer_monthly_bank_flow') }}

),

series as (

    select
        'monthly_cash_flow' as mart,
        currency as series_key,
        month
    from monthly_cash_flow
    union all
    select
        'customer_monthly_bank_flow' as mart,
        cast(customer_id as varchar) || ' ' || currency as series_key,
        month
    from customer_monthly_bank_flow

),

lengths as (

    select
        mart,
        series_key,
        count(*) as months,
        {{ dbt.datediff('min(month)', as_of_date(), 'month') }} + 1 as months_expected
    from series
    group by 1, 2

)

select *
from lengths
where months <> months_expected
