{#
    What versions of the policy would have decided, against what happened, in the columns of `policy_backtest`. `by`
    are columns of `policy_backtest_decisions` that the rows are told apart by besides.
#}
{% macro policy_backtest(by=[]) %}
{%- set keys = ['policy_version'] + by + ['swap_class', 'score_band'] -%}

with

decisions as (

    select * from {{ ref('policy_backtest_decisions') }}

),

-- each order once: what was lent at a band of scores, and how much of it defaulted
loans as (

    select
        order_id,
        score_band,
        label_default
    from decisions
    where label_default is not null
    group by 1, 2, 3

),

bands as (

    select
        score_band,
        count(*) as loans,
        sum(case when label_default then 1 else 0 end) as defaults
    from loans
    group by 1

),

grouped as (

    select
        {{ keys | join(',\n        ') }},
        count(*) as orders,
        {{ sum_unless_missing('requested_amount_brl') }} as requested_amount_brl,
        count(label_default) as loans_observed,
        sum(case when label_default then 1 else 0 end) as defaults_observed
    from decisions
    group by {{ keys | join(', ') }}

),

-- a swap-in was never lent to: loans of the same band of scores stand for it
supported as (

    select
        {%- for key in keys %}
        grouped.{{ key }},
        {%- endfor %}
        grouped.orders,
        grouped.requested_amount_brl,
        grouped.swap_class = 'swap_in' as is_estimated,
        case when grouped.swap_class = 'swap_in' then coalesce(bands.loans, 0) else grouped.loans_observed end as loans,
        case when grouped.swap_class = 'swap_in' then coalesce(bands.defaults, 0) else grouped.defaults_observed end
            as defaults
    from grouped
    left join bands on grouped.score_band = bands.score_band

),

bounded as (

    select
        *,
        {{ wilson_low('defaults', 'loans') }} as default_rate_low,
        {{ wilson_high('defaults', 'loans') }} as default_rate_high
    from supported

),

final as (

    select
        {{ keys | join(',\n        ') }},
        cast(orders as bigint) as orders,
        requested_amount_brl,
        is_estimated,
        cast(loans as bigint) as loans_behind_rate,
        cast(defaults as double) / nullif(cast(loans as double), 0) as default_rate,
        case when is_estimated then default_rate_low end as default_rate_low,
        case when is_estimated then default_rate_high end as default_rate_high
    from bounded

)

select * from final
{% endmacro %}
