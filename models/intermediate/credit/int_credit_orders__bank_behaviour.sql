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

account_versions as (

    select
        *,
        {{ known_span('account_id') }}
    from {{ ref('stg_app__bank_account_versions') }}

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

-- an account belongs to whom the app knew as its customer at the request
order_accounts as (

    select
        windows.order_id,
        windows.requested_at,
        windows.window_start,
        account_versions.account_id
    from windows
    inner join account_versions
        on
            windows.customer_id = account_versions.customer_id
            and {{ is_known_at('account_versions', 'windows.requested_at') }}
    inner join bank_accounts on account_versions.account_id = bank_accounts.account_id

),

first_arrivals as (

    select
        account_id,
        min(created_at) as first_created_at
    from bank_transactions
    group by 1

),

offsets as (

    select n as months_back from {{ numbers_from_zero(5) }}

),

-- 90 days touch at most five months (those before 1 May begin on 31 January): an equality on the month
-- spares reading an account's whole history
window_months as (

    select
        order_accounts.order_id,
        order_accounts.account_id,
        order_accounts.requested_at,
        order_accounts.window_start,
        cast(
            {{ dbt.dateadd('month', '-offsets.months_back', month_of('order_accounts.requested_at')) }} as date
        ) as booked_month
    from order_accounts
    cross join offsets

),

flows as (

    select
        window_months.order_id,
        bank_transactions.currency,
        sum(case when bank_transactions.amount > 0 then bank_transactions.amount else 0 end) as inflow,
        sum(case when bank_transactions.amount < 0 then -bank_transactions.amount else 0 end) as outflow,
        count(*) as transactions
    from window_months
    inner join bank_transactions
        on
            window_months.account_id = bank_transactions.account_id
            and window_months.booked_month = {{ month_of('bank_transactions.booked_at') }}
    where
        bank_transactions.booked_at > window_months.window_start
        and bank_transactions.booked_at <= window_months.requested_at
        -- booked before the request but arrived after it: nobody could know
        and bank_transactions.created_at <= window_months.requested_at
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
known as (

    select distinct order_accounts.order_id
    from order_accounts
    inner join first_arrivals
        on
            order_accounts.account_id = first_arrivals.account_id
            and order_accounts.requested_at >= first_arrivals.first_created_at

),

final as (

    select
        known.order_id,
        case when sums.order_id is null then {{ money('0') }} else sums.inflow end as bank_inflow_90d,
        case when sums.order_id is null then {{ money('0') }} else sums.outflow end as bank_outflow_90d,
        coalesce(cast(sums.transactions as bigint), 0) as bank_transactions_90d
    from known
    left join sums on known.order_id = sums.order_id

)

select * from final
