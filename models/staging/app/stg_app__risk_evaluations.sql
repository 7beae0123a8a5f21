{{ config(unique_key = 'evaluation_id', partitioned_by = ['year(created_at)']) }}

with

quarantined as (

    select * from {{ ref('quarantine_app__risk_evaluations') }}

),

landed as (

    select
        *,
        {{ version_rank(
            key = ['evaluation_id'],
            order_by = ['_batch_id desc']
        ) }} as version_rank
    from {{ source('app', 'risk_evaluations') }} as raw_rows
    where
        {{ landed_since_last_build() }}
        and {{ not_quarantined('app', 'risk_evaluations') }}

),

reason_code_mapping as (

    select * from {{ ref('reason_code_mapping') }}

),

reasons as (

    select
        landed.evaluation_id,
        reason.reason_code,
        reason.position
    from landed
    cross join unnest(landed.reason_codes) with ordinality as reason (reason_code, position)
    where landed.version_rank = 1

),

mapped_reasons as (

    select
        reasons.evaluation_id,
        array_agg(
            coalesce(reason_code_mapping.reason_code, 'unmapped') order by reasons.position
        ) as reason_codes_mapped
    from reasons
    left join reason_code_mapping on reasons.reason_code = reason_code_mapping.source_value
    group by 1

),

renamed as (

    select
        ---------- ids
        landed.evaluation_id,
        landed.order_id,

        ---------- evaluation
        landed.provider,
        landed.model_version,
        landed.score,
        landed.decision,
        landed.reason_codes,
        -- an evaluation without reasons has an empty list in both columns
        coalesce(mapped_reasons.reason_codes_mapped, landed.reason_codes) as reason_codes_mapped,
        landed.latency_ms,
        landed.raw_response,

        ---------- times
        {{ ts('landed.evaluated_at') }} as evaluated_at,
        {{ ts('landed.created_at') }} as created_at,

        ---------- landing
        {{ landing_columns() }}
    from landed
    left join mapped_reasons on landed.evaluation_id = mapped_reasons.evaluation_id
    where landed.version_rank = 1

),

newest_quarantined as (

    {{ newest_quarantined() }}

),

final as (

    {{ ahead_of_built(ahead_by = [('_batch_id', '>')]) }}

)

select * from final
