with

fx_rates as (

    select *
    from {{ ref('stg_central_bank__fx_rates') }}
    where deleted_at is null

),

closings as (

    select
        currency,
        sell,
        quoted_at,
        {{ business_date('quoted_at') }} as rate_date,
        row_number() over (
            partition by currency, {{ business_date('quoted_at') }}
            order by quoted_at desc, sell desc
        ) as recency
    from fx_rates
    where is_closing

),

-- one closing per currency and business day, with its neighbours
days_quoted as (

    select
        currency,
        rate_date,
        sell,
        quoted_at,
        lag(rate_date) over (partition by currency order by rate_date) as previous_rate_date,
        lag(sell) over (partition by currency order by rate_date) as previous_sell,
        lead(rate_date) over (partition by currency order by rate_date) as next_rate_date
    from closings
    where recency = 1 and rate_date <= {{ as_of_date() }}

),

ages as (

    select n as age_days from {{ numbers_from_zero(var('fx_max_age_days', 7) + 1) }}

),

-- a quote holds on its own day and on days without one, up to the oldest age that is still believed
days_covered as (

    select
        days_quoted.currency,
        {{ add_days('days_quoted.rate_date', 'ages.age_days') }} as fx_date,
        days_quoted.sell,
        days_quoted.rate_date,
        days_quoted.quoted_at,
        ages.age_days,
        case
            when ages.age_days > 0 then days_quoted.sell
            when
                {{ days_between('days_quoted.previous_rate_date', 'days_quoted.rate_date') }}
                <= {{ var('fx_max_age_days', 7) }}
                then days_quoted.previous_sell
        end as opening_sell,
        days_quoted.next_rate_date
    from days_quoted
    cross join ages

),

final as (

    select
        currency,
        fx_date,
        sell,
        opening_sell,
        rate_date,
        quoted_at,
        age_days
    from days_covered
    where
        fx_date <= {{ as_of_date() }}
        and (next_rate_date is null or fx_date < next_rate_date)

)

select * from final
