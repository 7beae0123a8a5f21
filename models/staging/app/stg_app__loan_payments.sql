{{ config(unique_key = 'payment_id', partitioned_by = ['year(created_at)']) }}

with

quarantined as (

    select * from {{ ref('quarantine_app__loan_payments') }}

),

landed as (

    select
        *,
        {{ version_rank(
            key = ['payment_id'],
            order_by = ['_batch_id desc']
        ) }} as version_rank
    from {{ source('app', 'loan_payments') }} as raw_rows
    where
        {{ landed_since_last_build() }}
        and {{ not_quarantined('app', 'loan_payments') }}

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
