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

{{ children_without_parent(references) }}
