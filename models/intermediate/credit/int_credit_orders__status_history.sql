{{ config(
    alias = 'credit_order_status_history',
    materialized = 'incremental',
    incremental_strategy = 'merge',
    unique_key = ['order_id', 'seq']
) }}

with

events as (

    select *
    from {{ ref('stg_app__credit_order_events') }}
    where deleted_at is null

),

-- A new event ends the state before it: an order that got one is built again, whole. Read past the import: DuckDB keeps
-- a CTE that is read twice as a copy of the whole table.
touched as (

    select distinct order_id
    from {{ ref('stg_app__credit_order_events') }}
    where
        deleted_at is null
        and {{ changed_since_last_build() }}

),

final as (

    select
        events.order_id,
        events.seq,
        events.event_type,
        events.from_status,
        events.to_status as status,
        events.actor,
        events.occurred_at as valid_from,
        lead(events.occurred_at) over (partition by events.order_id order by events.seq) as valid_to,
        events._batch_id
    from events
    inner join touched on events.order_id = touched.order_id

)

select * from final
