{{ config(unique_key = 'event_id', partitioned_by = ['year(created_at)']) }}

with

quarantined as (

    select * from {{ ref('quarantine_app__loan_events') }}

),

landed as (

    select
        *,
        {{ version_rank(
            key = ['event_id'],
            order_by = ['_batch_id desc']
        ) }} as version_rank
    from {{ source('app', 'loan_events') }} as raw_rows
    where
        {{ landed_since_last_build() }}
        and {{ not_quarantined('app', 'loan_events') }}

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
