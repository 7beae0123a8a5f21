{{ config(unique_key = ['customer_id', '_batch_id'], partitioned_by = ['year(version_at)']) }}

with

quarantined as (

    select * from {{ ref('quarantine_app__customers') }}

),

landed as (

    select *
    from {{ source('app', 'customers') }} as raw_rows
    where
        {{ landed_since_last_build() }}
        and {{ not_quarantined('app', 'customers') }}
        -- a deletion repeats the last version
        and not _source_deleted

),

renamed as (

    select
        ---------- ids
        customer_id,

        ---------- person
        {{ digits('cpf') }} as cpf,
        birth_date,
        nullif(trim(gender), '') as gender,
        {{ state_code('state') }} as state,

        ---------- amounts
        monthly_income,

        ---------- times
        {{ ts('created_at') }} as created_at,
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
