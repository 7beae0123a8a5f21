{{ config(alias = 'consents', unique_key = ['consent_id', '_batch_id']) }}

{{ quarantined_rows('app', 'consents') }}
