with

installments as (

    select * from {{ ref('int_installments__in_force') }}

),

payments as (

    select * from {{ ref('int_loan_payments__net') }}

),

days as (

    select
        order_id,
        installment_no,
        paid_date,
        sum(amount_towards_installment) as amount,
        sum(principal) as principal
    from payments
    where installment_no is not null
    group by 1, 2, 3

),

running as (

    select
        days.order_id,
        days.installment_no,
        days.paid_date,
        installments.partner_id,
        installments.currency,
        installments.due_date,
        installments.due_amount,
        installments.principal_due,
        sum(days.amount) over (
            partition by days.order_id, days.installment_no
            order by days.paid_date
            rows between unbounded preceding and current row
        ) as amount,
        sum(days.principal) over (
            partition by days.order_id, days.installment_no
            order by days.paid_date
            rows between unbounded preceding and current row
        ) as principal
    from days
    inner join installments
        on
            days.order_id = installments.order_id
            and days.installment_no = installments.installment_no

),

-- never more than the instalment, never less than nothing
capped as (

    select
        order_id,
        installment_no,
        paid_date,
        partner_id,
        currency,
        due_date,
        due_amount,
        {{ money('least(greatest(amount, 0), due_amount)') }} as paid_amount,
        {{ money('least(greatest(principal, 0), coalesce(principal_due, 0))') }} as paid_principal
    from running

),

final as (

    select
        order_id,
        installment_no,
        paid_date,
        partner_id,
        currency,
        due_date,
        paid_amount,
        paid_principal,
        {{ money("paid_amount - coalesce(lag(paid_amount) over (
            partition by order_id, installment_no order by paid_date
        ), 0)") }} as paid_amount_change,
        due_amount - paid_amount < {{ smallest_open_amount() }} as is_settled
    from capped

)

select * from final
