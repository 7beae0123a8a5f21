with

installments as (

    select *
    from {{ ref('stg_app__installments') }}
    where deleted_at is null

),

schedule_versions as (

    select * from {{ ref('int_loan_schedules__versions') }}

),

payments as (

    select * from {{ ref('int_loan_payments__net') }}

),

superseded as (

    select
        installments.order_id,
        installments.schedule_version,
        installments.installment_no,
        installments.due_date,
        installments.due_amount,
        schedule_versions.replaced_on,
        least(schedule_versions.replaced_on, {{ as_of_date() }}) as counted_until
    from installments
    inner join schedule_versions
        on
            installments.order_id = schedule_versions.order_id
            and installments.schedule_version = schedule_versions.schedule_version
    where schedule_versions.replaced_on is not null

),

-- what comes in later pays the instalment of this number in the next version
days as (

    select
        superseded.order_id,
        superseded.schedule_version,
        superseded.installment_no,
        superseded.due_amount,
        payments.paid_date,
        sum(payments.amount_towards_installment) as amount
    from superseded
    inner join payments
        on
            superseded.order_id = payments.order_id
            and superseded.installment_no = payments.installment_no
            and superseded.counted_until > payments.paid_date
    group by 1, 2, 3, 4, 5

),

running as (

    select
        order_id,
        schedule_version,
        installment_no,
        paid_date,
        due_amount - sum(amount) over (
            partition by order_id, schedule_version, installment_no
            order by paid_date
            rows between unbounded preceding and current row
        ) < {{ smallest_open_amount() }} as is_settled
    from days

),

-- since when nothing was open: a payment taken back opens the instalment again
marked as (

    select
        *,
        max(case when not is_settled then paid_date end) over (
            partition by order_id, schedule_version, installment_no
        ) as last_unsettled_on
    from running

),

settled as (

    select
        order_id,
        schedule_version,
        installment_no,
        min(paid_date) as settled_on
    from marked
    where
        is_settled
        and (last_unsettled_on is null or paid_date > last_unsettled_on)
    group by 1, 2, 3

),

final as (

    select
        superseded.order_id,
        superseded.schedule_version,
        superseded.installment_no,
        superseded.due_date,
        superseded.replaced_on,
        case
            when superseded.due_amount < {{ smallest_open_amount() }} then 0
            else greatest(
                {{ days_between('superseded.due_date', 'coalesce(settled.settled_on, superseded.counted_until)') }}, 0
            )
        end as days_late
    from superseded
    left join settled
        on
            superseded.order_id = settled.order_id
            and superseded.schedule_version = settled.schedule_version
            and superseded.installment_no = settled.installment_no

)

select * from final
