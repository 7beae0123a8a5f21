{{ config(unique_key = ['currency', 'quoted_at', 'bulletin'], partitioned_by = ['year(quoted_at)']) }}

with

quarantined as (

    select * from {{ ref('quarantine_central_bank__fx_rates') }}

),

landed as (

    select
        *,
        {{ version_rank(
            key = [currency_code('currency'), ts('quoted_at'), 'bulletin'],
            order_by = ['_batch_id desc']
        ) }} as version_rank
    from {{ source('central_bank', 'fx_rates') }} as raw_rows
    where
        {{ landed_since_last_build() }}
        and {{ not_quarantined('central_bank', 'fx_rates') }}

),

renamed as (

    select
        ---------- ids
        {{ currency_code('currency') }} as currency,
        {{ ts('quoted_at') }} as quoted_at,
        bulletin,

        ---------- rates
        buy,
        sell,
        lower(bulletin) like 'fechamento%' as is_closing,

        ---------- landing
        {{ landing_columns() }}
    from landed
    where version_rank = 1

),

newest_quarantined as (

    {{ newest_quarantined() }}

),

final as (

    {{ ahead_of_built(ahead_by = [('_batch_id', '>')]) }}

)

select * from final
