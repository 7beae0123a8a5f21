{#
    Loans by month of disbursement and age, in the columns of `loan_vintages`. `by` are columns of
    `scr_monthly_position` that the rows are told apart by besides.
#}
{% macro vintages(by=[]) %}
{%- set keys = ['vintage_month', 'months_on_book', 'currency'] + by -%}

with

positions as (

    select * from {{ ref('scr_monthly_position') }}

),

aged as (

    select
        {{ month_of('disbursed_date') }} as vintage_month,
        months_on_book,
        currency,
        {%- for column in by %}
        {{ column }},
        {%- endfor %}
        disbursed_amount,
        outstanding_amount,
        days_past_due,
        is_defaulted
    from positions

),

summed as (

    select
        {{ keys | join(',\n        ') }},
        count(*) as loans,
        sum(disbursed_amount) as disbursed_amount,
        sum(outstanding_amount) as outstanding_amount,
        sum(case when days_past_due > 30 then 1 else 0 end) as loans_late_30,
        sum(case when days_past_due > 60 then 1 else 0 end) as loans_late_60,
        sum(case when days_past_due > 90 then 1 else 0 end) as loans_late_90,
        sum(case when days_past_due > 30 then outstanding_amount else 0 end) as outstanding_late_30_amount,
        sum(case when days_past_due > 60 then outstanding_amount else 0 end) as outstanding_late_60_amount,
        sum(case when days_past_due > 90 then outstanding_amount else 0 end) as outstanding_late_90_amount,
        sum(case when is_defaulted then 1 else 0 end) as loans_defaulted,
        sum(case when is_defaulted then outstanding_amount else 0 end) as loss_amount
    from aged
    group by {{ keys | join(', ') }}

),

final as (

    select
        {{ keys | join(',\n        ') }},
        cast(loans as bigint) as loans,
        {{ money('disbursed_amount') }} as disbursed_amount,
        {{ money('outstanding_amount') }} as outstanding_amount,
        cast(loans_late_30 as bigint) as loans_late_30,
        cast(loans_late_60 as bigint) as loans_late_60,
        cast(loans_late_90 as bigint) as loans_late_90,
        {{ money('outstanding_late_30_amount') }} as outstanding_late_30_amount,
        {{ money('outstanding_late_60_amount') }} as outstanding_late_60_amount,
        {{ money('outstanding_late_90_amount') }} as outstanding_late_90_amount,
        cast(loans_defaulted as bigint) as loans_defaulted,
        {{ money('loss_amount') }} as loss_amount,
        cast(loans_defaulted as double) / loans as default_rate,
        cast(loss_amount as double) / nullif(cast(disbursed_amount as double), 0) as loss_rate
    from summed

)

select * from final
{% endmacro %}
