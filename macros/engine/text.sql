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
