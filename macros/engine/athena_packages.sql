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


{# The value that a share of the values is below, between two of them in proportion, as percentile_cont says it. #}
{% macro athena__quantile(field, quantile, partition=none) -%}
    {%- if partition -%}
        {%- do exceptions.raise_compiler_error('on Athena, percentile_cont() is an aggregate only: group by ' ~ partition) -%}
    {%- endif -%}
    {%- set values = 'array_agg(cast(' ~ field ~ ' as double) order by ' ~ field ~ ') filter (where ' ~ field ~ ' is not null)' -%}
    {%- set place = "cast('" ~ quantile ~ "' as double) * (count(" ~ field ~ ') - 1)' -%}
    {%- set below = 'element_at(' ~ values ~ ', cast(floor(' ~ place ~ ') as integer) + 1)' -%}
    {%- set above = 'element_at(' ~ values ~ ', cast(ceiling(' ~ place ~ ') as integer) + 1)' -%}
    case
        when count({{ field }}) > 0 then {{ below }} + ({{ above }} - {{ below }}) * ({{ place }} - floor({{ place }}))
    end
{%- endmacro %}


{# Are there as many rows, in each group? The package's own groups by an alias, which Athena does not know. #}
{% macro athena__test_equal_rowcount(model, compare_model, group_by_columns=[]) -%}
    {{ config(fail_calc = 'sum(coalesce(diff_count, 0))') }}
    {%- set groups = ['1'] + group_by_columns -%}
    with

    {%- for side, relation in (('a', model), ('b', compare_model)) %}

    {{ side }} as (

        select
            {%- for column in groups %}
            {{ column }} as group_{{ loop.index }},
            {%- endfor %}
            count(*) as count_{{ side }}
        from {{ relation }}
        group by {% for column in groups %}{{ loop.index }}{{ ', ' if not loop.last }}{% endfor %}

    ),
    {%- endfor %}

    final as (

        select
            {%- for column in groups %}
            coalesce(a.group_{{ loop.index }}, b.group_{{ loop.index }}) as group_{{ loop.index }},
            {%- endfor %}
            a.count_a,
            b.count_b,
            abs(coalesce(a.count_a, 0) - coalesce(b.count_b, 0)) as diff_count
        from a
        full join b
            on
                {% for column in groups -%}
                a.group_{{ loop.index }} = b.group_{{ loop.index }}
                {{- '\n                and ' if not loop.last }}
                {%- endfor %}

    )

    select * from final
{%- endmacro %}
