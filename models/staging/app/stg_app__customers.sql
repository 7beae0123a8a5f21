{{ config(unique_key = 'customer_id', partitioned_by = ['year(created_at)']) }}

with

quarantined as (

    select * from {{ ref('quarantine_app__customers') }}

),

landed as (

    select
        *,
        {{ version_rank(
            key = ['customer_id'],
            order_by = ['_batch_id desc']
        ) }} as version_rank
    from {{ source('app', 'customers') }} as raw_rows
    where
        {{ landed_since_last_build() }}
        and {{ not_quarantined('app', 'customers') }}

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
        case
            when landed._source_deleted then {{ end_of_day('landed.extract_date') }}
            else {{ ts('updated_at') }}
        end as version_at,

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
