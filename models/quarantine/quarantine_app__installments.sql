{{ config(alias = 'installments', unique_key = ['order_id', 'schedule_version', 'installment_no', '_batch_id']) }}

{{ quarantined_rows('app', 'installments') }}
