{# Fails on rows in which any of the columns is below zero; null is allowed. One scan for all of them. #}
{% test never_negative(model, columns) %}

select *
from {{ model }}
where
    {{ columns | join(' < 0\n    or ') }} < 0

{% endtest %}
