with

features as (

    select * from {{ ref('ml_credit_risk_features') }}

),

bands as (

    select
        *,
        max(points) over (partition by scorecard_version, feature) as best_points
    from {{ ref('scorecard_points') }}

),

-- one row per order and feature
unpivoted as (

    {{ scorecard_values('features') }}

),

final as (

    select
        unpivoted.order_id,
        bands.scorecard_version,
        unpivoted.feature,
        unpivoted.partner_id,
        unpivoted.feature_value,
        bands.band,
        bands.points,
        cast(bands.best_points - bands.points as integer) as points_lost
    from unpivoted
    inner join bands
        on
            unpivoted.feature = bands.feature
            -- band 0 is that of unknown values
            and (unpivoted.feature_value is null) = (bands.band = 0)
            and (bands.min_value is null or unpivoted.feature_value >= bands.min_value)
            and (bands.max_value is null or unpivoted.feature_value < bands.max_value)

)

select * from final
