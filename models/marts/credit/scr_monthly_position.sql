with

loans as (

    select * from {{ ref('int_loans__position') }}

),

credit_orders as (

    select * from {{ ref('int_credit_orders__dated') }}

),

installments as (

    select * from {{ ref('int_installments__in_force') }}

),

paid_by_date as (

    select * from {{ ref('int_installments__paid_by_date') }}

),

months as (

    select * from {{ ref('int_calendar__months') }}

),

-- a loan is in the report from the month of its disbursement on, as long as the ledger can be relied on
loan_months as (

    select
        loans.order_id,
        loans.customer_id,
        loans.partner_id,
        loans.currency,
        loans.disbursed_date,
        loans.disbursed_amount,
        loans.written_off_date,
        loans.defaulted_on,
        months.month,
        months.measured_on
    from loans
    inner join months on {{ month_of('loans.disbursed_date') }} <= months.month
    where {{ ledger_is_complete_on('months.measured_on') }}

),

paid as (

    select
        order_id,
        installment_no,
        {{ month_of('paid_date') }} as month,
        sum(paid_amount_change) as paid_amount,
        max(paid_date) as last_paid_date
    from paid_by_date
    group by 1, 2, 3

),

paid_principal as (

    select
        paid.order_id,
        paid.installment_no,
        paid.month,
        paid.paid_amount,
        paid_by_date.paid_principal - coalesce(lag(paid_by_date.paid_principal) over (
            partition by paid.order_id, paid.installment_no order by paid.month
        ), 0) as paid_principal
    from paid
    inner join paid_by_date
        on
            paid.order_id = paid_by_date.order_id
            and paid.installment_no = paid_by_date.installment_no
            and paid.last_paid_date = paid_by_date.paid_date

),

installment_months as (

    select
        loan_months.order_id,
        loan_months.month,
        loan_months.measured_on,
        installments.due_date,
        installments.principal_due,
        installments.due_amount - sum(coalesce(paid_principal.paid_amount, 0)) over (
            partition by installments.order_id, installments.installment_no order by loan_months.month
            rows between unbounded preceding and current row
        ) as open_amount,
        installments.principal_due - sum(coalesce(paid_principal.paid_principal, 0)) over (
            partition by installments.order_id, installments.installment_no order by loan_months.month
            rows between unbounded preceding and current row
        ) as unpaid_principal
    from loan_months
    inner join installments on loan_months.order_id = installments.order_id
    left join paid_principal
        on
            installments.order_id = paid_principal.order_id
            and installments.installment_no = paid_principal.installment_no
            and loan_months.month = paid_principal.month

),

open_installments as (

    select
        order_id,
        month,
        open_amount,
        case when open_amount = 0 then 0 else coalesce(unpaid_principal, open_amount) end as open_principal,
        {{ days_between('due_date', 'measured_on') }} as days_overdue,
        open_amount >= {{ smallest_open_amount() }} as is_open
    from installment_months

),

positions as (

    select
        order_id,
        month,
        sum(open_principal) as outstanding_amount,
        sum(case when days_overdue >= 0 then open_amount else 0 end) as overdue_amount,
        max(case when is_open and days_overdue > 0 then days_overdue else 0 end) as days_past_due,
        sum(case when days_overdue < 0 and days_overdue >= -30 then open_amount else 0 end) as due_1_30_amount,
        sum(case when days_overdue < -30 and days_overdue >= -90 then open_amount else 0 end) as due_31_90_amount,
        sum(case when days_overdue < -90 and days_overdue >= -360 then open_amount else 0 end) as due_91_360_amount,
        sum(case when days_overdue < -360 then open_amount else 0 end) as due_after_360_amount,
        sum(case when days_overdue between 0 and 14 then open_amount else 0 end) as overdue_0_14_amount,
        sum(case when days_overdue between 15 and 30 then open_amount else 0 end) as overdue_15_30_amount,
        sum(case when days_overdue between 31 and 60 then open_amount else 0 end) as overdue_31_60_amount,
        sum(case when days_overdue between 61 and 90 then open_amount else 0 end) as overdue_61_90_amount,
        sum(case when days_overdue > 90 then open_amount else 0 end) as overdue_after_90_amount
    from open_installments
    group by 1, 2

),

joined as (

    select
        loan_months.order_id,
        loan_months.customer_id,
        loan_months.partner_id,
        loan_months.month,
        loan_months.measured_on,
        credit_orders.product,
        loan_months.currency,
        loan_months.disbursed_date,
        loan_months.disbursed_amount,
        positions.outstanding_amount,
        positions.overdue_amount,
        positions.days_past_due,
        positions.due_1_30_amount,
        positions.due_31_90_amount,
        positions.due_91_360_amount,
        positions.due_after_360_amount,
        positions.overdue_0_14_amount,
        positions.overdue_15_30_amount,
        positions.overdue_31_60_amount,
        positions.overdue_61_90_amount,
        positions.overdue_after_90_amount,
        {{ dbt.datediff(month_of('loan_months.disbursed_date'), 'loan_months.month', 'month') }} as months_on_book,
        coalesce(loan_months.defaulted_on <= loan_months.measured_on, false) as is_defaulted,
        coalesce(loan_months.written_off_date <= loan_months.measured_on, false) as is_written_off
    from loan_months
    inner join credit_orders on loan_months.order_id = credit_orders.order_id
    left join positions on loan_months.order_id = positions.order_id and loan_months.month = positions.month

),

final as (

    select
        ---------- ids
        order_id,
        customer_id,
        partner_id,

        ---------- when
        month,
        measured_on,
        disbursed_date,
        cast(months_on_book as integer) as months_on_book,

        ---------- what
        product,
        currency,
        {{ money('disbursed_amount') }} as disbursed_amount,
        {{ money('coalesce(outstanding_amount, 0)') }} as outstanding_amount,

        ---------- due
        {{ money('coalesce(due_1_30_amount, 0)') }} as due_1_30_amount,
        {{ money('coalesce(due_31_90_amount, 0)') }} as due_31_90_amount,
        {{ money('coalesce(due_91_360_amount, 0)') }} as due_91_360_amount,
        {{ money('coalesce(due_after_360_amount, 0)') }} as due_after_360_amount,

        ---------- overdue
        {{ money('coalesce(overdue_amount, 0)') }} as overdue_amount,
        {{ money('coalesce(overdue_0_14_amount, 0)') }} as overdue_0_14_amount,
        {{ money('coalesce(overdue_15_30_amount, 0)') }} as overdue_15_30_amount,
        {{ money('coalesce(overdue_31_60_amount, 0)') }} as overdue_31_60_amount,
        {{ money('coalesce(overdue_61_90_amount, 0)') }} as overdue_61_90_amount,
        {{ money('coalesce(overdue_after_90_amount, 0)') }} as overdue_after_90_amount,
        cast(coalesce(days_past_due, 0) as integer) as days_past_due,

        ---------- risk
        is_defaulted,
        is_written_off,
        case
            when is_defaulted or is_written_off or days_past_due > 90 then 3
            when days_past_due > 30 then 2
            else 1
        end as risk_stage
    from joined

)

select * from final
