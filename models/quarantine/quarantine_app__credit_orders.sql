{{ config(alias = 'credit_orders', unique_key = ['order_id', '_batch_id']) }}

{{ quarantined_rows('app', 'credit_orders') }}
