{# A currency as its ISO 4217 code. #}
{% macro currency_code(column) -%}
    upper(trim({{ column }}))
{%- endmacro %}


{#
    A Brazilian state as its two capital letters. What is no two-letter code (another country's region)
    stays as it is written, without surrounding blanks.
#}
{% macro state_code(column) -%}
    case
        when length(trim({{ column }})) = 2 then upper(trim({{ column }}))
        else nullif(trim({{ column }}), '')
    end
{%- endmacro %}
