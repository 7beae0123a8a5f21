{{ config(alias = 'credit_order_events', unique_key = ['order_id', 'seq', '_batch_id']) }}

{{ quarantined_rows('app', 'credit_order_events') }}
