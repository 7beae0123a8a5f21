{#
    A time of the raw layer as the warehouse keeps it: naive UTC, rounded to milliseconds. Athena reads
    Parquet's microseconds rounded so, and both engines must find the same version the latest.
#}
{% macro ts(column) -%}
    {{ return(adapter.dispatch('ts')(column)) }}
{%- endmacro %}

{% macro default__ts(column) -%}
    date_trunc('milliseconds', cast({{ column }} as timestamp) + interval 500 microseconds)
{%- endmacro %}

{% macro athena__ts(column) -%}
    cast({{ column }} as timestamp(6))
{%- endmacro %}


{# The day in America/Sao_Paulo of a time in naive UTC. #}
{% macro business_date(timestamp) -%}
    {{ return(adapter.dispatch('business_date')(timestamp)) }}
{%- endmacro %}

{#
    São Paulo is behind UTC by at most 3:06:28 (its local time until 1914), so from 04:00 UTC on the day is
    the same. Only the other times need the time zone, whose rules cost eight times as much to apply.
#}
{% macro default__business_date(timestamp) -%}
    case
        when extract(hour from {{ timestamp }}) >= 4 then cast({{ timestamp }} as date)
        else cast(timezone('America/Sao_Paulo', timezone('UTC', {{ timestamp }})) as date)
    end
{%- endmacro %}

{% macro athena__business_date(timestamp) -%}
    cast(at_timezone(with_timezone({{ timestamp }}, 'UTC'), 'America/Sao_Paulo') as date)
{%- endmacro %}


{# The end of a logical day (YYYY-MM-DD), in naive UTC: midnight in São Paulo is 03:00 UTC. #}
{% macro end_of_day(day) -%}
    {{ ts(dbt.dateadd('hour', 27, 'cast(cast(' ~ day ~ ' as date) as timestamp)')) }}
{%- endmacro %}
