with

events as (

    select *
    from {{ ref('stg_app_log__events') }}
    where deleted_at is null

),

-- a session is the customer's own; staff and the system are not visitors
own_events as (

    select
        customer_id,
        session_id,
        event_type_mapped,
        occurred_at
    from events
    where
        actor = 'customer'
        and session_id is not null

),

sessions as (

    select
        customer_id,
        session_id,
        min(occurred_at) as started_at,
        max(occurred_at) as ended_at,
        count(*) as events,
        sum(case when event_type_mapped = 'page_view' then 1 else 0 end) as page_views,
        max(case when event_type_mapped = 'simulation' then 1 else 0 end) as simulations,
        max(case when event_type_mapped = 'order_started' then 1 else 0 end) as orders_started,
        max(case when event_type_mapped = 'order_submitted' then 1 else 0 end) as orders_submitted
    from own_events
    group by 1, 2

),

dated as (

    select
        customer_id,
        session_id,
        started_at,
        {{ business_date('started_at') }} as started_date,
        ended_at,
        cast(events as bigint) as events,
        cast(page_views as bigint) as page_views,
        orders_submitted = 1 as has_order_submitted,
        -- who went further was there too: a step whose event got lost still counts
        orders_submitted = 1 or orders_started = 1 as has_order_started,
        orders_submitted = 1 or orders_started = 1 or simulations = 1 as has_simulation
    from sessions

),

final as (

    select
        customer_id,
        session_id,
        started_at,
        started_date,
        ended_at,
        events,
        page_views,
        has_simulation,
        has_order_started,
        has_order_submitted
    from dated
    where started_date <= {{ as_of_date() }}

)

select * from final
