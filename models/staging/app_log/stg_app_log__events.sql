{{ config(unique_key = 'event_id', partitioned_by = ['year(occurred_at)']) }}

with

quarantined as (

    select * from {{ ref('quarantine_app_log__events') }}

),

landed as (

    select
        *,
        {{ version_rank(
            key = ['event_id'],
            order_by = [ts('received_at'), '_source_file', '_source_line']
        ) }} as version_rank
    from {{ source('app_log', 'events') }} as raw_rows
    where
        {{ landed_since_last_build() }}
        and {{ not_quarantined('app_log', 'events') }}

),

event_type_mapping as (

    select * from {{ ref('event_type_mapping') }}

),

renamed as (

    select
        ---------- ids
        landed.event_id,
        landed.customer_id,
        landed.session_id,

        ---------- event
        landed.actor,
        landed.event_type,
        coalesce(event_type_mapping.event_type, 'unmapped') as event_type_mapped,
        landed.properties,

        ---------- times
        {{ ts('landed.occurred_at') }} as occurred_at,
        {{ ts('landed.received_at') }} as received_at,

        ---------- where it came from
        landed._source_file,
        landed._source_line,

        ---------- landing
        {{ landing_columns() }}
    from landed
    left join event_type_mapping on landed.event_type = event_type_mapping.source_value
    where landed.version_rank = 1

),

newest_quarantined as (

    {{ newest_quarantined() }}

),

final as (

    {{ ahead_of_built(ahead_by = [('received_at', '<'), ('_source_file', '<'), ('_source_line', '<')]) }}

)

select * from final
