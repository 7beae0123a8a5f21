{{ config(unique_key = ['order_id', '_batch_id'], partitioned_by = ['year(version_at)']) }}

with

quarantined as (

    select * from {{ ref('quarantine_app__credit_orders') }}

),

landed as (

    select *
    from {{ source('app', 'credit_orders') }} as raw_rows
    where
        {{ landed_since_last_build() }}
        and {{ not_quarantined('app', 'credit_orders') }}
        -- a deletion repeats the last version
        and not _source_deleted

),

product_mapping as (

    select * from {{ ref('product_mapping') }}

),

renamed as (

    select
        ---------- ids
        landed.order_id,

        ---------- order
        coalesce(product_mapping.product, landed.product) as product,
        landed.purpose,

        ---------- terms
        {{ currency_code('landed.currency') }} as currency,
        landed.requested_amount,
        landed.term_months,

        ---------- times
        {{ ts('landed.updated_at') }} as version_at,

        ---------- landing
        landed._batch_id,
        cast(landed.extract_date as date) as _extract_date
    from landed
    left join product_mapping on landed.product = product_mapping.source_value

),

final as (

    {{ not_yet_built() }}

)

select * from final
