with

points as (

    select * from {{ ref('credit_scorecard_points') }}

),

scorecards as (

    select
        *,
        lead(valid_from) over (order by case when valid_from is null then 1 else 0 end, valid_from) as next_valid_from
    from {{ ref('scorecard') }}

),

features as (

    select * from {{ ref('ml_credit_risk_features') }}

),

ranked as (

    select
        *,
        row_number() over (
            partition by order_id, scorecard_version order by points_lost desc, feature asc
        ) as place
    from points

),

summed as (

    select
        order_id,
        scorecard_version,
        sum(points) as points,
        max(case when place = 1 and points_lost > 0 then feature end) as reason_1,
        max(case when place = 2 and points_lost > 0 then feature end) as reason_2,
        max(case when place = 3 and points_lost > 0 then feature end) as reason_3
    from ranked
    group by 1, 2

),

scored as (

    select
        features.order_id,
        scorecards.scorecard_version,
        features.customer_id,
        features.partner_id,
        features.requested_date,
        features.is_backfilled,
        features.is_disbursed,
        features.label_due_on,
        features.label_default,
        coalesce(
            scorecards.valid_from <= features.requested_date
            and (scorecards.next_valid_from is null or scorecards.next_valid_from > features.requested_date),
            false
        ) as is_in_force,
        features.requested_date between scorecards.trained_from and scorecards.trained_until as is_in_training_period,
        scorecards.base_points + summed.points as score,
        scorecards.base_score,
        scorecards.base_odds,
        scorecards.points_to_double_odds,
        summed.reason_1,
        summed.reason_2,
        summed.reason_3
    from summed
    inner join scorecards on summed.scorecard_version = scorecards.scorecard_version
    inner join features on summed.order_id = features.order_id

),

final as (

    select
        ---------- ids
        order_id,
        scorecard_version,
        customer_id,
        partner_id,

        ---------- when
        requested_date,
        is_in_force,
        is_in_training_period,
        is_backfilled,

        ---------- the score
        cast(score as integer) as score,
        round(
            1 / (1 + base_odds * power(
                cast(2 as double), cast(score - base_score as double) / points_to_double_odds
            )), 6
        ) as expected_default_rate,
        reason_1,
        reason_2,
        reason_3,

        ---------- what came of it
        is_disbursed,
        label_due_on,
        label_default
    from scored

)

select * from final
