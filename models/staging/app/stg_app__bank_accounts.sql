{{ config(unique_key = 'account_id', partitioned_by = ['year(opened_at)']) }}

with

quarantined as (

    select * from {{ ref('quarantine_app__bank_accounts') }}

),

landed as (

    select
        *,
        {{ version_rank(
            key = ['account_id'],
            order_by = ['_batch_id desc']
        ) }} as version_rank
    from {{ source('app', 'bank_accounts') }} as raw_rows
    where
        {{ landed_since_last_build() }}
        and {{ not_quarantined('app', 'bank_accounts') }}

),

renamed as (

    select
        ---------- ids
        account_id,
        customer_id,

        ---------- account
        bank_code,

        ---------- times
        {{ ts('opened_at') }} as opened_at,
        {{ ts('updated_at') }} as updated_at,

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
