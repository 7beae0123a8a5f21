{#
    The day everything is as of, as a date literal: var `as_of_date`, else AS_OF_DATE, else the latest
    extract_date that every raw table has landed. No model reads a clock.
#}
{% macro as_of_date() -%}
    cast('{{ as_of_day() }}' as date)
{%- endmacro %}


{# The same day as text, YYYY-MM-DD. #}
{% macro as_of_day() -%}
    {%- set configured = var('as_of_date', none) or env_var('AS_OF_DATE', '') -%}
    {%- if configured -%}
        {{ return(validate_day(configured | string, 'as_of_date')) }}
    {%- elif not execute -%}
        {{ return('1970-01-01') }}
    {%- endif -%}
    {#- `graph` is the one object all nodes of an invocation share: what is landed while dbt runs is not
        seen by half of the models. -#}
    {%- if 'as_of_day' not in graph -%}
        {%- do graph.update({'as_of_day': latest_complete_day()}) -%}
    {%- endif -%}
    {{ return(graph['as_of_day']) }}
{%- endmacro %}


{# The latest extract_date that every raw table has landed: the earliest of their latest ones. #}
{% macro latest_complete_day() -%}
    {%- set latest = latest_days() -%}
    {%- set missing = [] -%}
    {%- for table in raw_tables() if not latest.get(table.source_name ~ '.' ~ table.name) -%}
        {%- do missing.append(table.source_name ~ '.' ~ table.name) -%}
    {%- endfor -%}
    {%- if missing -%}
        {%- do exceptions.raise_compiler_error(
            'the lake has nothing of ' ~ (missing | sort | join(', ') if latest else 'any raw table')
            ~ '; run `python -m ingestion run` first, and check LAKE'
        ) -%}
    {%- endif -%}
    {{ return(latest.values() | min) }}
{%- endmacro %}


{# The raw tables of this project, as dbt knows them. #}
{% macro raw_tables() -%}
    {{ return(graph.sources.values() | selectattr('package_name', 'equalto', project_name) | list) }}
{%- endmacro %}


{# The latest extract_date of each raw table that has one: source.table → YYYY-MM-DD. #}
{% macro latest_days() -%}
    {{ return(adapter.dispatch('latest_days')()) }}
{%- endmacro %}

{# The names of the files say it: none is opened. #}
{% macro duckdb__latest_days() -%}
    {%- set pattern = 'raw/([^/]+)/([^/]+)/extract_date=([0-9-]+)/[^/]+$' -%}
    {%- set files = [] -%}
    {%- for table in raw_tables() -%}
        {%- do files.append(raw_files(source(table.source_name, table.name))) -%}
    {%- endfor -%}
    {%- set query -%}
    select
        regexp_extract(file, '{{ pattern }}', 1) || '.' || regexp_extract(file, '{{ pattern }}', 2),
        max(regexp_extract(file, '{{ pattern }}', 3))
    from glob({{ files }})
    group by 1
    {%- endset -%}
    {%- set latest = {} -%}
    {%- for row in run_query(query).rows -%}
        {%- do latest.update({row[0]: row[1]}) -%}
    {%- endfor -%}
    {{ return(latest) }}
{%- endmacro %}

{# Ingestion tells Glue; rows would not know of a day whose batch has none. #}
{% macro athena__latest_days() -%}
    {%- set latest = {} -%}
    {%- for table in raw_tables() -%}
        {%- set known = raw_in_glue(source(table.source_name, table.name)) -%}
        {%- if known -%}
            {%- do latest.update({table.source_name ~ '.' ~ table.name: known['lakehouse.last_day']}) -%}
        {%- endif -%}
    {%- endfor -%}
    {{ return(latest) }}
{%- endmacro %}


{# What ingestion says of a raw table in its parameters in Glue, or none. #}
{% macro raw_in_glue(relation) -%}
    {%- set found = adapter.get_glue_table(relation) -%}
    {{ return(found['Table']['Parameters'] if found else none) }}
{%- endmacro %}


{# A day as YYYY-MM-DD, or a compiler error that names the setting. #}
{% macro validate_day(day, setting) -%}
    {%- if not modules.re.match('^\d{4}-\d{2}-\d{2}$', day) -%}
        {%- do exceptions.raise_compiler_error(setting ~ " is '" ~ day ~ "'; give it as YYYY-MM-DD") -%}
    {%- endif -%}
    {{ return(day) }}
{%- endmacro %}
