with

credit_orders as (

    select * from {{ ref('int_credit_orders__dated') }}

),

customers as (

    select *
    from {{ ref('stg_app__customers') }}
    where deleted_at is null

),

customer_versions as (

    select
        *,
        {{ known_span('customer_id') }}
    from {{ ref('stg_app__customer_versions') }}

),

bureau_scores as (

    select *
    from {{ ref('stg_bureau__scores') }}
    where deleted_at is null

),

-- the last version written by the request, else the first one there is
known_versions as (

    select
        credit_orders.order_id,
        credit_orders.requested_at,
        credit_orders.requested_date,
        customer_versions.cpf,
        customer_versions.birth_date,
        customer_versions.gender,
        customer_versions.state,
        customer_versions.monthly_income,
        customer_versions.created_at,
        customer_versions.version_at > credit_orders.requested_at as is_backfilled
    from credit_orders
    inner join customers on credit_orders.customer_id = customers.customer_id
    inner join customer_versions
        on
            credit_orders.customer_id = customer_versions.customer_id
            and {{ is_known_at('customer_versions', 'credit_orders.requested_at') }}

),

-- a score holds until the next one
scores as (

    select
        cpf,
        queried_at,
        score,
        negative_records,
        total_debt,
        lead(queried_at) over (partition by cpf order by queried_at) as next_queried_at
    from bureau_scores

),

-- from here on a score belongs to an order: the CPF goes no further
final as (

    select
        versions.order_id,
        versions.state as customer_state,
        versions.gender as customer_gender,
        versions.monthly_income,
        {{ full_years_between('versions.birth_date', 'versions.requested_date') }} as age_at_request,
        {{ days_between('versions.created_at', 'versions.requested_at') }} as customer_days_at_request,
        versions.is_backfilled,
        scores.score as bureau_score,
        scores.queried_at as bureau_score_queried_at,
        scores.negative_records as bureau_negative_records,
        scores.total_debt as bureau_total_debt
    from known_versions as versions
    left join scores
        on
            versions.cpf = scores.cpf
            and versions.requested_at >= scores.queried_at
            and (scores.next_queried_at is null or versions.requested_at < scores.next_queried_at)

)

select * from final
