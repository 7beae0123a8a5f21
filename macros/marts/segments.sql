{# A condition: is a value in a band of the seed `segment_bands`? From its lower bound on, below its upper one. #}
{% macro is_in_band(value, band) -%}
    {{ value }} >= {{ band }}.from_value and ({{ band }}.to_value is null or {{ value }} < {{ band }}.to_value)
{%- endmacro %}
