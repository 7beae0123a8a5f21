with

consents as (

    select *
    from {{ ref('stg_app__consents') }}
    where deleted_at is null

),

consent_versions as (

    select
        *,
        {{ known_span('consent_id') }}
    from {{ ref('stg_app__consent_versions') }}

),

credit_orders as (

    select * from {{ ref('int_credit_orders__dated') }}

),

-- as the app knew it at the request: given by then, and neither expired nor revoked
in_force as (

    select
        credit_orders.order_id,
        consent_versions.scope
    from credit_orders
    inner join consent_versions
        on
            credit_orders.customer_id = consent_versions.customer_id
            and credit_orders.requested_at >= consent_versions.granted_at
            and {{ is_known_at('consent_versions', 'credit_orders.requested_at') }}
    inner join consents on consent_versions.consent_id = consents.consent_id
    where
        (consent_versions.expires_at is null or consent_versions.expires_at > credit_orders.requested_at)
        and (consent_versions.revoked_at is null or consent_versions.revoked_at > credit_orders.requested_at)

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
