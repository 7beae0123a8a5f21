{#
    When a raw table was last landed. A run that finds nothing new lands an object of zero rows, or none
    where that day already has one: the table is as fresh as its newest batch, whose manifest says when it
    was written. Asking the rows would call a quiet table stale and fail on an empty one.
#}
{% macro duckdb__collect_freshness(source, loaded_at_field, filter) %}
  {% call statement('collect_freshness', fetch_result=True, auto_begin=False) -%}
    select
        max(cast(json_extract_string(decode(value), '$.finished_at') as timestamptz)) as max_loaded_at,
        {{ current_timestamp() }} as snapshotted_at
    from parquet_kv_metadata('{{ raw_files(source) }}')
    where decode(key) = 'credit_lakehouse.manifest'
  {% endcall %}
  {{ return(load_result('collect_freshness')) }}
{% endmacro %}

{# Athena cannot read footers: ingestion writes the time into the table's parameters in Glue. #}
{% macro athena__collect_freshness(source, loaded_at_field, filter) %}
  {%- set known = raw_in_glue(source) -%}
  {%- if not known -%}
    {%- do exceptions.raise_compiler_error(
        source.identifier ~ ' is not in Glue: set GLUE_DATABASE and run `python -m ingestion run`'
    ) -%}
  {%- endif -%}
  {% call statement('collect_freshness', fetch_result=True, auto_begin=False) -%}
    select
        from_iso8601_timestamp('{{ known["lakehouse.landed_at"] }}') as max_loaded_at,
        {{ current_timestamp() }} as snapshotted_at
  {% endcall %}
  {{ return(load_result('collect_freshness')) }}
{% endmacro %}


{# The glob of a raw table's files, from its read_parquet(). #}
{% macro raw_files(relation) -%}
    {{ return(relation.external.split("'")[1]) }}
{%- endmacro %}
