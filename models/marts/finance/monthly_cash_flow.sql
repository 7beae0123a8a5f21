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
        count(*) as orders_disbursed,
        sum(disbursed_amount) as disbursed_amount
    from credit_orders
    where disbursed_date is not null
    group by 1, 2

),

due as (

    select
        currency,
        {{ month_of('due_date') }} as month,
        sum(due_amount) as due_amount
    from installments
    where due_date <= {{ ledger_measured_until() }}
    group by 1, 2

),

received as (

    select
        currency,
        {{ month_of('paid_date') }} as month,
        sum(amount) as received_amount
    from payments
    group by 1, 2

),

overdue as (

    select
        currency,
        {{ month_of('changed_on') }} as month,
        sum(overdue_change) as overdue_change
    from overdue_changes
    group by 1, 2

),

movements as (

    select
        currency,
        month
    from disbursed
    union all
    select
        currency,
        month
    from due
    union all
    select
        currency,
        month
    from received

),

first_months as (

    select
        currency,
        min(month) as first_month
    from movements
    group by 1

),

-- a month without movement has a row too
spine as (

    select
        months.month,
        months.measured_on,
        first_months.currency
    from first_months
    inner join months on first_months.first_month <= months.month

),

joined as (

    select
        spine.month,
        spine.measured_on,
        spine.currency,
        coalesce(disbursed.orders_disbursed, 0) as orders_disbursed,
        coalesce(disbursed.disbursed_amount, 0) as disbursed_amount,
        coalesce(due.due_amount, 0) as due_amount,
        coalesce(received.received_amount, 0) as received_amount,
        coalesce(overdue.overdue_change, 0) as overdue_change,
        {{ ledger_is_complete_on('spine.measured_on') }} as is_ledger_complete
    from spine
    left join disbursed on spine.month = disbursed.month and spine.currency = disbursed.currency
    left join due on spine.month = due.month and spine.currency = due.currency
    left join received on spine.month = received.month and spine.currency = received.currency
    left join overdue on spine.month = overdue.month and spine.currency = overdue.currency

),

running as (

    select
        month,
        measured_on,
        currency,
        orders_disbursed,
        disbursed_amount,
        due_amount,
        received_amount,
        is_ledger_complete,
        received_amount - disbursed_amount as net_cash_flow,
        sum(received_amount - disbursed_amount) over (
            partition by currency
            order by month
            rows between unbounded preceding and current row
        ) as cumulative_net_cash_flow,
        sum(overdue_change) over (
            partition by currency
            order by month
            rows between unbounded preceding and current row
        ) as overdue_amount
    from joined

),

rated as (

    select
        running.month,
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
