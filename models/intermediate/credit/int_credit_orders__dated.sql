with

credit_orders as (

    select *
    from {{ ref('stg_app__credit_orders') }}
    where deleted_at is null

),

dated as (

    select
        order_id,
        customer_id,
        partner_id,
        -- in our vocabulary; a product that the seed does not know keeps the source's word
        case when product_mapped = 'unmapped' then product else product_mapped end as product,
        purpose,
        currency,
        requested_amount,
        approved_amount,
        disbursed_amount,
        iof_amount,
        fee_amount,
        term_months,
        interest_rate,
        status,
        policy_version,
        repayment_status,
        created_at as requested_at,
        decided_at,
        disbursed_at,
        {{ business_date('created_at') }} as requested_date,
        {{ business_date('decided_at') }} as decided_date,
        {{ business_date('disbursed_at') }} as disbursed_date,
        rank() over (partition by customer_id order by created_at) - 1 as prior_orders
    from credit_orders

),

-- a run shortly after midnight already sees what was decided and paid out on the new day
flagged as (

    select
        *,
        coalesce(decided_date > {{ as_of_date() }}, false) as is_decided_later,
        coalesce(disbursed_date > {{ as_of_date() }}, false) as is_disbursed_later
    from dated
    where requested_date <= {{ as_of_date() }}

),

final as (

    select
        order_id,
        customer_id,
        partner_id,
        product,
        purpose,
        currency,
        requested_amount,
        case when not is_decided_later then approved_amount end as approved_amount,
        case when disbursed_date <= {{ as_of_date() }} then coalesce(disbursed_amount, approved_amount) end
            as disbursed_amount,
        case when not is_decided_later and not is_disbursed_later then iof_amount end as iof_amount,
        case when not is_decided_later then fee_amount end as fee_amount,
        term_months,
        case when not is_decided_later then interest_rate end as interest_rate,
        case when is_decided_later then 'in_review' else status end as status,
        case when not is_decided_later then policy_version end as policy_version,
        repayment_status,
        requested_at,
        case when not is_decided_later then decided_at end as decided_at,
        case when not is_disbursed_later then disbursed_at end as disbursed_at,
        requested_date,
        case when not is_decided_later then decided_date end as decided_date,
        case when not is_disbursed_later then disbursed_date end as disbursed_date,
        prior_orders
    from flagged

)

select * from final
