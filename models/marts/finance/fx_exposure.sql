{%- set book = "'" ~ book_currency() ~ "'" %}

with

positions as (

    select * from {{ ref('scr_monthly_position') }}

),

fx_rates as (

    select * from {{ ref('int_fx_rates__daily') }}

),

-- rates into BRL, which PTAX does not quote itself
rates as (

    select
        currency,
        fx_date,
        sell,
        rate_date
    from fx_rates
    union all
    select distinct
        'BRL' as currency,
        fx_date,
        cast('1' as decimal(18, 8)) as sell,
        fx_date as rate_date
    from fx_rates

),

open_amounts as (

    select
        month,
        measured_on,
        currency,
        sum(case when outstanding_amount > 0 then 1 else 0 end) as open_loans,
        sum(outstanding_amount) as outstanding_amount,
        sum(overdue_amount) as overdue_amount,
        sum(due_1_30_amount) as due_1_30_amount,
        sum(due_31_90_amount) as due_31_90_amount,
        sum(due_91_360_amount) as due_91_360_amount,
        sum(due_after_360_amount) as due_after_360_amount
    from positions
    where currency <> {{ book }}
    group by 1, 2, 3

),

---------- how much the rate moves

quotes as (

    select
        rates.currency,
        rates.fx_date,
        cast(rates.sell as double) / cast(book_rates.sell as double) as rate
    from rates
    inner join rates as book_rates on rates.fx_date = book_rates.fx_date
    where
        rates.fx_date = rates.rate_date
        and book_rates.currency = {{ book }}

),

moves as (

    select
        currency,
        fx_date,
        rate / lag(rate) over (partition by currency order by fx_date) - 1 as daily_move
    from quotes

),

-- millionths: whole numbers, whose squares sum up exactly in any order
squares as (

    select
        currency,
        fx_date,
        count(daily_move) over last_quarter as moves,
        sum(cast(round(daily_move * 1000000) as bigint) * cast(round(daily_move * 1000000) as bigint))
            over last_quarter as squares
    from moves
    window last_quarter as (partition by currency order by fx_date rows between 62 preceding and current row)

),

volatilities as (

    select
        currency,
        fx_date,
        sqrt(cast(squares as double) / moves * 252) / 1000000 as volatility
    from squares
    where moves >= 20

),

---------- what it means

valued as (

    select
        open_amounts.month,
        open_amounts.measured_on,
        open_amounts.currency,
        open_amounts.open_loans,
        open_amounts.outstanding_amount,
        open_amounts.overdue_amount,
        open_amounts.due_1_30_amount,
        open_amounts.due_31_90_amount,
        open_amounts.due_91_360_amount,
        open_amounts.due_after_360_amount,
        cast(rates.sell as double) / cast(book_rates.sell as double) as fx_rate,
        {{ convert_money(
            'open_amounts.outstanding_amount', 'open_amounts.currency', 'rates.sell', book, 'book_rates.sell'
        ) }} as exposure_amount,
        volatilities.volatility
    from open_amounts
    left join rates
        on
            open_amounts.currency = rates.currency
            and open_amounts.measured_on = rates.fx_date
    left join rates as book_rates
        on
            open_amounts.measured_on = book_rates.fx_date
            and book_rates.currency = {{ book }}
    left join volatilities
        on
            rates.currency = volatilities.currency
            and rates.rate_date = volatilities.fx_date

),

final as (

    select
        ---------- ids
        month,
        currency,
        measured_on,

        ---------- in the foreign currency
        cast(open_loans as bigint) as open_loans,
        {{ money('outstanding_amount') }} as outstanding_amount,
        {{ money('overdue_amount') }} as overdue_amount,
        {{ money('due_1_30_amount') }} as due_1_30_amount,
        {{ money('due_31_90_amount') }} as due_31_90_amount,
        {{ money('due_91_360_amount') }} as due_91_360_amount,
        {{ money('due_after_360_amount') }} as due_after_360_amount,

        ---------- in the book currency
        cast({{ book }} as varchar) as book_currency,
        cast(round(fx_rate, 8) as decimal(18, 8)) as fx_rate_to_book,
        exposure_amount,
        {{ share_of_money('exposure_amount', '1.1') }} as exposure_up_10pct_amount,
        {{ share_of_money('exposure_amount', '0.9') }} as exposure_down_10pct_amount,
        {{ share_of_money('exposure_amount', '0.1') }} as effect_10pct_amount,
        volatility,
        {{ money('round(cast(exposure_amount as double) * volatility / sqrt(12e0), 2)') }} as usual_monthly_move_amount
    from valued

)

select * from final
