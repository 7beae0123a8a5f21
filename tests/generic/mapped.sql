{#
    Warns of values that a mapping seed does not know, and of rows that were built before the seed last
    changed. The first needs a line in the seed; both then need `dbt build --full-refresh` of the model.

    source_column   the source's own value
    mapping         ref() of the seed, whose `source_value` is unique
    mapped_to       the seed's column with our value
    in_list         true when both columns are lists
#}
{% test mapped(model, column_name, source_column, mapping, mapped_to, in_list=false) %}

{{ config(severity = 'warn') }}

with

rows_built as (

    select * from {{ model }}

),

built as (

    {% if in_list -%}
    select
        source_item.source_value,
        mapped_item.mapped_value,
        count(*) as occurrences
    from rows_built
    cross join unnest(rows_built.{{ source_column }}) with ordinality as source_item (source_value, n)
    cross join unnest(rows_built.{{ column_name }}) with ordinality as mapped_item (mapped_value, m)
    where source_item.n = mapped_item.m
    {%- else -%}
    select
        {{ source_column }} as source_value,
        {{ column_name }} as mapped_value,
        count(*) as occurrences
    from rows_built
    {%- endif %}
    group by 1, 2

)

select built.*
from built
left join {{ mapping }} as mapping on built.source_value = mapping.source_value
where
    built.mapped_value = 'unmapped'
    or built.mapped_value <> coalesce(mapping.{{ mapped_to }}, 'unmapped')

{% endtest %}
