with

credit_orders as (

    select * from {{ ref('int_credit_orders__dated') }}

),

installments as (

    select * from {{ ref('int_installments__position') }}

),

superseded_installments as (

    select * from {{ ref('int_installments__superseded') }}

),

payments as (

    select * from {{ ref('int_loan_payments__net') }}

),

loan_events as (

    select *
    from {{ ref('stg_app__loan_events') }}
    where deleted_at is null

),

schedules as (

    select
        order_id,
        sum(case when is_open then 1 else 0 end) as open_installments,
        sum(open_principal) as open_principal,
        sum(case when due_date <= {{ as_of_date() }} then open_amount else 0 end) as overdue_amount,
        max(days_past_due) as days_past_due,
        max(days_late) as days_late_max,
        min({{ defaulted_on('due_date', 'days_late') }}) as defaulted_on
    from installments
    group by 1

),

-- a renegotiation replaces the schedule, not the delay there was before it
superseded as (

    select
        order_id,
        max(days_late) as days_late_max,
        min({{ defaulted_on('due_date', 'days_late') }}) as defaulted_on
    from superseded_installments
    group by 1

),

received as (

    select
        order_id,
        sum(amount) as received_amount,
        max(case when not is_reversal then paid_date end) as last_paid_date
    from payments
    group by 1

),

written_off as (

    select
        order_id,
        min({{ business_date('occurred_at') }}) as written_off_date
    from loan_events
    where
        kind = 'written_off'
        and {{ business_date('occurred_at') }} <= {{ as_of_date() }}
    group by 1

),

loans as (

    select
        credit_orders.order_id,
        credit_orders.customer_id,
        credit_orders.partner_id,
        credit_orders.currency,
        credit_orders.disbursed_date,
        credit_orders.disbursed_amount,
        credit_orders.repayment_status,
        coalesce(received.received_amount, 0) as received_amount,
        received.last_paid_date,
        written_off.written_off_date,
        schedules.open_installments,
        schedules.open_principal,
        schedules.overdue_amount,
        schedules.days_past_due,
        case
            when superseded.days_late_max > schedules.days_late_max then superseded.days_late_max
            else schedules.days_late_max
        end as days_late_max,
        least(
            coalesce(superseded.defaulted_on, schedules.defaulted_on),
            coalesce(schedules.defaulted_on, superseded.defaulted_on)
        ) as late_default_on,
        {{ ledger_is_complete_on(as_of_date()) }} as is_ledger_complete
    from credit_orders
    left join schedules on credit_orders.order_id = schedules.order_id
    left join superseded on credit_orders.order_id = superseded.order_id
    left join received on credit_orders.order_id = received.order_id
    left join written_off on credit_orders.order_id = written_off.order_id
    where credit_orders.disbursed_date is not null

),

-- an incomplete ledger cannot tell a missed payment from a missing record
measured as (

    select
        order_id,
        customer_id,
        partner_id,
        currency,
        disbursed_date,
        disbursed_amount,
        repayment_status,
        received_amount,
        last_paid_date,
        written_off_date,
        is_ledger_complete,
        case when is_ledger_complete then open_installments end as open_installments,
        case when is_ledger_complete then open_principal end as outstanding_amount,
        case when is_ledger_complete then overdue_amount end as overdue_amount,
        case when is_ledger_complete then days_past_due end as days_past_due,
        case when is_ledger_complete then days_late_max end as days_late_max,
        case when is_ledger_complete then late_default_on end as late_default_on
    from loans

),

final as (

    select
        order_id,
        customer_id,
        partner_id,
        currency,
        disbursed_date,
        disbursed_amount,
        {{ money('received_amount') }} as received_amount,
        last_paid_date,
        written_off_date,
        is_ledger_complete,
        {{ money('outstanding_amount') }} as outstanding_amount,
        {{ money('overdue_amount') }} as overdue_amount,
        days_past_due,
        days_late_max,
        least(coalesce(late_default_on, written_off_date), coalesce(written_off_date, late_default_on)) as defaulted_on,
        case
            when
                coalesce(days_late_max, 0) > {{ default_days() }}
                or written_off_date is not null
                or coalesce(repayment_status, '') = 'defaulted'
                then 'defaulted'
            when open_installments = 0 then 'paid_off'
            when days_past_due > 0 then 'late'
            when open_installments > 0 then 'current'
            -- the ledger says nothing: what the lender says
            else repayment_status
        end as repayment_outcome
    from measured

)

select * from final
