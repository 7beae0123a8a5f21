{# Fails on rows whose A is not greater than B (nor equal, with or_equal); a null on either side passes. #}
{% test expect_column_pair_values_A_to_be_greater_than_B(model, column_A, column_B, or_equal=false, row_condition=none) %}
    {{ dbt_expectations.rows_not_meeting(model, column_A ~ (' >= ' if or_equal else ' > ') ~ column_B, row_condition) }}
{% endtest %}


{# Fails on texts of another length; null passes. #}
{% test expect_column_value_lengths_to_equal(model, column_name, value, row_condition=none) %}
    {{ dbt_expectations.rows_not_meeting(model, dbt.length(column_name) ~ ' = ' ~ value, row_condition) }}
{% endtest %}


{# The rows, of those that row_condition picks, for which the expression is false. #}
{% macro rows_not_meeting(model, expression, row_condition=none) %}
select *
from {{ model }}
where
    not ({{ expression }})
    {%- if row_condition %}
    and ({{ row_condition }})
    {%- endif %}
{% endmacro %}
