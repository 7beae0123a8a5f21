{#
    What was known of a record at a moment: of its versions the last one written by then (`version_at`), in the order
    of their batches, or else the first there is. These two columns turn a table of versions into spans that never
    overlap and leave no gap; `is_known_at` picks the one of a moment.
#}
{% macro known_span(key) -%}
    case
            when row_number() over (partition by {{ key }} order by _batch_id) > 1 then version_at
        end as known_from,
        min(version_at) over (
            partition by {{ key }}
            order by _batch_id
            rows between 1 following and unbounded following
        ) as known_until
{%- endmacro %}


{# A condition: is it this version of `versions` (an alias) that was known at the moment? #}
{% macro is_known_at(versions, moment) -%}
    ({{ versions }}.known_from is null or {{ versions }}.known_from <= {{ moment }})
            and ({{ versions }}.known_until is null or {{ versions }}.known_until > {{ moment }})
{%- endmacro %}
