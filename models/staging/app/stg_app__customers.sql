{{ config(unique_key = 'customer_id') }}

with

landed as (

    select
        *,
        {{ version_rank(
            key = ['customer_id'],
            order_by = ['_batch_id desc']
        ) }} as version_rank
    from {{ source('app', 'customers') }}
    where {{ landed_since_last_build() }}

),

renamed as (

    select
        ---------- ids
        customer_id,
        partner_id,

        ---------- person
        trim(full_name) as full_name,
        {{ digits('cpf') }} as cpf,
        lower(trim(email)) as email,
        nullif(trim(phone), '') as phone,
        birth_date,
        nullif(trim(gender), '') as gender,
        nullif(trim(city), '') as city,
        {{ state_code('state') }} as state,

        ---------- amounts
        monthly_income,

        ---------- times
        {{ ts('created_at') }} as created_at,
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
