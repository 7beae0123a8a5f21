{#
    Comparisons of a metric's SQL in two marts, as one query: metric, mart, rows that one of the two lacks. Each of
    them is (metric, mart, its SQL, the SQL of the mart it is compared with).
#}
{% macro differing_metrics(comparisons) -%}
    {%- for metric, mart, these, others in comparisons %}
select
    '{{ metric }}' as metric,
    '{{ mart }}' as mart,
    count(*) as differing_rows
from (
    (select * from ({{ these }}) as these except select * from ({{ others }}) as others)
    union all
    (select * from ({{ others }}) as others except select * from ({{ these }}) as these)
) as differences
{{- '\nunion all' if not loop.last }}
    {%- endfor -%}
{%- endmacro %}
