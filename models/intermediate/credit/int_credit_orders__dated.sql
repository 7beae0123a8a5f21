with

credit_orders as (

    select * from {{ ref('stg_app__credit_orders') }}

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

final as (

    select
        order_id,
        customer_id,
        partner_id,
        product,
        purpose,
        currency,
        requested_amount,
        approved_amount,
        case when disbursed_date <= {{ as_of_date() }} then coalesce(disbursed_amount, approved_amount) end
            as disbursed_amount,
        iof_amount,
        fee_amount,
        term_months,
        interest_rate,
        status,
        policy_version,
        repayment_status,
        requested_at,
        decided_at,
        case when disbursed_date <= {{ as_of_date() }} then disbursed_at end as disbursed_at,
        requested_date,
        decided_date,
        case when disbursed_date <= {{ as_of_date() }} then disbursed_date end as disbursed_date,
        prior_orders
    from dated
    where requested_date <= {{ as_of_date() }}

)

select * from final
