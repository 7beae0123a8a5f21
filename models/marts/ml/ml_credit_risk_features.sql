with

credit_orders as (

    select * from {{ ref('int_credit_orders__correlated') }}

),

prior_scores as (

    select * from {{ ref('int_credit_orders__prior_scores') }}

),

labelled as (

    select
        credit_orders.*,
        prior_scores.prior_risk_score_mean,
        {{ convert_money(
            'requested_amount_at_request',
            'currency_at_request',
            'case when currency_at_request = currency then fx_rate_to_brl_at_request end',
            "'BRL'"
        ) }} as requested_amount_brl,
        cast({{ dbt.dateadd('month', label_months(), 'disbursed_date') }} as date) as label_due_on
    from credit_orders
    left join prior_scores on credit_orders.order_id = prior_scores.order_id

),

final as (

    select
        ---------- ids
        order_id,
        customer_id,
        partner_id,
        requested_at,
        requested_date,

        ---------- the request
        product_at_request,
        purpose_at_request,
        currency_at_request,
        {{ money('requested_amount_at_request') }} as requested_amount_at_request,
        requested_amount_brl,
        cast(term_months_at_request as integer) as term_months_at_request,
        cast(prior_orders as integer) as prior_orders,
        prior_risk_score_mean,

        ---------- the customer
        customer_state,
        {{ money('monthly_income') }} as monthly_income,
        cast(age_at_request as integer) as age_at_request,
        cast(customer_days_at_request as integer) as customer_days_at_request,
        cast(requested_amount_brl as double) / nullif(cast(monthly_income as double), 0) as requested_amount_to_income,

        ---------- the bureau
        cast(bureau_score_at_request as integer) as bureau_score_at_request,
        {{ days_between(business_date('bureau_score_queried_at'), 'requested_date') }} as bureau_score_age_days,
        cast(bureau_negative_records_at_request as integer) as bureau_negative_records_at_request,
        {{ money('bureau_total_debt_at_request') }} as bureau_total_debt_at_request,

        ---------- the bank
        {{ money('bank_inflow_90d_at_request') }} as bank_inflow_90d_at_request,
        {{ money('bank_outflow_90d_at_request') }} as bank_outflow_90d_at_request,
        cast(bank_transactions_90d_at_request as integer) as bank_transactions_90d_at_request,
        cast(bank_outflow_90d_at_request as double)
        / nullif(cast(bank_inflow_90d_at_request as double), 0) as bank_outflow_to_inflow_90d_at_request,

        ---------- what may be trusted
        is_customer_known,
        coalesce(is_backfilled, false) or coalesce(is_order_backfilled, false) as is_backfilled,
        has_bureau_consent_at_request,
        has_open_finance_consent_at_request,

        ---------- the label
        disbursed_date is not null as is_disbursed,
        label_due_on,
        case
            when disbursed_date is null then null
            when defaulted_on <= label_due_on then true
            -- in default by the lender's word, which carries no day
            when is_defaulted and defaulted_on is null then null
            when days_late_max is null then null
            when label_due_on <= {{ as_of_date() }} then false
            when repayment_outcome = 'paid_off' then false
        end as label_default
    from labelled

)

select * from final
