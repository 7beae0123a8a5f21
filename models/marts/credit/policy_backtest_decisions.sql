with

credit_orders as (

    select * from {{ ref('int_credit_orders__correlated') }}

),

features as (

    select * from {{ ref('ml_credit_risk_features') }}

),

policies as (

    select * from {{ ref('credit_policy') }}

),

product_terms as (

    select * from {{ ref('product_terms') }}

),

scorecard_scores as (

    select * from {{ ref('credit_scorecard_scores') }}

),

-- how much a customer asked for in the 24 hours before
recent_orders as (

    select
        credit_orders.order_id,
        count(*) as orders_24h,
        sum(case when earlier.currency = credit_orders.currency then earlier.requested_amount else 0 end) as amount_24h
    from credit_orders
    inner join credit_orders as earlier
        on
            credit_orders.customer_id = earlier.customer_id
            and credit_orders.requested_at > earlier.requested_at
            and {{ dbt.dateadd('hour', -24, 'credit_orders.requested_at') }} < earlier.requested_at
    group by 1

),

known as (

    select
        credit_orders.order_id,
        credit_orders.customer_id,
        credit_orders.partner_id,
        credit_orders.requested_date,
        credit_orders.status,
        features.product_at_request as product,
        features.currency_at_request as currency,
        features.requested_amount_at_request as requested_amount,
        features.requested_amount_brl,
        features.term_months_at_request as term_months,
        features.monthly_income,
        features.bureau_score_at_request,
        features.bureau_negative_records_at_request as negative_records,
        features.is_backfilled,
        features.has_bureau_consent_at_request as has_bureau_consent,
        coalesce(recent_orders.orders_24h, 0) as orders_24h,
        coalesce(recent_orders.amount_24h, 0) as amount_24h,
        case when features.label_due_on <= {{ as_of_date() }} then features.label_default end as label_default
    from credit_orders
    inner join features on credit_orders.order_id = features.order_id
    left join recent_orders on credit_orders.order_id = recent_orders.order_id

),

versions as (

    select
        *,
        lead(valid_from) over (order by case when valid_from is null then 1 else 0 end, valid_from) as next_valid_from
    from policies

),

-- every version meets every order; only what it sells, within the product's terms, gets as far as a decision
asked as (

    select
        known.order_id,
        known.customer_id,
        known.partner_id,
        known.requested_date,
        known.status,
        known.product,
        known.currency,
        known.requested_amount,
        known.requested_amount_brl,
        known.term_months,
        known.bureau_score_at_request,
        known.negative_records,
        known.is_backfilled,
        known.orders_24h,
        known.amount_24h,
        known.label_default,
        versions.policy_version,
        versions.min_score,
        versions.review_margin,
        versions.max_commitment,
        versions.max_income_multiple,
        versions.min_approved_share,
        versions.max_negative_records,
        versions.max_orders_24h,
        versions.max_amount_24h_incomes,
        versions.rate_mid_score,
        versions.rate_score_scale,
        -- whose score the thresholds of the version are for
        case when versions.scorecard_version is null then known.bureau_score_at_request else scorecard_scores.score end
            as score,
        coalesce(
            versions.valid_from <= known.requested_date
            and (versions.next_valid_from is null or versions.next_valid_from > known.requested_date),
            false
        ) as is_in_force,
        coalesce(
            ' ' || product_terms.currencies || ' ' like '% ' || known.currency || ' %'
            and known.requested_amount between product_terms.min_amount and product_terms.max_amount
            and known.term_months between product_terms.min_term_months and product_terms.max_term_months,
            false
        ) as is_accepted,
        case when product_terms.income_based then known.monthly_income end as income,
        known.has_bureau_consent
        and known.bureau_score_at_request is not null
        and (not product_terms.income_based or coalesce(known.monthly_income, 0) > 0) as is_enough_known,
        cast(product_terms.best_rate as double) as best_rate,
        cast(product_terms.worst_rate - product_terms.best_rate as double) as rate_range
    from known
    cross join versions
    left join product_terms
        on
            versions.policy_version = product_terms.policy_version
            and known.product = product_terms.product
    left join scorecard_scores
        on
            versions.scorecard_version = scorecard_scores.scorecard_version
            and known.order_id = scorecard_scores.order_id

),

