{#
    Fails on a key that several rows have, and on rows in which a column of the key or of `never_null` is null.
    One test for what unique, not_null of each column and a combination of columns would take many nodes to say.
#}
{% test one_row_per(model, key, never_null=[]) %}

select
    {{ key_as_text(key) }} as record_key,
    'several rows' as problem
from {{ model }}
group by {{ key | join(', ') }}
having count(*) > 1
union all
select
    {{ key_as_text(key) }} as record_key,
    'null' as problem
from {{ model }}
where
    {{ (key + never_null) | join(' is null\n    or ') }} is null

{% endtest %}
