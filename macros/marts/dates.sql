{# The first day of a date's month. date_trunc of a date is a timestamp on DuckDB, a date on Trino. #}
{% macro month_of(day) -%}
    cast(date_trunc('month', {{ day }}) as date)
{%- endmacro %}


{# The last day of a month that is given by its first day. #}
{% macro month_end(month) -%}
    cast({{ dbt.dateadd('day', -1, dbt.dateadd('month', 1, month)) }} as date)
{%- endmacro %}


{# A date plus a number of days, as a date on both engines. #}
{% macro add_days(day, days) -%}
    cast({{ dbt.dateadd('day', days, day) }} as date)
{%- endmacro %}


{# Days from one date to a later one. #}
{% macro days_between(first_day, second_day) -%}
    cast({{ dbt.datediff(first_day, second_day, 'day') }} as integer)
{%- endmacro %}


{# Full years from one date to another, as an integer: (yyyymmdd - yyyymmdd) / 10000, rounded down. #}
{% macro full_years_between(first_day, second_day) -%}
    cast(floor(cast(
        (extract(year from {{ second_day }}) - extract(year from {{ first_day }})) * 10000
        + (extract(month from {{ second_day }}) - extract(month from {{ first_day }})) * 100
        + (extract(day from {{ second_day }}) - extract(day from {{ first_day }}))
        as double) / 10000) as integer)
{%- endmacro %}
