with

installments as (

    select *
    from {{ ref('stg_app__installments') }}
    where deleted_at is null

),

credit_orders as (

    select * from {{ ref('int_credit_orders__dated') }}

),

-- every version is a whole schedule: the highest one alone is in force
versions as (

    select
        order_id,
        schedule_version,
        installment_no,
        due_date,
        due_amount,
        principal_due,
        interest_due,
        max(schedule_version) over (partition by order_id) as version_in_force
    from installments

),

final as (

    select
        versions.order_id,
        versions.installment_no,
        credit_orders.customer_id,
        credit_orders.partner_id,
        credit_orders.currency,
        versions.schedule_version,
        versions.due_date,
        versions.due_amount,
        versions.principal_due,
        versions.interest_due
    from versions
    inner join credit_orders on versions.order_id = credit_orders.order_id
    where versions.schedule_version = versions.version_in_force

)

select * from final
