{{ config(unique_key = ['account_id', '_batch_id'], partitioned_by = ['year(version_at)']) }}

with

quarantined as (

    select * from {{ ref('quarantine_app__bank_accounts') }}

),

landed as (

    select *
    from {{ source('app', 'bank_accounts') }} as raw_rows
    where
        {{ landed_since_last_build() }}
        and {{ not_quarantined('app', 'bank_accounts') }}
        -- a deletion repeats the last version
        and not _source_deleted

),

renamed as (

    select
        ---------- ids
        account_id,
        customer_id,

        ---------- times
        {{ ts('updated_at') }} as version_at,

        ---------- landing
        _batch_id,
        cast(extract_date as date) as _extract_date
    from landed

),

final as (

    {{ not_yet_built() }}

)

select * from final
