with

sessions as (

    select * from {{ ref('int_sessions') }}

),

customers as (

    select *
    from {{ ref('stg_app__customers') }}
    where deleted_at is null

),

credit_orders as (

    select * from {{ ref('int_credit_orders__dated') }}

),

months as (

    select * from {{ ref('int_calendar__months') }}

),

visits as (

    select
        customer_id,
        {{ month_of('started_date') }} as month,
        count(*) as sessions,
        sum(page_views) as page_views,
        count(distinct started_date) as active_days,
        sum(case when has_simulation then 1 else 0 end) as sessions_with_simulation,
        sum(case when has_order_started then 1 else 0 end) as sessions_with_order_started,
        sum(case when has_order_submitted then 1 else 0 end) as sessions_with_order_submitted
    from sessions
    group by 1, 2

),

orders as (

    select
        customer_id,
        {{ month_of('requested_date') }} as month,
        count(*) as orders_requested
    from credit_orders
    group by 1, 2

),

-- no row where nobody knows: the log has a beginning
log_months as (

    select min(month) as first_month
    from visits

),

first_visits as (

    select
        customer_id,
        min(month) as first_month
    from visits
    group by 1

),

-- a visit may come before the account
joined_customers as (

    select
        customers.customer_id,
        customers.partner_id,
        least(
            {{ month_of(business_date('customers.created_at')) }},
            coalesce(first_visits.first_month, {{ month_of(business_date('customers.created_at')) }})
        ) as cohort_month
    from customers
    left join first_visits on customers.customer_id = first_visits.customer_id
    where {{ business_date('customers.created_at') }} <= {{ as_of_date() }}

),

spine as (

    select
        joined_customers.customer_id,
        joined_customers.partner_id,
        joined_customers.cohort_month,
        months.month
    from joined_customers
    inner join months on joined_customers.cohort_month <= months.month
    inner join log_months on months.month >= log_months.first_month

),

final as (

    select
        ---------- ids
        spine.customer_id,
        spine.partner_id,
        spine.month,

        ---------- since when
        spine.cohort_month,
        cast({{ dbt.datediff('spine.cohort_month', 'spine.month', 'month') }} as integer) as months_since_joining,

        ---------- visits
        visits.sessions is not null as is_active,
        cast(coalesce(visits.sessions, 0) as bigint) as sessions,
        cast(coalesce(visits.active_days, 0) as bigint) as active_days,
        cast(coalesce(visits.page_views, 0) as bigint) as page_views,

        ---------- from visit to order
        cast(coalesce(visits.sessions_with_simulation, 0) as bigint) as sessions_with_simulation,
        cast(coalesce(visits.sessions_with_order_started, 0) as bigint) as sessions_with_order_started,
        cast(coalesce(visits.sessions_with_order_submitted, 0) as bigint) as sessions_with_order_submitted,
        cast(coalesce(orders.orders_requested, 0) as bigint) as orders_requested
    from spine
    left join visits on spine.customer_id = visits.customer_id and spine.month = visits.month
    left join orders on spine.customer_id = orders.customer_id and spine.month = orders.month

)

select * from final
