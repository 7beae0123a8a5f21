{# A list of texts as one text, in the list's order: 'a, b'. Null for a null list. #}
{% macro list_to_text(list) -%}
    {{ return(adapter.dispatch('list_to_text')(list)) }}
{%- endmacro %}

{% macro default__list_to_text(list) -%}
    array_to_string({{ list }}, ', ')
{%- endmacro %}

{% macro athena__list_to_text(list) -%}
    array_join({{ list }}, ', ')
{%- endmacro %}
