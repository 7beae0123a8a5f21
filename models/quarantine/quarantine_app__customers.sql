{{ config(alias = 'customers', unique_key = ['customer_id', '_batch_id']) }}

{{ quarantined_rows('app', 'customers') }}
