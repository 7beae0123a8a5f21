{{ config(unique_key = 'consent_id') }}

with

landed as (

    select
        *,
        {{ version_rank(
            key = ['consent_id'],
            order_by = ['_batch_id desc']
        ) }} as version_rank
    from {{ source('app', 'consents') }}
    where {{ landed_since_last_build() }}

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
        {{ ts('updated_at') }} as updated_at,

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
