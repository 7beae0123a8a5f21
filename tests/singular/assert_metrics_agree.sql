{#-
    The seed `metrics` gives the SQL of each metric in every mart that shows it. Fails where two marts differ in any
    row, and where a mart no longer understands its SQL.
-#}
{%- set marts = [
    ref('approval_funnel'), ref('approval_funnel_by_partner'), ref('credit_decisions'), ref('customer_360'),
    ref('customer_engagement_monthly'), ref('customer_segments'), ref('engagement_cohorts'),
    ref('engagement_cohorts_by_partner'), ref('engagement_monthly'), ref('engagement_monthly_by_partner'),
    ref('fx_exposure'), ref('loan_vintages'), ref('loan_vintages_by_partner'), ref('ml_cash_flow_forecast'),
    ref('monthly_cash_flow'), ref('monthly_cash_flow_by_partner'), ref('refusal_reasons'),
    ref('refusal_reasons_by_partner'), ref('scr_monthly_position'),
] -%}
{%- set metrics = ref('metrics') -%}
{%- set first = {} -%}
{%- set differing = [] -%}
{%- set comparisons = [] -%}
{%- if execute -%}
    {%- set shown = run_query('select metric, mart, sql from ' ~ metrics ~ ' order by metric, mart').rows -%}
    {%- for metric, mart, sql in shown -%}
        {%- if metric in first -%}
            {%- do comparisons.append((metric, mart, sql, first[metric])) -%}
        {%- endif -%}
        {%- do first.setdefault(metric, sql) -%}
    {%- endfor -%}
    {#- six a query: all together they are more than Athena takes in one -#}
    {%- for some in comparisons | batch(6) -%}
        {%- for metric, mart, rows in run_query(differing_metrics(some)).rows if rows -%}
            {%- do differing.append((metric, mart, rows)) -%}
        {%- endfor -%}
    {%- endfor -%}
{%- endif -%}

select
    metric,
    mart,
    differing_rows
from (
    values
    {%- for metric, mart, rows in differing %}
    ('{{ metric }}', '{{ mart }}', {{ rows }}),
    {%- endfor %}
    ('', '', 0)
) as differing (metric, mart, differing_rows)
where differing_rows > 0
