with

installments as (

    select * from {{ ref('int_installments__in_force') }}

),

paid_by_date as (

    select * from {{ ref('int_installments__paid_by_date') }}

),

-- since when nothing has been open: a payment taken back opens the instalment again
unsettled as (

    select
        order_id,
        installment_no,
        paid_date,
        paid_amount,
        paid_principal,
        is_settled,
        max(case when not is_settled then paid_date end) over (
            partition by order_id, installment_no
        ) as last_unsettled_on,
        row_number() over (partition by order_id, installment_no order by paid_date desc) as recency
    from paid_by_date

),

paid as (

    select
        order_id,
        installment_no,
        sum(case when recency = 1 then paid_amount end) as paid_amount,
        sum(case when recency = 1 then paid_principal end) as paid_principal,
        min(
            case
                when is_settled and (last_unsettled_on is null or paid_date > last_unsettled_on)
                    then paid_date
            end
        ) as settled_on
    from unsettled
    group by 1, 2

),

amounts as (

    select
        installments.order_id,
        installments.installment_no,
        installments.customer_id,
        installments.partner_id,
        installments.currency,
        installments.due_date,
        installments.due_amount,
        installments.principal_due,
        {{ money('coalesce(paid.paid_amount, 0)') }} as paid_amount,
        {{ money('coalesce(paid.paid_principal, 0)') }} as paid_principal,
        {{ money('installments.due_amount - coalesce(paid.paid_amount, 0)') }} as open_amount,
        case
            -- nothing to speak of was due, so it was settled the day it fell due
            when installments.due_amount < {{ smallest_open_amount() }} then installments.due_date
            else paid.settled_on
        end as settled_on
    from installments
    left join paid
        on
            installments.order_id = paid.order_id
            and installments.installment_no = paid.installment_no

),

aged as (

    select
        order_id,
        installment_no,
        customer_id,
        partner_id,
        currency,
        due_date,
        due_amount,
        paid_amount,
        open_amount,
        case
            when open_amount = 0 then 0
            when principal_due is null then open_amount
            else principal_due - paid_principal
        end as open_principal,
        open_amount >= {{ smallest_open_amount() }} as is_open,
        settled_on,
        {{ days_between('due_date', as_of_date()) }} as age_days,
        {{ days_between('due_date', 'settled_on') }} as days_to_settlement
    from amounts

),

final as (

    select
        order_id,
        installment_no,
        customer_id,
        partner_id,
        currency,
        due_date,
        due_amount,
        paid_amount,
        open_amount,
        {{ money('open_principal') }} as open_principal,
        is_open,
        case when not is_open then settled_on end as settled_on,
        case when is_open and age_days > 0 then age_days else 0 end as days_past_due,
        case
            when is_open and age_days > 0 then age_days
            when not is_open and days_to_settlement > 0 then days_to_settlement
            else 0
        end as days_late
    from aged

)

select * from final
