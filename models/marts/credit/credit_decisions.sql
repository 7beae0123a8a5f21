with

credit_orders as (

    select * from {{ ref('int_credit_orders__correlated') }}

),

final as (

    select
        ---------- ids
        order_id,
        customer_id,
        is_customer_known,
        partner_id,

        ---------- the request
        product,
        purpose,
        currency,
        {{ money('requested_amount') }} as requested_amount,
        cast(term_months as integer) as term_months,
        requested_at,
        requested_date,

        ---------- the decision
        status,
        decided_at,
        decided_date,
        hours_to_decision,
        {{ money('approved_amount') }} as approved_amount,
        cast(interest_rate as decimal(9, 6)) as interest_rate,
        policy_version,
        cast(risk_score as integer) as risk_score,
        reason_codes,

        ---------- known at the request
        cast(bureau_score_at_request as integer) as bureau_score_at_request,
        {{ money('bank_inflow_90d_at_request') }} as bank_inflow_90d_at_request,
        {{ money('bank_outflow_90d_at_request') }} as bank_outflow_90d_at_request,
        cast(prior_orders as integer) as prior_orders,

        ---------- what became of it
        disbursed_at,
        {{ money('disbursed_amount') }} as disbursed_amount,
        {{ money('outstanding_amount') }} as outstanding_amount,
        cast(days_past_due as integer) as days_past_due,
        repayment_outcome
    from credit_orders

)

select * from final
