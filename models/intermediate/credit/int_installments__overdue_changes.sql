with

installments as (

    select * from {{ ref('int_installments__in_force') }}

),

paid_by_date as (

    select * from {{ ref('int_installments__paid_by_date') }}

),

-- overdue grows by the whole instalment on its due date ...
fallen_due as (

    select
        order_id,
        installment_no,
        partner_id,
        currency,
        due_date as changed_on,
        due_amount as overdue_change
    from installments

),

-- ... and shrinks by what was paid towards it: at once where that came early, else on the day it came
paid as (

    select
        order_id,
        installment_no,
        partner_id,
        currency,
        greatest(due_date, paid_date) as changed_on,
        -paid_amount_change as overdue_change
    from paid_by_date

),

changes as (

    select * from fallen_due
    union all
    select * from paid

),

final as (

    select
        order_id,
        installment_no,
        partner_id,
        currency,
        changed_on,
        {{ money('sum(overdue_change)') }} as overdue_change
    from changes
    where changed_on <= {{ ledger_measured_until() }}
    group by 1, 2, 3, 4, 5

)

select * from final
