with

consents as (

    select *
    from {{ ref('stg_app__consents') }}
    where deleted_at is null

),

credit_orders as (

    select * from {{ ref('int_credit_orders__dated') }}

),

-- given by the request, and neither expired nor revoked at it; what was revoked later still counted then
in_force as (

    select
        credit_orders.order_id,
        consents.scope
    from credit_orders
    inner join consents
        on
            credit_orders.customer_id = consents.customer_id
            and credit_orders.requested_at >= consents.granted_at
    where
        (consents.expires_at is null or consents.expires_at > credit_orders.requested_at)
        and (consents.revoked_at is null or consents.revoked_at > credit_orders.requested_at)

),

final as (

    select
        order_id,
        max(case when scope = 'bureau' then 1 else 0 end) = 1 as has_bureau_consent,
        max(case when scope = 'open_finance' then 1 else 0 end) = 1 as has_open_finance_consent,
        max(case when scope = 'marketing' then 1 else 0 end) = 1 as has_marketing_consent
    from in_force
    group by 1

)

select * from final
