{#
    Records of staging whose reference leads to no current version: one row each, and what became of the parent.
    `references` are (child, its key, the reference, parent, its key, whether the source enforces it).
#}
{% macro children_without_parent(references) -%}
{%- for child, key, reference, parent, parent_key, is_enforced in references %}
select
    '{{ child }}' as child_table,
    {% for column in key -%}
    cast(child.{{ column }} as varchar){{ " || '/' || " if not loop.last }}
    {%- endfor %} as child_key,
    '{{ parent }}' as parent_table,
    cast(child.{{ reference }} as varchar) as parent_key,
    case
        when parent.deleted_at is not null then 'deleted'
        when quarantined.{{ parent_key }} is not null then 'quarantined'
        else 'unknown'
    end as parent_fate,
    {{ is_enforced }} as is_enforced
from {{ ref('stg_' ~ child) }} as child
left join {{ ref('stg_' ~ parent) }} as parent on child.{{ reference }} = parent.{{ parent_key }}
left join (
    select distinct {{ parent_key }}
    from {{ ref('quarantine_' ~ parent) }}
) as quarantined
    on child.{{ reference }} = quarantined.{{ parent_key }}
where
    child.{{ reference }} is not null
    and child.deleted_at is null
    and (parent.{{ parent_key }} is null or parent.deleted_at is not null)
{{- '\nunion all' if not loop.last }}
{%- endfor %}
{%- endmacro %}
