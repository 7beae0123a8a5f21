{{ config(unique_key = 'account_id') }}

with

landed as (

    select
        *,
        {{ version_rank(
            key = ['account_id'],
            order_by = ['_batch_id desc']
        ) }} as version_rank
    from {{ source('app', 'bank_accounts') }}
    where {{ landed_since_last_build() }}

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
