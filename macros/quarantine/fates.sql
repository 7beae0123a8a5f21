{# Parts of the test every_landed_row_has_one_fate. #}

{# The key's columns of a raw table, as staging keeps them. #}
{% macro normalised_key(key) -%}
    {%- for column, normalise in key.items() -%}
    {{ normalised(column, normalise) }} as {{ column }}{{ ', ' if not loop.last }}
    {%- endfor -%}
{%- endmacro %}


{# The key's columns as one text. #}
{% macro key_as_text(key) -%}
    {%- for column in key -%}
    cast({{ column }} as varchar){{ " || '/' || " if not loop.last }}
    {%- endfor -%}
{%- endmacro %}


{# Condition on a row's day, a text: as_of_date, or, with var `whole_history`, any day until then. #}
{% macro is_day_under_test(day) -%}
    {{ day }} {{ '<=' if var('whole_history') else '=' }} '{{ as_of_day() }}'
{%- endmacro %}


{#
    Is the staged row ahead of a landed version of the same record? A later batch is; copies in the event log are
    ordered by more than their batch, so there any other row is taken to be.
#}
{% macro is_superseded(staged, landed, version) -%}
    {%- if version == ['_batch_id'] -%} {{ staged }}._batch_id > {{ landed }}._batch_id {%- else -%} true {%- endif -%}
{%- endmacro %}
