{#
    Money and exchange. Amounts are decimals from end to end: a double appears only where a rate has to
    be divided by another rate, and is rounded to cents at once.
#}

{% macro money(expression) -%}
    cast({{ expression }} as decimal(18, 2))
{%- endmacro %}


{# The rate of a currency in BRL: 1 for BRL itself, which PTAX does not quote, else the rate joined. #}
{% macro rate_to_brl(currency, sell) -%}
    case when {{ currency }} = 'BRL' then cast('1' as decimal(18, 8)) else {{ sell }} end
{%- endmacro %}


{#
    An amount in another currency, through BRL, or null where a needed rate is missing. Nothing is needed
    for an amount of zero or for the same currency. Wide on one side: DuckDB overflows on
    decimal(18, 2) * decimal(18, 8), Trino widens by itself; decimal(38, 2) * decimal(18, 8) is
    decimal(38, 10) on both. Into BRL, to_rate is not needed.
#}
{% macro convert_money(amount, from_currency, from_rate, to_currency, to_rate='null') -%}
    case
        when {{ amount }} = 0 or {{ from_currency }} = {{ to_currency }}
            then {{ money(amount) }}
        when {{ to_currency }} = 'BRL'
            then {{ money('cast(' ~ amount ~ ' as decimal(38, 2)) * ' ~ from_rate) }}
        else
            {{ money(
                'round(cast(' ~ amount ~ ' as double) * cast(' ~ from_rate ~ ' as double)'
                ~ ' / cast(' ~ to_rate ~ ' as double), 2)'
            ) }}
    end
{%- endmacro %}


{# Rates of as_of_date, one row per currency: into BRL (`sell`), and that of the book currency (`book_sell`). #}
{% macro rates_into_book(fx_rates) -%}
    select
        currency,
        sell,
        max(case when currency = '{{ book_currency() }}' then sell end) over () as book_sell
    from (
        select
            currency,
            sell
        from {{ fx_rates }}
        where fx_date = {{ as_of_date() }}
        union all
        select
            'BRL' as currency,
            cast('1' as decimal(18, 8)) as sell
    ) as quoted
{%- endmacro %}


{# An amount in the book currency; `rates` are those of `rates_into_book`, left joined on the amount's currency. #}
{% macro convert_into_book(amount, currency, rates) -%}
    {{ convert_money(amount, currency, rates ~ '.sell', "'" ~ book_currency() ~ "'", rates ~ '.book_sell') }}
{%- endmacro %}


{# A sum that is null as soon as one addend is null: a missing rate must not shrink a total. #}
{% macro sum_unless_missing(expression) -%}
    case when count(*) = count({{ expression }}) then {{ money('sum(' ~ expression ~ ')') }} end
{%- endmacro %}


{# The closing rate a moment could know: the day's own once it was published, before that the last one. #}
{% macro rate_known_at(fx_rates, moment) -%}
    case when {{ fx_rates }}.quoted_at <= {{ moment }} then {{ fx_rates }}.sell else {{ fx_rates }}.opening_sell end
{%- endmacro %}


{# A share of an amount, given as a text such as '0.1': a decimal divided is a double on DuckDB, multiplied it is exact. #}
{% macro share_of_money(amount, share) -%}
    {{ money('cast(' ~ amount ~ ' as decimal(38, 10)) * cast(\'' ~ share ~ '\' as decimal(2, 1))') }}
{%- endmacro %}
