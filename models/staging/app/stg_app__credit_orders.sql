{{ config(unique_key = 'order_id', partitioned_by = ['year(created_at)']) }}

with

quarantined as (

    select * from {{ ref('quarantine_app__credit_orders') }}

),

landed as (

    select
        *,
        {{ version_rank(
            key = ['order_id'],
            order_by = ['_batch_id desc']
        ) }} as version_rank
    from {{ source('app', 'credit_orders') }} as raw_rows
    where
        {{ landed_since_last_build() }}
        and {{ not_quarantined('app', 'credit_orders') }}

),

product_mapping as (

    select * from {{ ref('product_mapping') }}

),

renamed as (

    select
        ---------- ids
        landed.order_id,
        landed.customer_id,
        landed.partner_id,

        ---------- order
        landed.product,
        coalesce(product_mapping.product, 'unmapped') as product_mapped,
        landed.purpose,
        landed.status,
        landed.repayment_status,
        landed.policy_version,
        landed.metadata,

        ---------- terms
        {{ currency_code('landed.currency') }} as currency,
        landed.requested_amount,
        landed.approved_amount,
        landed.disbursed_amount,
        landed.iof_amount,
        landed.fee_amount,
        landed.term_months,
        landed.interest_rate,

        ---------- times
        {{ ts('landed.decided_at') }} as decided_at,
        {{ ts('landed.disbursed_at') }} as disbursed_at,
        {{ ts('landed.created_at') }} as created_at,
        {{ ts('landed.updated_at') }} as updated_at,
        case
            when landed._source_deleted then {{ end_of_day('landed.extract_date') }}
            else {{ ts('landed.updated_at') }}
        end as version_at,

        ---------- landing
        {{ landing_columns() }}
    from landed
    left join product_mapping on landed.product = product_mapping.source_value
    where landed.version_rank = 1

),

newest_quarantined as (

    {{ newest_quarantined() }}

),

final as (

    {{ ahead_of_built(ahead_by = [('_batch_id', '>')]) }}

)

select * from final
