{{ config(alias = 'credit_order_status_history', materialized = 'view') }}

with

events as (

    select *
    from {{ ref('stg_app__credit_order_events') }}
    where deleted_at is null

),

final as (

    select
        order_id,
        seq,
        event_type,
        from_status,
        to_status as status,
        actor,
        occurred_at as valid_from,
        lead(occurred_at) over (partition by order_id order by seq) as valid_to,
        _batch_id
    from events

)

select * from final
