with

scores as (

    select * from {{ ref('credit_scorecard_scores') }}

),

credit_decisions as (

    select * from {{ ref('credit_decisions') }}

),

-- before its label is due, a loan of which it is known is one that went wrong, or was repaid, early
loans as (

    select
        scores.scorecard_version,
        {{ month_of(business_date('credit_decisions.disbursed_at')) }} as vintage_month,
        scores.score,
        scores.expected_default_rate,
        scores.is_in_training_period,
        scores.label_due_on <= {{ as_of_date() }} as is_due,
        case when scores.label_due_on <= {{ as_of_date() }} then scores.label_default end as label_default
    from scores
    inner join credit_decisions on scores.order_id = credit_decisions.order_id
    where scores.is_disbursed

),

by_score as (

    select
        scorecard_version,
        vintage_month,
        score,
        count(label_default) as loans,
        sum(case when label_default then 1 else 0 end) as bads,
        sum(case when not label_default then 1 else 0 end) as goods,
        -- whole millionths: a sum of doubles depends on its order
        sum(case when label_default is not null then cast(round(expected_default_rate * 1000000) as bigint) end)
            as expected_millionths,
        count(case when is_in_training_period and label_default is not null then 1 end) as loans_in_training,
        count(case when not is_due then 1 end) as loans_not_due
    from loans
    group by 1, 2, 3

),

cumulated as (

    select
        *,
        sum(bads) over (
            partition by scorecard_version, vintage_month order by score
            rows between unbounded preceding and current row
        ) as bads_so_far,
        sum(goods) over (
            partition by scorecard_version, vintage_month order by score
            rows between unbounded preceding and current row
        ) as goods_so_far,
        sum(bads) over (partition by scorecard_version, vintage_month) as all_bads,
        sum(goods) over (partition by scorecard_version, vintage_month) as all_goods
    from by_score

),

summed as (

    select
        scorecard_version,
        vintage_month,
        cast(sum(loans) as bigint) as loans,
        cast(sum(bads) as bigint) as bads,
        cast(sum(goods) as bigint) as goods,
        sum(expected_millionths) as expected_millionths,
        sum(loans_in_training) as loans_in_training,
        sum(loans_not_due) as loans_not_due,
        -- pairs of a bad and a good loan, ties by half: the good ones at or below each bad one's score, twice
        cast(sum(bads * (2 * goods_so_far - goods)) as double) as pairs_out_of_order_twice,
        max(abs(
            cast(bads_so_far as double) / nullif(all_bads, 0) - cast(goods_so_far as double) / nullif(all_goods, 0)
        )) as ks
    from cumulated
    group by 1, 2

),

ranked as (

    select
        *,
        1 - pairs_out_of_order_twice / nullif(cast(bads as double) * cast(goods as double), 0) as gini
    from summed

),

measured as (

    select
        *,
        {{ auc_standard_error('((gini + 1) / 2)', 'bads', 'goods') }} as auc_error
    from ranked

),

final as (

    select
        scorecard_version,
        vintage_month,
        loans,
        bads as loans_defaulted,
        loans_not_due = 0 as is_complete,
        loans_in_training > 0 as is_in_training_period,
        cast(bads as double) / nullif(loans, 0) as default_rate,
        cast(expected_millionths as double) / 1000000 / nullif(loans, 0) as expected_default_rate,
        gini,
        -- 1.96 standard errors of the AUC on either side, twice over for the Gini
        case when gini is not null then greatest(gini - cast(3.92 as double) * auc_error, cast(-1 as double)) end
            as gini_low,
        case when gini is not null then least(gini + cast(3.92 as double) * auc_error, cast(1 as double)) end
            as gini_high,
        ks
    from measured
    where loans > 0

)

select * from final
