{#
    Cash that went out and came in by month and currency, in the columns of `monthly_cash_flow`. `by` are columns of an
    order that the rows are told apart by besides.
#}
{% macro monthly_cash_flow(by=[]) %}

with

credit_orders as (

    select * from {{ ref('int_credit_orders__correlated') }}

),

installments as (

    select * from {{ ref('int_installments__in_force') }}

),

payments as (

    select * from {{ ref('int_loan_payments__net') }}

),

overdue_changes as (

    select * from {{ ref('int_installments__overdue_changes') }}

),

months as (

    select * from {{ ref('int_calendar__months') }}

),

fx_rates as (

    select * from {{ ref('int_fx_rates__daily') }}

),

disbursed as (

    select
        currency,
        {{ month_of('disbursed_date') }} as month,
        {%- for column in by %}
        {{ column }},
        {%- endfor %}
        count(*) as orders_disbursed,
        sum(disbursed_amount) as disbursed_amount
    from credit_orders
    where disbursed_date is not null
    group by {{ range(1, by | length + 3) | join(', ') }}

),

due as (

    select
        currency,
        {{ month_of('due_date') }} as month,
        {%- for column in by %}
        {{ column }},
        {%- endfor %}
        sum(due_amount) as due_amount
    from installments
    where due_date <= {{ ledger_measured_until() }}
    group by {{ range(1, by | length + 3) | join(', ') }}

),

received as (

    select
        currency,
        {{ month_of('paid_date') }} as month,
        {%- for column in by %}
        {{ column }},
        {%- endfor %}
        sum(amount) as received_amount
    from payments
    group by {{ range(1, by | length + 3) | join(', ') }}

),

overdue as (

    select
        currency,
        {{ month_of('changed_on') }} as month,
        {%- for column in by %}
        {{ column }},
        {%- endfor %}
        sum(overdue_change) as overdue_change
    from overdue_changes
    group by {{ range(1, by | length + 3) | join(', ') }}

),

movements as (

    {%- for movement in ['disbursed', 'due', 'received'] %}
    select
        currency,
        {%- for column in by %}
        {{ column }},
        {%- endfor %}
        month
    from {{ movement }}
    {%- if not loop.last %}
    union all
    {%- endif %}
    {%- endfor %}

),

first_months as (

    select
        currency,
        {%- for column in by %}
        {{ column }},
        {%- endfor %}
        min(month) as first_month
    from movements
    group by {{ range(1, by | length + 2) | join(', ') }}

),

-- a month without movement has a row too
spine as (

    select
        months.month,
        months.measured_on,
        {%- for column in by %}
        first_months.{{ column }},
        {%- endfor %}
        first_months.currency
    from first_months
    inner join months on first_months.first_month <= months.month

),

joined as (

    select
        spine.month,
        spine.measured_on,
        {%- for column in by %}
        spine.{{ column }},
        {%- endfor %}
        spine.currency,
        coalesce(disbursed.orders_disbursed, 0) as orders_disbursed,
        coalesce(disbursed.disbursed_amount, 0) as disbursed_amount,
        coalesce(due.due_amount, 0) as due_amount,
        coalesce(received.received_amount, 0) as received_amount,
        coalesce(overdue.overdue_change, 0) as overdue_change,
        {{ ledger_is_complete_on('spine.measured_on') }} as is_ledger_complete
    from spine
    left join disbursed
        on
            spine.month = disbursed.month
            and spine.currency = disbursed.currency
            {%- for column in by %}
            and spine.{{ column }} = disbursed.{{ column }}
            {%- endfor %}
    left join due
        on
            spine.month = due.month
            and spine.currency = due.currency
            {%- for column in by %}
            and spine.{{ column }} = due.{{ column }}
            {%- endfor %}
    left join received
        on
            spine.month = received.month
            and spine.currency = received.currency
            {%- for column in by %}
            and spine.{{ column }} = received.{{ column }}
            {%- endfor %}
    left join overdue
        on
            spine.month = overdue.month
            and spine.currency = overdue.currency
            {%- for column in by %}
            and spine.{{ column }} = overdue.{{ column }}
            {%- endfor %}

),

running as (

    select
        month,
        measured_on,
        {%- for column in by %}
        {{ column }},
        {%- endfor %}
        currency,
        orders_disbursed,
        disbursed_amount,
        due_amount,
        received_amount,
        is_ledger_complete,
        received_amount - disbursed_amount as net_cash_flow,
        sum(received_amount - disbursed_amount) over (
            partition by {{ (['currency'] + by) | join(', ') }}
            order by month
            rows between unbounded preceding and current row
        ) as cumulative_net_cash_flow,
        sum(overdue_change) over (
            partition by {{ (['currency'] + by) | join(', ') }}
            order by month
            rows between unbounded preceding and current row
        ) as overdue_amount
    from joined

),

rated as (

    select
        running.month,
        {%- for column in by %}
        running.{{ column }},
        {%- endfor %}
        running.currency,
        running.orders_disbursed,
        running.disbursed_amount,
        running.due_amount,
        running.received_amount,
        running.is_ledger_complete,
        running.net_cash_flow,
        running.cumulative_net_cash_flow,
        running.overdue_amount,
        {{ rate_to_brl('running.currency', 'fx_rates.sell') }} as fx_rate_to_brl
    from running
    left join fx_rates
        on
            running.currency = fx_rates.currency
            and running.measured_on = fx_rates.fx_date

),

final as (

    select
        month,
        {%- for column in by %}
        {{ column }},
        {%- endfor %}
        currency,
        cast(orders_disbursed as bigint) as orders_disbursed,
        {{ money('disbursed_amount') }} as disbursed_amount,
        case when is_ledger_complete then {{ money('due_amount') }} end as due_amount,
        {{ money('received_amount') }} as received_amount,
        {{ money('net_cash_flow') }} as net_cash_flow,
        {{ money('cumulative_net_cash_flow') }} as cumulative_net_cash_flow,
        case when is_ledger_complete then {{ money('overdue_amount') }} end as overdue_amount,
        cast(fx_rate_to_brl as decimal(18, 8)) as fx_rate_to_brl,
        {{ money('cast(net_cash_flow as decimal(38, 2)) * fx_rate_to_brl') }} as net_cash_flow_brl
    from rated

)

select * from final

{% endmacro %}
