{{ config(alias = 'events', unique_key = ['event_id', '_source_file', '_source_line']) }}

{{ quarantined_rows('app_log', 'events') }}
