{{ config(alias = 'bank_transactions', unique_key = ['transaction_id', '_batch_id']) }}

{{ quarantined_rows('app', 'bank_transactions') }}
