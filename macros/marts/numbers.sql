{# A relation of one column, n: the whole numbers from 0, as many as asked for. #}
{% macro numbers_from_zero(how_many) -%}
    (values {% for n in range(how_many) %}({{ n }}){{ ', ' if not loop.last }}{% endfor %}) as numbers_from_zero (n)
{%- endmacro %}
