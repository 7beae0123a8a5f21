{{ config(alias = 'bank_accounts', unique_key = ['account_id', '_batch_id']) }}

{{ quarantined_rows('app', 'bank_accounts') }}
