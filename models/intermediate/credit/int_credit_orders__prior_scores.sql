with

risk_evaluations as (

    select *
    from {{ ref('stg_app__risk_evaluations') }}
    where
        deleted_at is null
        and score is not null
        -- a scorecard's points are on another scale, and it would learn from what it said itself
        and model_version not like 'scorecard-%'

),

credit_orders as (

    select * from {{ ref('int_credit_orders__dated') }}

),

-- requests and scores of a customer on one line of time: a join of the two would grow with the square of the orders
moments as (

    select
        customer_id,
        order_id,
        requested_at as happened_at,
        cast(null as integer) as score
    from credit_orders
    union all
    select
        credit_orders.customer_id,
        cast(null as varchar) as order_id,
        greatest(risk_evaluations.evaluated_at, risk_evaluations.created_at) as happened_at,
        risk_evaluations.score
    from risk_evaluations
    inner join credit_orders on risk_evaluations.order_id = credit_orders.order_id

),

summed as (

    select
        order_id,
        count(score) over (
            partition by customer_id order by happened_at range between unbounded preceding and current row
        ) as prior_risk_scores,
        sum(score) over (
            partition by customer_id order by happened_at range between unbounded preceding and current row
        ) as prior_points
    from moments

),

final as (

    select
        order_id,
        prior_risk_scores,
        cast(prior_points as double) / prior_risk_scores as prior_risk_score_mean
    from summed
    where
        order_id is not null
        and prior_risk_scores > 0

)

select * from final
