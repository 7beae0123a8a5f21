{#- Days and amounts counted back from as_of_date include it: 90 days are as_of_date and the 89 before. -#}
{%- set book = "'" ~ book_currency() ~ "'" %}

with

customers as (

    select *
    from {{ ref('stg_app__customers') }}
    where deleted_at is null

),

credit_orders as (

    select * from {{ ref('int_credit_orders__correlated') }}

),

bank_flows as (

    select *
    from {{ ref('int_bank_transactions__daily') }}
    where booked_date <= {{ as_of_date() }}

),

bureau_scores as (

    select *
    from {{ ref('stg_bureau__scores') }}
    where deleted_at is null

),

events as (

    select *
    from {{ ref('stg_app_log__events') }}
    where deleted_at is null

),

fx_rates as (

    select * from {{ ref('int_fx_rates__daily') }}

),

rates as (

    {{ rates_into_book('fx_rates') }}

),

---------- orders

orders_by_currency as (

    select
        customer_id,
        currency,
        count(*) as orders_total,
        sum(case when status = 'approved' then 1 else 0 end) as orders_approved,
        sum(case when status = 'rejected' then 1 else 0 end) as orders_rejected,
        sum(case when status = 'in_review' then 1 else 0 end) as orders_in_review,
        sum(case when disbursed_date is not null then 1 else 0 end) as loans_total,
        sum(case when repayment_outcome in ('current', 'late') then 1 else 0 end) as loans_open,
        sum(case when repayment_outcome = 'late' then 1 else 0 end) as loans_late,
        sum(case when repayment_outcome = 'defaulted' then 1 else 0 end) as loans_defaulted,
        sum(requested_amount) as requested_amount,
        sum(case when status = 'approved' then approved_amount else 0 end) as approved_amount,
        -- a loan whose balance is unknown makes the customer's unknown
        case
            when
                sum(case when disbursed_date is not null and outstanding_amount is null then 1 else 0 end) = 0
                then coalesce(sum(outstanding_amount), 0)
        end as outstanding_amount,
        max(days_past_due) as days_past_due
    from credit_orders
    group by 1, 2

),

orders_converted as (

    select
        orders_by_currency.customer_id,
        orders_by_currency.orders_total,
        orders_by_currency.orders_approved,
        orders_by_currency.orders_rejected,
        orders_by_currency.orders_in_review,
        orders_by_currency.loans_total,
        orders_by_currency.loans_open,
        orders_by_currency.loans_late,
        orders_by_currency.loans_defaulted,
        orders_by_currency.days_past_due,
        {{ convert_into_book('orders_by_currency.requested_amount', 'orders_by_currency.currency', 'rates') }}
            as requested_amount,
        {{ convert_into_book('orders_by_currency.approved_amount', 'orders_by_currency.currency', 'rates') }}
            as approved_amount,
        {{ convert_into_book('orders_by_currency.outstanding_amount', 'orders_by_currency.currency', 'rates') }}
            as outstanding_amount
    from orders_by_currency
    left join rates on orders_by_currency.currency = rates.currency

),

orders as (

    select
        customer_id,
        sum(orders_total) as orders_total,
        sum(orders_approved) as orders_approved,
        sum(orders_rejected) as orders_rejected,
        sum(orders_in_review) as orders_in_review,
        sum(loans_total) as loans_total,
        sum(loans_open) as loans_open,
        sum(loans_late) as loans_late,
        sum(loans_defaulted) as loans_defaulted,
        max(days_past_due) as days_past_due_max,
        {{ sum_unless_missing('requested_amount') }} as requested_amount_total,
        {{ sum_unless_missing('approved_amount') }} as approved_amount_total,
        {{ sum_unless_missing('outstanding_amount') }} as outstanding_amount
    from orders_converted
    group by 1

),

---------- bank

bank_by_currency as (

    select
        customer_id,
        currency,
        sum(net) as balance,
        sum(
            case when booked_date > {{ add_days(as_of_date(), -90) }} then inflow else 0 end
        ) as inflow_90d,
        sum(
            case when booked_date > {{ add_days(as_of_date(), -90) }} then outflow else 0 end
        ) as outflow_90d
    from bank_flows
    group by 1, 2

),

bank_converted as (

    select
        bank_by_currency.customer_id,
        {{ convert_into_book('bank_by_currency.balance', 'bank_by_currency.currency', 'rates') }} as balance,
        {{ convert_into_book('bank_by_currency.inflow_90d', 'bank_by_currency.currency', 'rates') }} as inflow_90d,
        {{ convert_into_book('bank_by_currency.outflow_90d', 'bank_by_currency.currency', 'rates') }} as outflow_90d
    from bank_by_currency
    left join rates on bank_by_currency.currency = rates.currency

),

bank as (

    select
        customer_id,
        {{ sum_unless_missing('balance') }} as bank_balance_latest,
        {{ sum_unless_missing('inflow_90d') }} as bank_inflow_90d,
        {{ sum_unless_missing('outflow_90d') }} as bank_outflow_90d
    from bank_converted
    group by 1

),

---------- bureau

ranked_scores as (

    select
        cpf,
        score,
        queried_at,
        row_number() over (partition by cpf order by queried_at desc) as recency
    from bureau_scores
    where {{ business_date('queried_at') }} <= {{ as_of_date() }}

),

latest_scores as (

    select
        customers.customer_id,
        ranked_scores.score,
        ranked_scores.queried_at
    from ranked_scores
    inner join customers on ranked_scores.cpf = customers.cpf
    where ranked_scores.recency = 1

),

---------- activity

own_events as (

    select
        customer_id,
        session_id,
        occurred_at,
        {{ business_date('occurred_at') }} as occurred_date
    from events
    where actor = 'customer'

),

activity as (

    select
        customer_id,
        count(distinct case when occurred_date > {{ add_days(as_of_date(), -30) }} then session_id end)
            as sessions_30d,
        max(occurred_at) as last_seen_at
    from own_events
    where occurred_date <= {{ as_of_date() }}
    group by 1

),

---------- customers

aged as (

    select
        customer_id,
        partner_id,
        state,
        {{ business_date('created_at') }} as customer_since,
        {{ full_years_between('birth_date', as_of_date()) }} as age
    from customers

),

joined as (

    select
        aged.customer_id,
        aged.partner_id,
        aged.customer_since,
        aged.state,
        aged.age,
        coalesce(orders.orders_total, 0) as orders_total,
        coalesce(orders.orders_approved, 0) as orders_approved,
        coalesce(orders.orders_rejected, 0) as orders_rejected,
        coalesce(orders.orders_in_review, 0) as orders_in_review,
        coalesce(orders.loans_total, 0) as loans_total,
        coalesce(orders.loans_open, 0) as loans_open,
        coalesce(orders.loans_late, 0) as loans_late,
        coalesce(orders.loans_defaulted, 0) as loans_defaulted,
        case when orders.customer_id is null then 0 else orders.requested_amount_total end as requested_amount_total,
        case when orders.customer_id is null then 0 else orders.approved_amount_total end as approved_amount_total,
        case when orders.customer_id is null then 0 else orders.outstanding_amount end as outstanding_amount,
        case when coalesce(orders.loans_total, 0) = 0 then 0 else orders.days_past_due_max end as days_past_due_max,
        latest_scores.score as bureau_score_latest,
        latest_scores.queried_at as bureau_score_as_of,
        bank.bank_balance_latest,
        bank.bank_inflow_90d,
        bank.bank_outflow_90d,
        coalesce(activity.sessions_30d, 0) as sessions_30d,
        activity.last_seen_at
    from aged
    left join orders on aged.customer_id = orders.customer_id
    left join bank on aged.customer_id = bank.customer_id
    left join latest_scores on aged.customer_id = latest_scores.customer_id
    left join activity on aged.customer_id = activity.customer_id
    where aged.customer_since <= {{ as_of_date() }}

),

final as (

    select
        ---------- who
        customer_id,
        partner_id,
        customer_since,
        state,
        case
            when age is null then 'unknown'
            when age < 18 then 'under 18'
            when age < 25 then '18-24'
            when age < 35 then '25-34'
            when age < 45 then '35-44'
            when age < 55 then '45-54'
            when age < 65 then '55-64'
            else '65+'
        end as age_band,
        case
            when loans_defaulted > 0 then 'defaulted'
            when loans_late > 0 then 'late'
            when loans_open > 0 then 'borrower'
            when orders_in_review > 0 then 'applicant'
            when loans_total > 0 then 'repaid'
            when orders_approved > 0 then 'approved'
            when orders_total > 0 then 'declined'
            else 'prospect'
        end as segment,

        ---------- orders
        cast(orders_total as bigint) as orders_total,
        cast(orders_approved as bigint) as orders_approved,
        cast(orders_rejected as bigint) as orders_rejected,
        cast(orders_in_review as bigint) as orders_in_review,
        {{ money('requested_amount_total') }} as requested_amount_total,
        {{ money('approved_amount_total') }} as approved_amount_total,

        ---------- credit
        {{ money('outstanding_amount') }} as outstanding_amount,
        cast(days_past_due_max as integer) as days_past_due_max,
        cast(bureau_score_latest as integer) as bureau_score_latest,
        bureau_score_as_of,

        ---------- bank
        {{ money('bank_balance_latest') }} as bank_balance_latest,
        {{ money('bank_inflow_90d') }} as bank_inflow_90d,
        {{ money('bank_outflow_90d') }} as bank_outflow_90d,

        ---------- activity
        cast(sessions_30d as bigint) as sessions_30d,
        last_seen_at,

        ---------- basis of the amounts and days
        cast({{ book }} as varchar) as book_currency,
        {{ as_of_date() }} as as_of_date
    from joined

)

select * from final
