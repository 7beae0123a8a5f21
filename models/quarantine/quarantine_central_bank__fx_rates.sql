{{ config(alias = 'fx_rates', unique_key = ['currency', 'quoted_at', 'bulletin', '_batch_id']) }}

{{ quarantined_rows('central_bank', 'fx_rates') }}
