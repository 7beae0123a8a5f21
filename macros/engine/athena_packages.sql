{#
    What dbt_utils, dbt_expectations and dbt_date say in words that Athena does not know. They have versions for Trino,
    which dbt never takes for Athena: its adapter names no parent.
#}

{# The place of a pattern in a text, from 1; 0 where it is not found. #}
{% macro athena__regexp_instr(source_value, regexp, position=1, occurrence=1, is_raw=False, flags='') -%}
    {%- set pattern = ('(?' ~ flags ~ ')' if flags else '') ~ regexp -%}
    greatest(regexp_position({{ source_value }}, '{{ pattern | replace("'", "''") }}', {{ position }}, {{ occurrence }}), 0)
{%- endmacro %}


{# A time of one zone as the clocks of another show it. #}
{% macro athena__convert_timezone(column, target_tz, source_tz) -%}
    cast(at_timezone(with_timezone(cast({{ column }} as timestamp), '{{ source_tz or "UTC" }}'), '{{ target_tz }}') as timestamp)
{%- endmacro %}


{# Of the rows with equal `partition_by` the first by `order_by`. Athena has no natural join and no qualify. #}
{% macro athena__deduplicate(relation, partition_by, order_by) -%}
    {%- if relation is string -%}
        {%- do exceptions.raise_compiler_error(
            'on Athena, deduplicate() takes a ref() or source(): the columns of ' ~ relation ~ ' are not known'
        ) -%}
    {%- endif -%}
    {%- set columns = adapter.get_columns_in_relation(relation) | map(attribute='quoted') | join(', ') if execute else '*' -%}
    select {{ columns }}
    from (
        select
            *,
            row_number() over (partition by {{ partition_by }} order by {{ order_by }}) as _place
        from {{ relation }}
    )
    where _place = 1
{%- endmacro %}
