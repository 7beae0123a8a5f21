{{ config(alias = 'loan_payments', unique_key = ['payment_id', '_batch_id']) }}

{{ quarantined_rows('app', 'loan_payments') }}
