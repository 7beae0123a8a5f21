{{ config(alias = 'scores', unique_key = ['cpf', 'queried_at', '_batch_id']) }}

{{ quarantined_rows('bureau', 'scores') }}
