with

installments as (

    select *
    from {{ ref('stg_app__installments') }}
    where deleted_at is null

),

loan_events as (

    select *
    from {{ ref('stg_app__loan_events') }}
    where deleted_at is null

),

credit_orders as (

    select * from {{ ref('int_credit_orders__dated') }}

),

-- the first renegotiation wrote version 2
renegotiations as (

    select
        order_id,
        {{ business_date('occurred_at') }} as renegotiated_on,
        row_number() over (partition by order_id order by occurred_at, event_id) + 1 as schedule_version
    from loan_events
    where kind = 'renegotiated'

),

schedule_versions as (

    select
        order_id,
        schedule_version,
        min({{ business_date('updated_at') }}) as written_on,
        row_number() over (partition by order_id order by schedule_version) as place
    from installments
    group by 1, 2

),

-- an early payoff writes a version too, without an event
begun as (

    select
        schedule_versions.order_id,
        schedule_versions.schedule_version,
        case
            when schedule_versions.place = 1
                then coalesce(credit_orders.disbursed_date, schedule_versions.written_on)
            else coalesce(renegotiations.renegotiated_on, schedule_versions.written_on)
        end as began_on
    from schedule_versions
    left join credit_orders on schedule_versions.order_id = credit_orders.order_id
    left join renegotiations
        on
            schedule_versions.order_id = renegotiations.order_id
            and schedule_versions.schedule_version = renegotiations.schedule_version

),

final as (

    select
        order_id,
        schedule_version,
        began_on,
        lead(began_on) over (partition by order_id order by schedule_version) as replaced_on
    from begun

)

select * from final
