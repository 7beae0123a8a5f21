with

customers as (

    select * from {{ ref('customer_360') }}

),

credit_orders as (

    select * from {{ ref('int_credit_orders__dated') }}

),

consents as (

    select *
    from {{ ref('stg_app__consents') }}
    where deleted_at is null

),

bands as (

    select * from {{ ref('segment_bands') }}

),

rules as (

    select * from {{ ref('segment_rules') }}

),

fx_rates as (

    select * from {{ ref('int_fx_rates__daily') }}

),

rates as (

    {{ rates_into_book('fx_rates') }}

),

---------- recency, frequency, amount

orders_by_currency as (

    select
        customer_id,
        currency,
        count(*) as orders,
        max(requested_date) as last_requested_date,
        coalesce(sum(disbursed_amount), 0) as amount
    from credit_orders
    group by 1, 2

),

orders_converted as (

    select
        orders_by_currency.customer_id,
        orders_by_currency.orders,
        orders_by_currency.last_requested_date,
        {{ convert_into_book('orders_by_currency.amount', 'orders_by_currency.currency', 'rates') }} as amount
    from orders_by_currency
    left join rates on orders_by_currency.currency = rates.currency

),

orders as (

    select
        customer_id,
        sum(orders) as orders,
        max(last_requested_date) as last_requested_date,
        {{ sum_unless_missing('amount') }} as amount
    from orders_converted
    group by 1

),

contactable as (

    select distinct customer_id
    from consents
    where
        scope = 'marketing'
        and {{ business_date('granted_at') }} <= {{ as_of_date() }}
        and (revoked_at is null or {{ business_date('revoked_at') }} > {{ as_of_date() }})
        and (expires_at is null or {{ business_date('expires_at') }} > {{ as_of_date() }})

),

measured as (

    select
        customers.customer_id,
        customers.partner_id,
        customers.book_currency,
        customers.as_of_date,
        customers.segment as credit_status,
        customers.bureau_score_latest,
        orders.customer_id is not null as has_applied,
        {{ days_between('orders.last_requested_date', 'customers.as_of_date') }} as recency_days,
        coalesce(orders.orders, 0) as orders_total,
        case when orders.customer_id is null then 0 else orders.amount end as disbursed_amount_total,
        contactable.customer_id is not null as has_marketing_consent
    from customers
    left join orders on customers.customer_id = orders.customer_id
    left join contactable on customers.customer_id = contactable.customer_id

),

---------- scores

scored as (

    select
        measured.customer_id,
        measured.partner_id,
        measured.book_currency,
        measured.as_of_date,
        measured.credit_status,
        measured.recency_days,
        measured.orders_total,
        measured.disbursed_amount_total,
        measured.has_marketing_consent,
        case when measured.has_applied then recency.score else 0 end as recency_score,
        case when measured.has_applied then frequency.score else 0 end as frequency_score,
        case when measured.has_applied then amount.score else 0 end as amount_score,
        risk.score as risk_score_band
    from measured
    left join bands as recency
        on
            recency.measure = 'recency'
            and {{ is_in_band('measured.recency_days', 'recency') }}
    left join bands as frequency
        on
            frequency.measure = 'frequency'
            and {{ is_in_band('measured.orders_total', 'frequency') }}
    left join bands as amount
        on
            amount.measure = 'amount'
            and coalesce(amount.currency, measured.book_currency) = measured.book_currency
            and {{ is_in_band('measured.disbursed_amount_total', 'amount') }}
    left join bands as risk
        on
            risk.measure = 'bureau_score'
            and {{ is_in_band('measured.bureau_score_latest', 'risk') }}

),

matched as (

    select
        scored.customer_id,
        min(rules.priority) as priority
    from scored
    inner join rules
        on
            scored.recency_score between rules.recency_from and rules.recency_to
            and scored.frequency_score between rules.frequency_from and rules.frequency_to
            -- an amount that cannot be converted opens no door
            and coalesce(scored.amount_score, 1) between rules.amount_from and rules.amount_to
    group by 1

),

final as (

    select
        ---------- ids
        scored.customer_id,
        scored.partner_id,

        ---------- segments
        rules.segment,
        case
            when scored.credit_status in ('defaulted', 'late') then scored.credit_status
            when scored.risk_score_band = 1 then 'high'
            when scored.risk_score_band = 2 then 'medium'
            when scored.risk_score_band = 3 then 'low'
            else 'unknown'
        end as risk_segment,
        scored.has_marketing_consent,

        ---------- what they rest on
        scored.recency_days,
        cast(scored.orders_total as bigint) as orders_total,
        {{ money('scored.disbursed_amount_total') }} as disbursed_amount_total,
        cast(scored.recency_score as integer) as recency_score,
        cast(scored.frequency_score as integer) as frequency_score,
        cast(scored.amount_score as integer) as amount_score,

        ---------- basis
        scored.book_currency,
        scored.as_of_date
    from scored
    left join matched on scored.customer_id = matched.customer_id
    left join rules on matched.priority = rules.priority

)

select * from final
