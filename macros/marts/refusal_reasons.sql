{#
    Rejected orders by month of decision, product and reason, in the columns of `refusal_reasons`. `by` are columns
    of `credit_decisions` that the rows are told apart by besides.
#}
{% macro refusal_reasons(by=[]) %}
{%- set keys = ['month', 'product'] + by -%}

with

credit_decisions as (

    select * from {{ ref('credit_decisions') }}

),

rejected as (

    select
        order_id,
        {{ month_of('decided_date') }} as month,
        product,
        {%- for column in by %}
        {{ column }},
        {%- endfor %}
        -- an order that no reason was given for is told apart, never left out
        coalesce(reason_codes, 'not_given') as reason_codes
    from credit_decisions
    where status = 'rejected'

),

totals as (

    select
        {{ keys | join(',\n        ') }},
        count(*) as orders_rejected_total
    from rejected
    group by {{ keys | join(', ') }}

),

reasons as (

    select
        rejected.order_id,
        {%- for key in keys %}
        rejected.{{ key }},
        {%- endfor %}
        reason.reason_code,
        rejected.reason_codes = reason.reason_code as is_only_reason
    from rejected
    cross join unnest({{ text_to_list('rejected.reason_codes') }}) as reason (reason_code)

),

counted as (

    select
        {{ keys | join(',\n        ') }},
        reason_code,
        count(distinct order_id) as orders_rejected,
        count(distinct case when is_only_reason then order_id end) as orders_rejected_for_it_alone
    from reasons
    group by {{ keys | join(', ') }}, reason_code

),

final as (

    select
        {%- for key in keys %}
        counted.{{ key }},
        {%- endfor %}
        counted.reason_code,
        cast(counted.orders_rejected as bigint) as orders_rejected,
        cast(counted.orders_rejected_for_it_alone as bigint) as orders_rejected_for_it_alone,
        cast(totals.orders_rejected_total as bigint) as orders_rejected_total,
        cast(counted.orders_rejected as double) / totals.orders_rejected_total as rejected_share
    from counted
    inner join totals
        on
            {% for key in keys -%}
            {{ 'and ' if not loop.first }}{{ 'counted.' ~ key }} = {{ 'totals.' ~ key }}
            {% endfor %}

)

select * from final
{% endmacro %}
