{{ config(unique_key = ['order_id', 'seq']) }}

with

landed as (

    select
        *,
        {{ version_rank(
            key = ['order_id', 'seq'],
            order_by = ['_batch_id desc']
        ) }} as version_rank
    from {{ source('app', 'credit_order_events') }}
    where {{ landed_since_last_build() }}

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
        _source_deleted,
        _batch_id,
        cast(extract_date as date) as _extract_date
    from landed
    where version_rank = 1

),

final as (

    select renamed.*
    from renamed
    {{ unless_built('renamed', ahead_by = [('_batch_id', '>')]) }}

)

select * from final
