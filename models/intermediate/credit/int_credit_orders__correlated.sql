with

credit_orders as (

    select * from {{ ref('int_credit_orders__dated') }}

),

order_versions as (

    select
        *,
        {{ known_span('order_id') }}
    from {{ ref('stg_app__credit_order_versions') }}

),

customers as (

    select * from {{ ref('int_credit_orders__customer') }}

),

evaluations as (

    select * from {{ ref('int_credit_orders__evaluation') }}

),

bank_behaviour as (

    select * from {{ ref('int_credit_orders__bank_behaviour') }}

),

consents as (

    select * from {{ ref('int_credit_orders__consents') }}

),

loans as (

    select * from {{ ref('int_loans__position') }}

),

fx_rates as (

    select * from {{ ref('int_fx_rates__daily') }}

),

final as (

    select
        ---------- ids
        credit_orders.order_id,
        credit_orders.customer_id,
        credit_orders.partner_id,
        evaluations.evaluation_id,

        ---------- the order
        credit_orders.product,
        credit_orders.purpose,
        credit_orders.currency,
        credit_orders.requested_amount,
        credit_orders.approved_amount,
        credit_orders.disbursed_amount,
        credit_orders.iof_amount,
        credit_orders.fee_amount,
        credit_orders.term_months,
        credit_orders.interest_rate,
        credit_orders.status,
        credit_orders.policy_version,
        credit_orders.prior_orders,

        ---------- the order, known at the request
        order_versions.product as product_at_request,
        order_versions.purpose as purpose_at_request,
        order_versions.currency as currency_at_request,
        order_versions.requested_amount as requested_amount_at_request,
        order_versions.term_months as term_months_at_request,
        order_versions.version_at > credit_orders.requested_at as is_order_backfilled,

        ---------- times
        credit_orders.requested_at,
        credit_orders.decided_at,
        credit_orders.disbursed_at,
        credit_orders.requested_date,
        credit_orders.decided_date,
        credit_orders.disbursed_date,
        cast({{ dbt.datediff('credit_orders.requested_at', 'credit_orders.decided_at', 'millisecond') }} as double)
        / 3600000 as hours_to_decision,

        ---------- the customer, known at the request
        customers.order_id is not null as is_customer_known,
        customers.customer_state,
        customers.customer_gender,
        customers.monthly_income,
        customers.age_at_request,
        customers.customer_days_at_request,
        customers.is_backfilled,

        ---------- the evaluation the decision rests on
        evaluations.evaluation_provider,
        evaluations.model_version,
        evaluations.risk_score,
        evaluations.risk_decision,
        evaluations.reason_codes,
        evaluations.evaluated_at,

        ---------- known at the request
        customers.bureau_score as bureau_score_at_request,
        customers.bureau_score_queried_at,
        customers.bureau_negative_records as bureau_negative_records_at_request,
        customers.bureau_total_debt as bureau_total_debt_at_request,
        bank_behaviour.bank_inflow_90d as bank_inflow_90d_at_request,
        bank_behaviour.bank_outflow_90d as bank_outflow_90d_at_request,
        bank_behaviour.bank_transactions_90d as bank_transactions_90d_at_request,
        coalesce(consents.has_bureau_consent, false) as has_bureau_consent_at_request,
        coalesce(consents.has_open_finance_consent, false) as has_open_finance_consent_at_request,
        coalesce(consents.has_marketing_consent, false) as has_marketing_consent_at_request,
        {{ rate_to_brl('credit_orders.currency', rate_known_at('fx_rates', 'credit_orders.requested_at')) }}
            as fx_rate_to_brl_at_request,

        ---------- the repayment, as of as_of_date
        loans.received_amount,
        loans.outstanding_amount,
        loans.overdue_amount,
        loans.days_past_due,
        loans.days_late_max,
        loans.written_off_date,
        loans.defaulted_on,
        loans.repayment_outcome,
        loans.repayment_outcome = 'defaulted' as is_defaulted
    from credit_orders
    left join order_versions
        on
            credit_orders.order_id = order_versions.order_id
            and {{ is_known_at('order_versions', 'credit_orders.requested_at') }}
    left join customers on credit_orders.order_id = customers.order_id
    left join evaluations on credit_orders.order_id = evaluations.order_id
    left join bank_behaviour on credit_orders.order_id = bank_behaviour.order_id
    left join consents on credit_orders.order_id = consents.order_id
    left join loans on credit_orders.order_id = loans.order_id
    left join fx_rates
        on
            credit_orders.currency = fx_rates.currency
            and credit_orders.requested_date = fx_rates.fx_date

)

select * from final
