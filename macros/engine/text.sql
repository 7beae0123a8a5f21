{# The value at a path of a JSON text, such as '$.channel', as text: cast it. Null when it is not there. #}
{% macro json_scalar(column, path) -%}
    {{ return(adapter.dispatch('json_scalar')(column, path)) }}
{%- endmacro %}

{% macro default__json_scalar(column, path) -%}
    json_extract_string({{ column }}, '{{ path }}')
{%- endmacro %}

{% macro athena__json_scalar(column, path) -%}
    json_extract_scalar({{ column }}, '{{ path }}')
{%- endmacro %}


{# A text without everything that is no digit. #}
{% macro digits(column) -%}
    {{ return(adapter.dispatch('digits')(column)) }}
{%- endmacro %}

{% macro default__digits(column) -%}
    regexp_replace({{ column }}, '[^0-9]', '', 'g')
{%- endmacro %}

{% macro athena__digits(column) -%}
    regexp_replace({{ column }}, '[^0-9]', '')
{%- endmacro %}
