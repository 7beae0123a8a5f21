{{ config(unique_key = 'event_id') }}

with

landed as (

    select
        *,
        {{ version_rank(
            key = ['event_id'],
            order_by = ['_batch_id desc']
        ) }} as version_rank
    from {{ source('app', 'loan_events') }}
    where {{ landed_since_last_build() }}

),

renamed as (

    select
        ---------- ids
        event_id,
        order_id,
        related_order_id,

        ---------- event
        kind,
        amount,

        ---------- times
        {{ ts('occurred_at') }} as occurred_at,
        {{ ts('created_at') }} as created_at,

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