rated as (

    select
        *,
        -- the worse the score, the nearer to the worst rate; four digits, as real-time decisions have it
        round(best_rate + rate_range * (1 / (1 + exp(cast(score - rate_mid_score as double) / rate_score_scale))), 4)
            as rate
    from asked

),

shared as (

    select
        *,
        -- of the amount, so much that the instalment of the French system fits the income
        cast(max_commitment as double) * cast(income as double)
        / (cast(requested_amount as double) * rate / (1 - power(1 + rate, -cast(term_months as double))))
            as affordable_share
    from rated

),

fitted as (

    select
        *,
        case
            when affordable_share < 1
                then cast(floor(cast(requested_amount as double) * affordable_share / 50) * 50 as decimal(18, 2))
            else requested_amount
        end as offered_amount
    from shared

),

tested as (

    select
        *,
        is_enough_known and score < min_score - review_margin as is_low_score,
        is_enough_known and coalesce(negative_records, 0) > max_negative_records as is_negative,
        coalesce(
            is_enough_known
            and requested_amount > cast(max_income_multiple as decimal(20, 4)) * cast(income as decimal(18, 2)),
            false
        ) as is_above_limit,
        coalesce(
            is_enough_known
            and income is not null
            and (
                offered_amount < cast(min_approved_share as decimal(20, 4)) * requested_amount or offered_amount <= 0
            ),
            false
        ) as is_above_commitment,
        orders_24h >= max_orders_24h
        or coalesce(
            amount_24h + requested_amount
            > cast(max_amount_24h_incomes as decimal(20, 4)) * cast(income as decimal(18, 2)),
            false
        ) as is_too_fast
    from fitted

),

decided as (

    select
        *,
        case
            when not is_accepted then 'not_accepted'
            when not is_enough_known then 'review'
            when is_low_score or is_negative or is_above_limit or is_above_commitment then 'reject'
            when is_too_fast or score < min_score + review_margin then 'review'
            else 'approve'
        end as decision
    from tested

),

final as (

    select
        ---------- ids
        order_id,
        policy_version,
        customer_id,
        partner_id,

        ---------- the request
        requested_date,
        product,
        currency,
        {{ money('requested_amount') }} as requested_amount,
        {{ money('requested_amount_brl') }} as requested_amount_brl,
        cast(bureau_score_at_request as integer) as bureau_score_at_request,
        -- of the bureau whichever score decides, so that each order has one band
        case
            when bureau_score_at_request is null then 'unknown'
            -- the last band takes the best score of all
            when bureau_score_at_request >= 950 then '950-1000'
            else
                lpad(cast(bureau_score_at_request - mod(bureau_score_at_request, 50) as varchar), 3, '0')
                || '-'
                || lpad(cast(bureau_score_at_request - mod(bureau_score_at_request, 50) + 49 as varchar), 3, '0')
        end as score_band,
        cast(score as integer) as policy_score,
        is_backfilled,

        ---------- what the version would have decided
        is_in_force,
        decision,
        case
            when decision = 'reject'
                then substr(
                    case when is_low_score then ', low_score' else '' end
                    || case when is_negative then ', negative_record' else '' end
                    || case when is_above_limit then ', policy_limit' else '' end
                    || case when is_above_commitment then ', income_commitment' else '' end,
                    3
                )
            when decision = 'review' and is_enough_known and is_too_fast then 'fraud_suspected'
            when decision = 'review' then 'manual_review'
        end as decision_reasons,
        case when decision = 'approve' then {{ money('offered_amount') }} end as offered_amount,
        case when decision = 'approve' then cast(rate as decimal(9, 6)) end as offered_rate,

        ---------- what was decided, and what came of it
        status,
        case
            when status not in ('approved', 'rejected') then 'undecided'
            when decision = 'review' then 'to_review'
            when decision = 'approve' and status = 'approved' then 'kept_approval'
            when decision = 'approve' then 'swap_in'
            when status = 'approved' then 'swap_out'
            else 'kept_rejection'
        end as swap_class,
        label_default
    from decided

)

select * from final
