{{ config(unique_key = ['consent_id', '_batch_id'], partitioned_by = ['year(version_at)']) }}

with

quarantined as (

    select * from {{ ref('quarantine_app__consents') }}

),

landed as (

    select *
    from {{ source('app', 'consents') }} as raw_rows
    where
        {{ landed_since_last_build() }}
        and {{ not_quarantined('app', 'consents') }}
        -- a deletion repeats the last version
        and not _source_deleted

),

renamed as (

    select
        ---------- ids
        consent_id,
        customer_id,

        ---------- consent
        scope,

        ---------- times
        {{ ts('granted_at') }} as granted_at,
        {{ ts('expires_at') }} as expires_at,
        {{ ts('revoked_at') }} as revoked_at,
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
