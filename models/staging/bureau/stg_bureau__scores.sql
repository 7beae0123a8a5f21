{{ config(unique_key = ['cpf', 'queried_at']) }}

with

landed as (

    select
        *,
        {{ version_rank(
            key = [digits('cpf'), ts('queried_at')],
            order_by = ['_batch_id desc']
        ) }} as version_rank
    from {{ source('bureau', 'scores') }}
    where {{ landed_since_last_build() }}

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
