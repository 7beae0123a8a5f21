with

installments as (

    select *
    from {{ ref('stg_app__installments') }}
    where deleted_at is null

),

schedule_versions as (

    select * from {{ ref('int_loan_schedules__versions') }}

),

credit_orders as (

    select * from {{ ref('int_credit_orders__dated') }}

),

scheduled as (

    select
        credit_orders.currency,
        {{ month_of('installments.due_date') }} as due_month,
        {{ month_of('schedule_versions.began_on') }} as began_month,
        {{ month_of('schedule_versions.replaced_on') }} as replaced_month,
        installments.due_amount
    from installments
    inner join schedule_versions
        on
            installments.order_id = schedule_versions.order_id
            and installments.schedule_version = schedule_versions.schedule_version
    inner join credit_orders on installments.order_id = credit_orders.order_id
    where credit_orders.disbursed_date is not null

),

final as (

    select
        currency,
        due_month,
        began_month,
        replaced_month,
        {{ money('sum(due_amount)') }} as due_amount
    from scheduled
    group by 1, 2, 3, 4

)

select * from final
