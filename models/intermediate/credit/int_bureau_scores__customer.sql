with

scores as (

    select *
    from {{ ref('stg_bureau__scores') }}
    where deleted_at is null

),

customers as (

    select *
    from {{ ref('stg_app__customers') }}
    where deleted_at is null

),

-- from here on a score belongs to a customer id: the CPF goes no further
final as (

    select
        customers.customer_id,
        scores.queried_at,
        {{ business_date('scores.queried_at') }} as queried_date,
        scores.score,
        scores.score_version,
        scores.negative_records,
        scores.total_debt,
        -- the record holds until the next one
        lead(scores.queried_at) over (
            partition by customers.customer_id order by scores.queried_at
        ) as next_queried_at
    from scores
    inner join customers on scores.cpf = customers.cpf

)

select * from final
