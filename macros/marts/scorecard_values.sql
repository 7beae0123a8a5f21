{# The features that a scorecard may look at, one row per order and feature, from a relation that has them as columns. #}
{% macro scorecard_values(features) -%}
    {%- for feature in var('scorecard_features') %}
    select
        order_id,
        partner_id,
        '{{ feature }}' as feature,
        cast({{ feature }} as double) as feature_value
    from {{ features }}
    {%- if not loop.last %}
    union all
    {%- endif %}
    {%- endfor %}
{%- endmacro %}
