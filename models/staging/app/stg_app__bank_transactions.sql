{{ config(unique_key = 'transaction_id', partitioned_by = ['year(created_at)']) }}

with

quarantined as (

    select * from {{ ref('quarantine_app__bank_transactions') }}

),

landed as (

    select
        *,
        {{ version_rank(
            key = ['transaction_id'],
            order_by = ['_batch_id desc']
        ) }} as version_rank,
        min(_batch_id) over (partition by transaction_id) as _first_batch_id
    from {{ source('app', 'bank_transactions') }} as raw_rows
    where
        {{ landed_since_last_build() }}
        and {{ not_quarantined('app', 'bank_transactions') }}

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
        landed._first_batch_id,
        {{ landing_columns() }}
    from landed
    left join transaction_kind_mapping on landed.kind = transaction_kind_mapping.source_value
    where landed.version_rank = 1

),

newest_quarantined as (

    {{ newest_quarantined() }}

),

final as (

    {{ ahead_of_built(ahead_by = [('_batch_id', '>')]) }}

)

select * from final
