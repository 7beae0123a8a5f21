{{ config(unique_key = 'transaction_id') }}

with

landed as (

    select
        *,
        {{ version_rank(
            key = ['transaction_id'],
            order_by = ['_batch_id desc']
        ) }} as version_rank
    from {{ source('app', 'bank_transactions') }}
    where {{ landed_since_last_build() }}

),

transaction_kind_mapping as (

    select * from {{ ref('transaction_kind_mapping') }}

),

renamed as (

    select
        ---------- ids
        landed.transaction_id,
        landed.account_id,

        ---------- transaction
        landed.kind,
        coalesce(transaction_kind_mapping.transaction_kind, 'unmapped') as kind_mapped,
        landed.counterparty_bank,
        landed.description,

        ---------- amounts
        {{ currency_code('landed.currency') }} as currency,
        landed.amount,
        landed.balance_after,

        ---------- times
        {{ ts('landed.booked_at') }} as booked_at,
        {{ ts('landed.created_at') }} as created_at,

        ---------- landing
        landed._source_deleted,
        landed._batch_id,
        cast(landed.extract_date as date) as _extract_date
    from landed
    left join transaction_kind_mapping on landed.kind = transaction_kind_mapping.source_value
    where landed.version_rank = 1

),

final as (

    select renamed.*
    from renamed
    {{ unless_built('renamed', ahead_by = [('_batch_id', '>')]) }}

)

select * from final
