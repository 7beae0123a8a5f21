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


{# The text that `list_to_text` makes, as a list again. #}
{% macro text_to_list(text) -%}
    {{ return(adapter.dispatch('text_to_list')(text)) }}
{%- endmacro %}

{% macro default__text_to_list(text) -%}
    string_split({{ text }}, ', ')
{%- endmacro %}

{% macro athena__text_to_list(text) -%}
    split({{ text }}, ', ')
{%- endmacro %}
