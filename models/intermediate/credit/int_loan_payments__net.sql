with

loan_payments as (

    select *
    from {{ ref('stg_app__loan_payments') }}
    where deleted_at is null

),

credit_orders as (

    select * from {{ ref('int_credit_orders__dated') }}

),

payments as (

    select
        payment_id,
        order_id,
        installment_no,
        reversal_of,
        paid_at,
        {{ business_date('paid_at') }} as paid_date,
        amount,
        -- what a ledger leaves open between its parts is principal
        coalesce(principal, amount - coalesce(interest, 0) - coalesce(penalty, 0)) as principal,
        coalesce(penalty, 0) as penalty
    from loan_payments

),

-- a reversal takes money back whatever the sign it is written with
signed as (

    select
        payment_id,
        order_id,
        installment_no,
        reversal_of,
        paid_at,
        paid_date,
        case when reversal_of is null then amount else -abs(amount) end as amount,
        case when reversal_of is null then principal else -abs(principal) end as principal,
        case when reversal_of is null then penalty else -abs(penalty) end as penalty
    from payments
    where paid_date <= {{ as_of_date() }}

),

final as (

    select
        signed.payment_id,
        signed.order_id,
        credit_orders.customer_id,
        credit_orders.partner_id,
        credit_orders.currency,
        -- a reversal that names no instalment belongs to the one of the payment it reverses
        coalesce(signed.installment_no, reversed.installment_no) as installment_no,
        signed.reversal_of is not null as is_reversal,
        signed.paid_at,
        signed.paid_date,
        {{ money('signed.amount') }} as amount,
        {{ money('signed.principal') }} as principal,
        -- penalties are paid on top of an instalment, never towards it
        {{ money('signed.amount - signed.penalty') }} as amount_towards_installment
    from signed
    inner join credit_orders on signed.order_id = credit_orders.order_id
    left join loan_payments as reversed on signed.reversal_of = reversed.payment_id

)

select * from final
