with

risk_evaluations as (

    select *
    from {{ ref('stg_app__risk_evaluations') }}
    where deleted_at is null

),

credit_orders as (

    select * from {{ ref('int_credit_orders__dated') }}

),

-- an evaluation after the decision cannot have led to it
before_decision as (

    select
        risk_evaluations.order_id,
        risk_evaluations.evaluation_id,
        risk_evaluations.provider,
        risk_evaluations.model_version,
        risk_evaluations.score,
        risk_evaluations.decision,
        {{ list_to_text('risk_evaluations.reason_codes_mapped') }} as reason_codes,
        risk_evaluations.evaluated_at,
        risk_evaluations.created_at
    from risk_evaluations
    inner join credit_orders on risk_evaluations.order_id = credit_orders.order_id
    where
        {{ business_date('risk_evaluations.evaluated_at') }} <= {{ as_of_date() }}
        and (
            credit_orders.decided_at is null
            or risk_evaluations.evaluated_at <= credit_orders.decided_at
        )

),

ranked as (

    select
        *,
        row_number() over (
            partition by order_id
            order by evaluated_at desc, created_at desc, evaluation_id desc
        ) as recency,
        -- a person who decides gives reasons but no score: the one that was on the table counts
        row_number() over (
            partition by order_id
            order by case when score is null then 1 else 0 end, evaluated_at desc, created_at desc, evaluation_id desc
        ) as score_recency
    from before_decision

),

final as (

    select
        order_id,
        max(case when recency = 1 then evaluation_id end) as evaluation_id,
        max(case when recency = 1 then provider end) as evaluation_provider,
        max(case when recency = 1 then decision end) as risk_decision,
        nullif(max(case when recency = 1 then reason_codes end), '') as reason_codes,
        max(case when recency = 1 then evaluated_at end) as evaluated_at,
        max(case when score_recency = 1 then score end) as risk_score,
        max(case when score_recency = 1 then model_version end) as model_version
    from ranked
    group by 1

)

select * from final
