{{ config(alias = 'children', materialized = 'view') }}

{#- child, its key, the reference, parent, its key, whether the source enforces it -#}
{%- set references = [
    ('app__consents', ['consent_id'], 'customer_id', 'app__customers', 'customer_id', true),
    ('app__credit_orders', ['order_id'], 'customer_id', 'app__customers', 'customer_id', true),
    ('app__bank_accounts', ['account_id'], 'customer_id', 'app__customers', 'customer_id', true),
    ('app_log__events', ['event_id'], 'customer_id', 'app__customers', 'customer_id', false),
    ('app__bank_transactions', ['transaction_id'], 'account_id', 'app__bank_accounts', 'account_id', true),
    ('app__credit_order_events', ['order_id', 'seq'], 'order_id', 'app__credit_orders', 'order_id', true),
    ('app__risk_evaluations', ['evaluation_id'], 'order_id', 'app__credit_orders', 'order_id', true),
    ('app__installments', ['order_id', 'schedule_version', 'installment_no'], 'order_id', 'app__credit_orders', 'order_id', true),
    ('app__loan_payments', ['payment_id'], 'order_id', 'app__credit_orders', 'order_id', true),
    ('app__loan_payments', ['payment_id'], 'reversal_of', 'app__loan_payments', 'payment_id', true),
    ('app__loan_events', ['event_id'], 'order_id', 'app__credit_orders', 'order_id', true),
]
-%}

{%- for child, key, reference, parent, parent_key, is_enforced in references %}
select
    '{{ child }}' as child_table,
    {% for column in key -%}
    cast(child.{{ column }} as varchar){{ " || '/' || " if not loop.last }}
    {%- endfor %} as child_key,
    '{{ parent }}' as parent_table,
    cast(child.{{ reference }} as varchar) as parent_key,
    case
        when parent.deleted_at is not null then 'deleted'
        when quarantined.{{ parent_key }} is not null then 'quarantined'
        else 'unknown'
    end as parent_fate,
    {{ is_enforced }} as is_enforced
from {{ ref('stg_' ~ child) }} as child
left join {{ ref('stg_' ~ parent) }} as parent on child.{{ reference }} = parent.{{ parent_key }}
left join (select distinct {{ parent_key }} from {{ ref('quarantine_' ~ parent) }}) as quarantined
    on child.{{ reference }} = quarantined.{{ parent_key }}
where
    child.{{ reference }} is not null
    and child.deleted_at is null
    and (parent.{{ parent_key }} is null or parent.deleted_at is not null)
{{- '\nunion all' if not loop.last }}
{%- endfor %}
