{{ config(unique_key = ['currency', 'quoted_at', 'bulletin']) }}

with

landed as (

    select
        *,
        {{ version_rank(
            key = [currency_code('currency'), ts('quoted_at'), 'bulletin'],
            order_by = ['_batch_id desc']
        ) }} as version_rank
    from {{ source('central_bank', 'fx_rates') }}
    where {{ landed_since_last_build() }}

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
        _source_deleted,
        _batch_id,
        cast(extract_date as date) as _extract_date
    from landed
    where version_rank = 1

),

final as (

    select renamed.*
    from renamed
    {{ unless_built('renamed', ahead_by = [('_batch_id', '>')]) }}

)

select * from final
