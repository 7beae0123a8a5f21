{#
    Visits by month, in the columns of `engagement_monthly`. `by` are columns of `customer_engagement_monthly` that the
    rows are told apart by besides.
#}
{% macro engagement(by=[]) %}
{%- set keys = ['month'] + by -%}

with

customer_months as (

    select * from {{ ref('customer_engagement_monthly') }}

),

summed as (

    select
        {{ keys | join(',\n        ') }},
        count(*) as customers,
        sum(case when is_active then 1 else 0 end) as customers_active,
        sum(sessions) as sessions,
        sum(page_views) as page_views,
        sum(sessions_with_simulation) as sessions_with_simulation,
        sum(sessions_with_order_started) as sessions_with_order_started,
        sum(sessions_with_order_submitted) as sessions_with_order_submitted,
        sum(orders_requested) as orders_requested
    from customer_months
    group by {{ keys | join(', ') }}

),

final as (

    select
        {{ keys | join(',\n        ') }},
        cast(customers as bigint) as customers,
        cast(customers_active as bigint) as customers_active,
        cast(sessions as bigint) as sessions,
        cast(page_views as bigint) as page_views,
        cast(sessions_with_simulation as bigint) as sessions_with_simulation,
        cast(sessions_with_order_started as bigint) as sessions_with_order_started,
        cast(sessions_with_order_submitted as bigint) as sessions_with_order_submitted,
        cast(orders_requested as bigint) as orders_requested,
        cast(customers_active as double) / customers as active_rate,
        cast(sessions_with_order_submitted as double) / nullif(sessions, 0) as visit_to_order_rate
    from summed

)

select * from final
{% endmacro %}


{#
    Who comes back, in the columns of `engagement_cohorts`: customers by the month they joined in and their age. `by` as
    above.
#}
{% macro engagement_cohorts(by=[]) %}
{%- set keys = ['cohort_month', 'months_since_joining'] + by -%}

with

customer_months as (

    select * from {{ ref('customer_engagement_monthly') }}

),

summed as (

    select
        {{ keys | join(',\n        ') }},
        month,
        count(*) as customers,
        sum(case when is_active then 1 else 0 end) as customers_active,
        sum(case when orders_requested > 0 then 1 else 0 end) as customers_with_order
    from customer_months
    group by {{ keys | join(', ') }}, month

),

final as (

    select
        {{ keys | join(',\n        ') }},
        month,
        cast(customers as bigint) as customers,
        cast(customers_active as bigint) as customers_active,
        cast(customers_with_order as bigint) as customers_with_order,
        cast(customers_active as double) / customers as return_rate
    from summed

)

select * from final
{% endmacro %}
