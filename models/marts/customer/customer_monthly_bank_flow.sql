with

daily_flows as (

    select *
    from {{ ref('int_bank_transactions__daily') }}
    where booked_date <= {{ as_of_date() }}

),

customers as (

    select *
    from {{ ref('stg_app__customers') }}
    where deleted_at is null

),

months as (

    select * from {{ ref('int_calendar__months') }}

),

monthly as (

    select
        customer_id,
        currency,
        {{ month_of('booked_date') }} as month,
        sum(inflow) as inflow,
        sum(outflow) as outflow,
        sum(net) as net,
        sum(transactions) as transactions
    from daily_flows
    group by 1, 2, 3

),

first_months as (

    select
        customer_id,
        currency,
        min(month) as first_month
    from monthly
    group by 1, 2

),

-- a month without movement has a row too, with the balance carried on
spine as (

    select
        first_months.customer_id,
        first_months.currency,
        months.month
    from first_months
    inner join months on first_months.first_month <= months.month

),

joined as (

    select
        spine.customer_id,
        spine.month,
        spine.currency,
        coalesce(monthly.inflow, 0) as inflow,
        coalesce(monthly.outflow, 0) as outflow,
        coalesce(monthly.net, 0) as net,
        coalesce(monthly.transactions, 0) as transactions,
        sum(coalesce(monthly.net, 0)) over (
            partition by spine.customer_id, spine.currency
            order by spine.month
            rows between unbounded preceding and current row
        ) as closing_balance
    from spine
    left join monthly
        on
            spine.customer_id = monthly.customer_id
            and spine.currency = monthly.currency
            and spine.month = monthly.month

),

final as (

    select
        joined.customer_id,
        customers.partner_id,
        joined.month,
        joined.currency,
        {{ money('joined.inflow') }} as inflow,
        {{ money('joined.outflow') }} as outflow,
        {{ money('joined.net') }} as net,
        {{ money('joined.closing_balance') }} as closing_balance,
        cast(joined.transactions as bigint) as transactions
    from joined
    left join customers on joined.customer_id = customers.customer_id

)

select * from final
