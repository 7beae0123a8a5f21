{# Fails on rows in which any of the columns is null: one scan, where a not_null each would take many. #}
{% test never_null(model, columns) %}

select *
from {{ model }}
where
    {{ columns | join(' is null\n    or ') }} is null

{% endtest %}
