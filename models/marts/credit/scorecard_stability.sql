with

scores as (

    select * from {{ ref('credit_scorecard_scores') }}

),

monthly as (

    select
        scorecard_version,
        {{ month_of('requested_date') }} as month,
        score,
        is_in_training_period,
        count(*) as orders
    from scores
    group by 1, 2, 3, 4

),

-- how the scores of all requests of the training period were spread
reference_scores as (

    select
        scorecard_version,
        score,
        sum(orders) as orders
    from monthly
    where is_in_training_period
    group by 1, 2

),

reference_ranked as (

    select
        scorecard_version,
        score,
        orders,
        sum(orders) over (
            partition by scorecard_version order by score rows between unbounded preceding and current row
        ) as orders_so_far,
        sum(orders) over (partition by scorecard_version) as all_orders
    from reference_scores

),

tenths as (

    select n as tenth from {{ numbers_from_zero(10) }}

),

-- the scores that end the first nine tenths of them
cuts as (

    select
        reference_ranked.scorecard_version,
        tenths.tenth,
        min(reference_ranked.score) as cut
    from reference_ranked
    inner join tenths on reference_ranked.orders_so_far * 10 >= reference_ranked.all_orders * tenths.tenth
    where tenths.tenth > 0
    group by 1, 2

),

distinct_scores as (

    select
        scorecard_version,
        score
    from monthly
    group by 1, 2

),

score_bands as (

    select
        distinct_scores.scorecard_version,
        distinct_scores.score,
        count(cuts.cut) as band
    from distinct_scores
    left join cuts
        on distinct_scores.scorecard_version = cuts.scorecard_version and distinct_scores.score > cuts.cut
    group by 1, 2

),

reference_bands as (

    select
        reference_ranked.scorecard_version,
        score_bands.band,
        sum(reference_ranked.orders) as orders,
        max(reference_ranked.all_orders) as all_orders,
        count(*) over (partition by reference_ranked.scorecard_version) as bands
    from reference_ranked
    inner join score_bands
        on
            reference_ranked.scorecard_version = score_bands.scorecard_version
            and reference_ranked.score = score_bands.score
    group by 1, 2

),

monthly_bands as (

    select
        monthly.scorecard_version,
        monthly.month,
        score_bands.band,
        sum(monthly.orders) as orders
    from monthly
    inner join score_bands
        on monthly.scorecard_version = score_bands.scorecard_version and monthly.score = score_bands.score
    group by 1, 2, 3

),

months as (

    select
        scorecard_version,
        month,
        sum(orders) as orders,
        sum(score * orders) as points,
        max(case when is_in_training_period then 1 else 0 end) = 1 as is_in_training_period
    from monthly
    group by 1, 2

),

-- every band of every month; half an order stands for none
compared as (

    select
        months.scorecard_version,
        months.month,
        reference_bands.bands,
        reference_bands.all_orders,
        greatest(cast(coalesce(monthly_bands.orders, 0) as double), cast(0.5 as double)) / months.orders as month_share,
        cast(reference_bands.orders as double) / reference_bands.all_orders as reference_share
    from months
    inner join reference_bands on months.scorecard_version = reference_bands.scorecard_version
    left join monthly_bands
        on
            months.scorecard_version = monthly_bands.scorecard_version
            and months.month = monthly_bands.month
            and reference_bands.band = monthly_bands.band

),

indexed as (

    select
        scorecard_version,
        month,
        max(bands) as bands,
        max(all_orders) as reference_orders,
        -- whole billionths: a sum of doubles depends on its order
        sum(cast(round((month_share - reference_share) * ln(month_share / reference_share) * 1000000000) as bigint))
            as index_billionths
    from compared
    group by 1, 2

),

final as (

    select
        months.scorecard_version,
        months.month,
        cast(months.orders as bigint) as orders,
        cast(months.points as double) / months.orders as mean_score,
        months.is_in_training_period,
        cast(indexed.index_billionths as double) / 1000000000 as stability_index,
        (indexed.bands - 1) * (1 / cast(months.orders as double) + 1 / cast(indexed.reference_orders as double))
            as stability_index_by_chance
    from months
    left join indexed on months.scorecard_version = indexed.scorecard_version and months.month = indexed.month

)

select * from final
