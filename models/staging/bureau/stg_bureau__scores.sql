{{ config(unique_key = ['cpf', 'queried_at'], partitioned_by = ['year(queried_at)']) }}

with

quarantined as (

    select * from {{ ref('quarantine_bureau__scores') }}

),

landed as (

    select
        *,
        {{ version_rank(
            key = [digits('cpf'), ts('queried_at')],
            order_by = ['_batch_id desc']
        ) }} as version_rank
    from {{ source('bureau', 'scores') }} as raw_rows
    where
        {{ landed_since_last_build() }}
        and {{ not_quarantined('bureau', 'scores') }}

),

renamed as (

    select
        ---------- ids
        {{ digits('cpf') }} as cpf,
        {{ ts('queried_at') }} as queried_at,

        ---------- score
        score,
        score_version,
        negative_records,

        ---------- amounts
        total_debt,

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
