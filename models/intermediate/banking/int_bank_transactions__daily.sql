{{ config(
    materialized = 'incremental',
    incremental_strategy = 'merge',
    unique_key = ['account_id', 'currency', 'booked_date'],
    on_schema_change = 'fail',
    post_hook = "{{ 'delete from ' ~ this ~ ' where transactions = 0' if is_incremental() else '' }}"
) }}

with

bank_transactions as (

    select * from {{ ref('stg_app__bank_transactions') }}

),

bank_accounts as (

    select * from {{ ref('stg_app__bank_accounts') }}

),

-- An account of which anything was landed is built again, whole: a correction or deletion may concern any day. Read
-- past the imports: DuckDB keeps a CTE that is read twice as a copy of the whole table.
touched as (

    select account_id
    from {{ ref('stg_app__bank_transactions') }}
    where {{ changed_since_last_build() }}
    union
    select account_id
    from {{ ref('stg_app__bank_accounts') }}
    where {{ changed_since_last_build() }}

),

transactions as (

    select
        bank_accounts.account_id,
        bank_accounts.customer_id,
        bank_transactions.currency,
        {{ business_date('bank_transactions.booked_at') }} as booked_date,
        bank_transactions.amount,
        greatest(bank_transactions._batch_id, bank_accounts._batch_id) as _batch_id
    from bank_transactions
    inner join touched on bank_transactions.account_id = touched.account_id
    inner join bank_accounts on bank_transactions.account_id = bank_accounts.account_id
    where
        bank_transactions.deleted_at is null
        and bank_accounts.deleted_at is null

),

days as (

    select
        account_id,
        currency,
        booked_date,
        -- an account has one customer
        max(customer_id) as customer_id,
        {{ money('sum(case when amount > 0 then amount else 0 end)') }} as inflow,
        {{ money('sum(case when amount < 0 then -amount else 0 end)') }} as outflow,
        {{ money('sum(amount)') }} as net,
        count(*) as transactions,
        max(_batch_id) as _batch_id
    from transactions
    group by 1, 2, 3

),

{%- if is_incremental() %}

    -- what earlier builds made of these accounts
    built as (

        select built.*
        from {{ this }} as built
        inner join touched on built.account_id = touched.account_id

    ),

{%- endif %}

final as (

    select * from days
    {%- if is_incremental() %}
        union all
        -- a day that has lost its last transaction is merged without any, then deleted
        select
            built.account_id,
            built.currency,
            built.booked_date,
            built.customer_id,
            {{ money('0') }} as inflow,
            {{ money('0') }} as outflow,
            {{ money('0') }} as net,
            cast(0 as bigint) as transactions,
            built._batch_id
        from built
        left join days
            on
                built.account_id = days.account_id
                and built.currency = days.currency
                and built.booked_date = days.booked_date
        where days.account_id is null
        except
        select
            account_id,
            currency,
            booked_date,
            customer_id,
            inflow,
            outflow,
            net,
            transactions,
            _batch_id
        from built
    {%- endif %}

)

select * from final
