{{ config(alias = 'loan_events', unique_key = ['event_id', '_batch_id']) }}

{{ quarantined_rows('app', 'loan_events') }}
