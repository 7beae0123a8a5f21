{#
    Orders by month and product, in the columns of `approval_funnel`: each step counts in the month in which it
    happened. `by` are columns of `credit_decisions` that the rows are told apart by besides.
#}
{% macro approval_funnel(by=[]) %}
{%- set keys = ['month', 'product'] + by -%}

with

credit_decisions as (

    select * from {{ ref('credit_decisions') }}

),

requested as (

    select
        {{ month_of('requested_date') }} as month,
        product,
        {%- for column in by %}
        {{ column }},
        {%- endfor %}
        count(*) as orders_requested
    from credit_decisions
    group by {% for key in keys %}{{ loop.index }}{{ ', ' if not loop.last }}{% endfor %}

),

decided as (

    select
        {{ month_of('decided_date') }} as month,
        product,
        {%- for column in by %}
        {{ column }},
        {%- endfor %}
        sum(case when status = 'approved' then 1 else 0 end) as orders_approved,
        sum(case when status = 'rejected' then 1 else 0 end) as orders_rejected,
        -- whole milliseconds: a sum of doubles depends on its order
        sum(cast(round(hours_to_decision * 3600000) as bigint)) as decision_milliseconds,
        sum(case when hours_to_decision <= 24 then 1 else 0 end) as orders_decided_within_a_day
    from credit_decisions
    where status in ('approved', 'rejected')
    group by {% for key in keys %}{{ loop.index }}{{ ', ' if not loop.last }}{% endfor %}

),

disbursed as (

    select
        {{ month_of(business_date('disbursed_at')) }} as month,
        product,
        {%- for column in by %}
        {{ column }},
        {%- endfor %}
        count(*) as orders_disbursed
    from credit_decisions
    where disbursed_at is not null
    group by {% for key in keys %}{{ loop.index }}{{ ', ' if not loop.last }}{% endfor %}

),

steps as (

    {%- for step in ['requested', 'decided', 'disbursed'] %}
    select {{ keys | join(', ') }} from {{ step }}
    {%- if not loop.last %}
    union
    {%- endif %}
    {%- endfor %}

),

final as (

    select
        {%- for key in keys %}
        steps.{{ key }},
        {%- endfor %}
        cast(coalesce(requested.orders_requested, 0) as bigint) as orders_requested,
        cast(coalesce(decided.orders_approved, 0) as bigint) as orders_approved,
        cast(coalesce(decided.orders_rejected, 0) as bigint) as orders_rejected,
        cast(coalesce(disbursed.orders_disbursed, 0) as bigint) as orders_disbursed,
        cast(decided.orders_approved as double)
        / nullif(decided.orders_approved + decided.orders_rejected, 0) as approval_rate,
        cast(decided.decision_milliseconds as double)
        / 3600000 / nullif(decided.orders_approved + decided.orders_rejected, 0) as hours_to_decision,
        cast(decided.orders_decided_within_a_day as double)
        / nullif(decided.orders_approved + decided.orders_rejected, 0) as decided_within_a_day_rate
    from steps
    {%- for step in ['requested', 'decided', 'disbursed'] %}
    left join {{ step }}
        on
            {% for key in keys -%}
            {{ 'and ' if not loop.first }}{{ "steps." ~ key }} = {{ step ~ '.' ~ key }}
            {% endfor %}
    {%- endfor %}

)

select * from final
{% endmacro %}
