{# The currency of amounts that sum over currencies: var, else the environment, else the world's. #}
{% macro book_currency() -%}
    {%- set configured = var('book_currency', none) or env_var('BOOK_CURRENCY', '') -%}
    {{- configured or ('CZK' if env_var('WORLD', 'synthetic') == 'berka' else 'BRL') -}}
{%- endmacro %}


{#
    The last day for which the ledger of payments is complete (YYYY-MM-DD), or an empty string where it
    always is. After it nobody can tell a missed payment from a missing record, so measures of unpaid
    instalments are null. The world berka has its complete transactions until 1994-03-30 only.
#}
{% macro ledger_complete_until() -%}
    {%- set configured = var('ledger_complete_until', none) or env_var('LEDGER_COMPLETE_UNTIL', '') -%}
    {{- configured or ('1994-03-30' if env_var('WORLD', 'synthetic') == 'berka' else '') -}}
{%- endmacro %}


{# A condition: is the ledger complete on the given day? #}
{% macro ledger_is_complete_on(day) -%}
    {%- set until = ledger_complete_until() -%}
    {%- if until -%} {{ day }} <= cast('{{ until }}' as date) {%- else -%} true {%- endif -%}
{%- endmacro %}


{#
    The smallest unpaid part that leaves an instalment open: 0.01, that is everything. A lender whose
    schedules are rounded sets more, or a rounding difference would be past due for years: berka's file
    rounds instalments to whole crowns while the bank collects the exact amount. It decides what is late,
    never an amount: overdue and outstanding stay right to the cent.
#}
{% macro smallest_open_amount() -%}
    {%- set configured = var('smallest_open_amount', none) -%}
    cast('{{ configured or ('1.00' if env_var('WORLD', 'synthetic') == 'berka' else '0.01') }}' as decimal(18, 2))
{%- endmacro %}


{# The last day on which unpaid instalments can be measured: as_of_date, or the ledger's end if earlier. #}
{% macro ledger_measured_until() -%}
    {%- set until = ledger_complete_until() -%}
    {%- if until -%} least({{ as_of_date() }}, cast('{{ until }}' as date)) {%- else -%} {{ as_of_date() }} {%- endif -%}
{%- endmacro %}


{# A loan of which an instalment is open for more days than this is in default. #}
{% macro default_days() -%} 90 {%- endmacro %}


{# The day on which an instalment put its loan in default, or null. #}
{% macro defaulted_on(due_date, days_late) -%}
    case when {{ days_late }} > {{ default_days() }} then {{ add_days(due_date, default_days() ~ ' + 1') }} end
{%- endmacro %}


{# Months after disbursement within which a default counts for the label of a credit risk model. #}
{% macro label_months() -%} {{ var('label_months') }} {%- endmacro %}
