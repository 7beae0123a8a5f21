{{ config(unique_key = ['order_id', 'schedule_version', 'installment_no']) }}

with

landed as (

    select
        *,
        {{ version_rank(
            key = ['order_id', 'schedule_version', 'installment_no'],
            order_by = ['_batch_id desc']
        ) }} as version_rank
    from {{ source('app', 'installments') }}
    where {{ landed_since_last_build() }}

),

installment_status_mapping as (

    select * from {{ ref('installment_status_mapping') }}

),

renamed as (

    select
        ---------- ids
        landed.order_id,
        landed.schedule_version,
        landed.installment_no,

        ---------- instalment
        landed.status,
        coalesce(installment_status_mapping.installment_status, 'unmapped') as status_mapped,
        landed.due_date,
        landed.due_amount,
        landed.principal_due,
        landed.interest_due,

        ---------- times
        {{ ts('landed.updated_at') }} as updated_at,

        ---------- landing
        landed._source_deleted,
        landed._batch_id,
        cast(landed.extract_date as date) as _extract_date
    from landed
    left join installment_status_mapping on landed.status = installment_status_mapping.source_value
    where landed.version_rank = 1

),

final as (

    select renamed.*
    from renamed
    {{ unless_built('renamed', ahead_by = [('_batch_id', '>')]) }}

)

select * from final
