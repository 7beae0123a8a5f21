{#-
    The seed `metrics` gives the SQL of each metric in every mart that shows it. Fails where two marts differ in any
    row, and where a mart no longer understands its SQL.
-#}
{%- set marts = [
    ref('approval_funnel'), ref('approval_funnel_by_partner'), ref('credit_decisions'), ref('customer_360'),
    ref('customer_engagement_monthly'), ref('customer_segments'), ref('engagement_cohorts'),
    ref('engagement_cohorts_by_partner'), ref('engagement_monthly'), ref('engagement_monthly_by_partner'),
    ref('fx_exposure'), ref('loan_vintages'), ref('loan_vintages_by_partner'), ref('ml_cash_flow_forecast'),
    ref('monthly_cash_flow'), ref('refusal_reasons'), ref('refusal_reasons_by_partner'), ref('scr_monthly_position'),
] -%}
{%- set metrics = ref('metrics') -%}
{%- set first = {} -%}
{%- if execute -%}
    {%- for metric, mart, sql in run_query('select metric, mart, sql from ' ~ metrics ~ ' order by metric, mart').rows -%}
        {%- do first.setdefault(metric, sql) %}

{{ 'union all' if not loop.first }}
select
    '{{ metric }}' as metric,
    '{{ mart }}' as mart,
    count(*) as differing_rows
from (
    (select * from ({{ sql }}) as these except select * from ({{ first[metric] }}) as others)
    union all
    (select * from ({{ first[metric] }}) as others except select * from ({{ sql }}) as these)
) as differences
having count(*) > 0
    {%- endfor -%}
{%- else -%}
    select 1 as metric
{%- endif %}
