{#-
    Received: what the schedules known at the forecast's making let fall due, times the share that came in of such
    amounts in the last 3 months. Disbursed: a straight line through the last 12 months, never below zero. The
    interval is 1.2816 times the root mean square of the past errors at the same horizon, as shares of the amounts that
    were forecast: 80 % if errors are normal.
-#}
{%- set horizons = 6 -%}

with

cash_flow as (

    select * from {{ ref('monthly_cash_flow') }}

),

scheduled as (

    select * from {{ ref('int_scheduled_due__monthly') }}

),

fx_rates as (

    select * from {{ ref('int_fx_rates__daily') }}

),

horizons as (

    select n + 1 as horizon_months from {{ numbers_from_zero(horizons) }}

),

---------- what happened

actuals as (

    select
        month,
        currency,
        received_amount,
        disbursed_amount,
        net_cash_flow,
        {{ month_end('month') }} as month_end,
        {{ dbt.datediff("cast('2000-01-01' as date)", 'month', 'month') }} as month_number
    from cash_flow
    where
        {{ month_end('month') }} <= {{ as_of_date() }}
        and {{ ledger_is_complete_on(month_end('month')) }}

),

-- sums of a straight line through the last 12 months, up to and with this one
levels as (

    select
        month,
        currency,
        month_end,
        month_number,
        count(*) over last_year as months,
        cast(sum(month_number) over last_year as double) as sum_x,
        cast(sum(month_number * month_number) over last_year as double) as sum_xx,
        cast(sum(disbursed_amount) over last_year as double) as sum_y,
        cast(sum(cast(disbursed_amount as decimal(38, 2)) * month_number) over last_year as double) as sum_xy
    from actuals
    window last_year as (partition by currency order by month rows between 11 preceding and current row)

),

lines as (

    select
        month,
        currency,
        month_end,
        month_number,
        months,
        sum_y / months as mean_y,
        sum_x / months as mean_x,
        (months * sum_xy - sum_x * sum_y) / nullif(months * sum_xx - sum_x * sum_x, 0) as slope
    from levels

),

---------- what was known

known_due as (

    select
        actuals.currency,
        actuals.month as made_month,
        horizons.horizon_months,
        cast({{ dbt.dateadd('month', 'horizons.horizon_months', 'actuals.month') }} as date) as month
    from actuals
    cross join horizons

),

known_amounts as (

    select
        known_due.currency,
        known_due.made_month,
        known_due.horizon_months,
        known_due.month,
        sum(coalesce(scheduled.due_amount, 0)) as scheduled_amount
    from known_due
    left join scheduled
        on
            known_due.currency = scheduled.currency
            and known_due.month = scheduled.due_month
            and known_due.made_month >= scheduled.began_month
            and (scheduled.replaced_month is null or known_due.made_month < scheduled.replaced_month)
    group by 1, 2, 3, 4

),

collected as (

    select
        known_amounts.currency,
        known_amounts.month,
        known_amounts.horizon_months,
        sum(actuals.received_amount) over last_quarter as received_amount,
        sum(known_amounts.scheduled_amount) over last_quarter as scheduled_amount
    from known_amounts
    inner join actuals
        on
            known_amounts.currency = actuals.currency
            and known_amounts.month = actuals.month
    window
        last_quarter as (
            partition by known_amounts.currency, known_amounts.horizon_months
            order by known_amounts.month
            rows between 2 preceding and current row
        )

),

---------- what was forecast

forecast_parts as (

    select
        known_amounts.currency,
        known_amounts.month,
        known_amounts.made_month,
        known_amounts.horizon_months,
        lines.month_end as made_on,
        known_amounts.scheduled_amount,
        cast(collected.received_amount as double)
        / nullif(cast(collected.scheduled_amount as double), 0) as collection_rate,
        lines.mean_y + lines.slope * (lines.month_number + known_amounts.horizon_months - lines.mean_x)
            as disbursed_line
    from known_amounts
    inner join lines
        on
            known_amounts.currency = lines.currency
            and known_amounts.made_month = lines.month
    inner join collected
        on
            known_amounts.currency = collected.currency
            and known_amounts.made_month = collected.month
            and known_amounts.horizon_months = collected.horizon_months
    -- the further ahead, the more past is needed: a young lender's first months are like no later one
    where lines.months >= known_amounts.horizon_months + 5

),

forecasts as (

    select
        currency,
        month,
        made_month,
        horizon_months,
        made_on,
        scheduled_amount,
        collection_rate,
        {{ money('round(cast(scheduled_amount as double) * collection_rate, 2)') }} as received_forecast,
        {{ money('round(case when disbursed_line > 0 then disbursed_line else 0 end, 2)') }} as disbursed_forecast
    from forecast_parts
    where collection_rate is not null

),

-- millionths of the amounts that were forecast: whole numbers, whose squares sum up exactly in any order
errors as (

    select
        forecasts.currency,
        forecasts.month,
        forecasts.horizon_months,
        cast(round(
            cast(forecasts.received_forecast - forecasts.disbursed_forecast - actuals.net_cash_flow as double)
            * 1000000 / cast(forecasts.received_forecast + forecasts.disbursed_forecast as double)
        ) as bigint) as error_millionths
    from forecasts
    inner join actuals
        on
            forecasts.currency = actuals.currency
            and forecasts.month = actuals.month
    where forecasts.received_forecast + forecasts.disbursed_forecast > 0

),

-- of the errors known when a forecast was made, those of the last 12 months
known_errors as (

    select
        forecasts.currency,
        forecasts.month,
        forecasts.horizon_months,
        count(*) as errors,
        sum(cast(errors.error_millionths as decimal(38, 0)) * errors.error_millionths) as squares
    from forecasts
    inner join errors
        on
            forecasts.currency = errors.currency
            and forecasts.horizon_months = errors.horizon_months
            and forecasts.made_month >= errors.month
            and forecasts.made_month < {{ dbt.dateadd('month', 12, 'errors.month') }}
    group by 1, 2, 3

),

---------- one row per month

last_month as (

    select max(month) as month from actuals

),

-- of months that have ended the forecast of the month before, of later ones the latest
chosen as (

    select forecasts.*
    from forecasts
    cross join last_month
    where
        (forecasts.month <= last_month.month and forecasts.horizon_months = 1)
        or (
            forecasts.made_month = last_month.month
            and {{ ledger_is_complete_on(as_of_date()) }}
        )

),

months as (

    select
        month,
        currency
    from cash_flow
    union
    select
        month,
        currency
    from chosen

),

joined as (

    select
        months.month,
        months.currency,
        chosen.made_on,
        chosen.horizon_months,
        actuals.received_amount,
        actuals.disbursed_amount,
        actuals.net_cash_flow,
        chosen.scheduled_amount,
        chosen.collection_rate,
        chosen.received_forecast,
        chosen.disbursed_forecast,
        chosen.received_forecast - chosen.disbursed_forecast as net_cash_flow_forecast,
        case
            when known_errors.errors >= 3
                then {{ money(
                    'round(1.2816e0 * sqrt(cast(known_errors.squares as double) / known_errors.errors) / 1000000'
                    ~ ' * cast(chosen.received_forecast + chosen.disbursed_forecast as double), 2)'
                ) }}
        end as margin,
        last_year.net_cash_flow as net_cash_flow_baseline,
        {{ rate_to_brl('months.currency', 'fx_rates.sell') }} as fx_rate_to_brl
    from months
    left join actuals on months.month = actuals.month and months.currency = actuals.currency
    left join chosen on months.month = chosen.month and months.currency = chosen.currency
    left join known_errors
        on
            chosen.currency = known_errors.currency
            and chosen.month = known_errors.month
            and chosen.horizon_months = known_errors.horizon_months
    left join actuals as last_year
        on
            months.currency = last_year.currency
            and months.month = cast({{ dbt.dateadd('month', 12, 'last_year.month') }} as date)
    left join fx_rates
        on
            chosen.currency = fx_rates.currency
            and chosen.made_on = fx_rates.fx_date

),

compared as (

    select
        *,
        net_cash_flow_forecast - net_cash_flow as forecast_error,
        net_cash_flow_baseline - net_cash_flow as baseline_error,
        net_cash_flow is not null and net_cash_flow_forecast is not null and net_cash_flow_baseline is not null
            as is_compared
    from joined

),

-- by windows, since Trino works out what is joined to itself twice, and refuses more than 150 stages
summed as (

    select
        *,
        count(case when is_compared then 1 end) over (partition by currency) as months_compared,
        sum(case when is_compared then abs(forecast_error) end) over (partition by currency) as absolute_errors,
        sum(case when is_compared then abs(baseline_error) end) over (partition by currency)
            as baseline_absolute_errors
    from compared

),

scored as (

    select
        *,
        {{ money('round(cast(absolute_errors as double) / nullif(months_compared, 0), 2)') }} as mean_absolute_error,
        {{ money('round(cast(baseline_absolute_errors as double) / nullif(months_compared, 0), 2)') }}
            as baseline_mean_absolute_error,
        absolute_errors < baseline_absolute_errors as beats_baseline
    from summed

),

final as (

    select
        ---------- ids
        month,
        currency,

        ---------- what happened
        {{ money('received_amount') }} as received_amount,
        {{ money('disbursed_amount') }} as disbursed_amount,
        {{ money('net_cash_flow') }} as net_cash_flow,

        ---------- the forecast
        made_on,
        cast(horizon_months as integer) as horizon_months,
        {{ money('scheduled_amount') }} as scheduled_amount,
        collection_rate,
        received_forecast,
        disbursed_forecast,
        {{ money('net_cash_flow_forecast') }} as net_cash_flow_forecast,
        {{ money('net_cash_flow_forecast - margin') }} as net_cash_flow_low,
        {{ money('net_cash_flow_forecast + margin') }} as net_cash_flow_high,

        ---------- how good it is
        {{ money('forecast_error') }} as forecast_error,
        abs(forecast_error) <= margin as is_within_interval,
        {{ money('net_cash_flow_baseline') }} as net_cash_flow_baseline,
        {{ money('baseline_error') }} as baseline_error,
        cast(months_compared as integer) as months_compared,
        mean_absolute_error,
        baseline_mean_absolute_error,
        beats_baseline,

        ---------- exchange
        cast(fx_rate_to_brl as decimal(18, 8)) as fx_rate_to_brl,
        {{ money('cast(net_cash_flow_forecast as decimal(38, 2)) * fx_rate_to_brl') }}
            as net_cash_flow_forecast_brl,
        case
            when currency = 'BRL' and net_cash_flow_forecast is not null then {{ money('0') }}
            else {{ share_of_money(
                'cast(net_cash_flow_forecast as decimal(38, 2)) * fx_rate_to_brl', '0.1'
            ) }}
        end as fx_effect_10pct_brl
    from scored

)

select * from final
