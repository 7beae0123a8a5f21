{{ config(unique_key = 'payment_id') }}

with

landed as (

    select
        *,
        {{ version_rank(
            key = ['payment_id'],
            order_by = ['_batch_id desc']
        ) }} as version_rank
    from {{ source('app', 'loan_payments') }}
    where {{ landed_since_last_build() }}

),

renamed as (

    select
        ---------- ids
        payment_id,
        order_id,
        installment_no,
        reversal_of,

        ---------- amounts
        amount,
        principal,
        interest,
        penalty,

        ---------- times
        {{ ts('paid_at') }} as paid_at,
        {{ ts('created_at') }} as created_at,

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
