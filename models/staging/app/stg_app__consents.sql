{{ config(unique_key = 'consent_id', partitioned_by = ['year(granted_at)']) }}

with

quarantined as (

    select * from {{ ref('quarantine_app__consents') }}

),

landed as (

    select
        *,
        {{ version_rank(
            key = ['consent_id'],
            order_by = ['_batch_id desc']
        ) }} as version_rank
    from {{ source('app', 'consents') }} as raw_rows
    where
        {{ landed_since_last_build() }}
        and {{ not_quarantined('app', 'consents') }}

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
