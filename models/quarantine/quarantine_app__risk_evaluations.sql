{{ config(alias = 'risk_evaluations', unique_key = ['evaluation_id', '_batch_id']) }}

{{ quarantined_rows('app', 'risk_evaluations') }}
