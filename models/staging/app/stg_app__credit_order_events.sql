{{ config(unique_key = ['order_id', 'seq'], partitioned_by = ['year(occurred_at)']) }}

with

quarantined as (

    select * from {{ ref('quarantine_app__credit_order_events') }}

),

landed as (

    select
        *,
        {{ version_rank(
            key = ['order_id', 'seq'],
            order_by = ['_batch_id desc']
        ) }} as version_rank
    from {{ source('app', 'credit_order_events') }} as raw_rows
    where
        {{ landed_since_last_build() }}
        and {{ not_quarantined('app', 'credit_order_events') }}

),

renamed as (

    select
        ---------- ids
        order_id,
        seq,

        ---------- transition
        event_type,
        from_status,
        to_status,
        actor,
        payload,

        ---------- times
        {{ ts('occurred_at') }} as occurred_at,

        ---------- landing
        {{ landing_columns() }}
    from landed
    where version_rank = 1

),

newest_quarantined as (

    {{ newest_quarantined() }}

),

final as (

    {{ ahead_of_built(ahead_by = [('_batch_id', '>')]) }}

)

select * from final
