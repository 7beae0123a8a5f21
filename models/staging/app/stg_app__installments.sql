{{ config(unique_key = ['order_id', 'schedule_version', 'installment_no'], partitioned_by = ['year(due_date)']) }}

with

quarantined as (

    select * from {{ ref('quarantine_app__installments') }}

),

landed as (

    select
        *,
        {{ version_rank(
            key = ['order_id', 'schedule_version', 'installment_no'],
            order_by = ['_batch_id desc']
        ) }} as version_rank
    from {{ source('app', 'installments') }} as raw_rows
    where
        {{ landed_since_last_build() }}
        and {{ not_quarantined('app', 'installments') }}

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
        {{ landing_columns() }}
    from landed
    left join installment_status_mapping on landed.status = installment_status_mapping.source_value
    where landed.version_rank = 1

),

newest_quarantined as (

    {{ newest_quarantined() }}

),

final as (

    {{ ahead_of_built(ahead_by = [('_batch_id', '>')]) }}

)

select * from final
