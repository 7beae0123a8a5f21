with

credit_orders as (

    select * from {{ ref('int_credit_orders__dated') }}

),

bank_transactions as (

    select *
    from {{ ref('stg_app__bank_transactions') }}
    where deleted_at is null

),

bank_accounts as (

    select *
    from {{ ref('stg_app__bank_accounts') }}
    where deleted_at is null

),

fx_rates as (

    select * from {{ ref('int_fx_rates__daily') }}

),

windows as (

    select
        order_id,
        customer_id,
        currency,
        requested_at,
        requested_date,
        {{ dbt.dateadd('day', -90, 'requested_at') }} as window_start
    from credit_orders

),

transactions as (

    select
        bank_accounts.customer_id,
        bank_transactions.currency,
        bank_transactions.amount,
        bank_transactions.booked_at,
        bank_transactions.created_at
    from bank_transactions
    inner join bank_accounts on bank_transactions.account_id = bank_accounts.account_id

),

first_arrivals as (

    select
        customer_id,
        min(created_at) as first_created_at
    from transactions
    group by 1

),

offsets as (

    select n as months_back from {{ numbers_from_zero(5) }}

),

-- 90 days touch at most five months (those before 1 May begin on 31 January): an equality on the month
-- spares reading a customer's whole history
window_months as (

    select
        windows.order_id,
        windows.customer_id,
        windows.requested_at,
        windows.window_start,
        cast(
            {{ dbt.dateadd('month', '-offsets.months_back', month_of('windows.requested_at')) }} as date
        ) as booked_month
    from windows
    cross join offsets

),

flows as (

    select
        window_months.order_id,
        transactions.currency,
        sum(case when transactions.amount > 0 then transactions.amount else 0 end) as inflow,
        sum(case when transactions.amount < 0 then -transactions.amount else 0 end) as outflow,
        count(*) as transactions
    from window_months
    inner join transactions
        on
            window_months.customer_id = transactions.customer_id
            and window_months.booked_month = {{ month_of('transactions.booked_at') }}
    where
        transactions.booked_at > window_months.window_start
        and transactions.booked_at <= window_months.requested_at
        -- booked before the request but arrived after it: nobody could know
        and transactions.created_at <= window_months.requested_at
    group by 1, 2

),

rates as (

    select
        flows.order_id,
        flows.currency,
        flows.inflow,
        flows.outflow,
        flows.transactions,
        windows.currency as order_currency,
        {{ rate_to_brl('flows.currency', rate_known_at('flow_rates', 'windows.requested_at')) }} as flow_rate,
        {{ rate_to_brl('windows.currency', rate_known_at('order_rates', 'windows.requested_at')) }} as order_rate
    from flows
    inner join windows on flows.order_id = windows.order_id
    left join fx_rates as flow_rates
        on
            flows.currency = flow_rates.currency
            and windows.requested_date = flow_rates.fx_date
    left join fx_rates as order_rates
        on
            windows.currency = order_rates.currency
            and windows.requested_date = order_rates.fx_date

),

converted as (

    select
        order_id,
        transactions,
        {{ convert_money('inflow', 'currency', 'flow_rate', 'order_currency', 'order_rate') }} as inflow,
        {{ convert_money('outflow', 'currency', 'flow_rate', 'order_currency', 'order_rate') }} as outflow
    from rates

),

sums as (

    select
        order_id,
        sum(transactions) as transactions,
        {{ sum_unless_missing('inflow') }} as inflow,
        {{ sum_unless_missing('outflow') }} as outflow
    from converted
    group by 1

),

-- nothing ever arrived by the request: unknown. Something did, but nothing in these 90 days: zero.
final as (

    select
        windows.order_id,
        case when sums.order_id is null then {{ money('0') }} else sums.inflow end as bank_inflow_90d,
        case when sums.order_id is null then {{ money('0') }} else sums.outflow end as bank_outflow_90d,
        coalesce(cast(sums.transactions as bigint), 0) as bank_transactions_90d
    from windows
    inner join first_arrivals
        on
            windows.customer_id = first_arrivals.customer_id
            and windows.requested_at >= first_arrivals.first_created_at
    left join sums on windows.order_id = sums.order_id

)

select * from final
