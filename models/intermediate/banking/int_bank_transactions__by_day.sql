{{ config(
    materialized = 'incremental',
    incremental_strategy = 'merge',
    unique_key = ['account_id', 'currency', 'booked_date'],
    partitioned_by = ['year(booked_date)'],
    on_schema_change = 'fail',
    post_hook = "{{ 'delete from ' ~ this ~ ' where transactions = 0' if is_incremental() else '' }}"
) }}

{%- set years = years_of_changes(ref('stg_app__bank_transactions'), 'booked_at') %}

with

bank_transactions as (

    select *
    from {{ ref('stg_app__bank_transactions') }}
    where
        deleted_at is null
        and {{ is_in_years('booked_at', years) }}

),

-- Read past the import: DuckDB keeps a CTE that is read twice as a copy of the whole table.
changed as (

    select
        account_id,
        {{ business_date('booked_at') }} as booked_date,
        {{ is_correction() }} as is_correction
    from {{ ref('stg_app__bank_transactions') }}
    where {{ changed_since_last_build() }}

),

corrected as (

    select distinct account_id
    from changed
    where is_correction

),

-- What is new concerns its day. What was built before and has changed since may have been of any day: its account is
-- built again whole, which a row without a day stands for.
touched as (

    select distinct
        changed.account_id,
        case when corrected.account_id is null then changed.booked_date end as booked_date
    from changed
    left join corrected on changed.account_id = corrected.account_id

),

transactions as (

    select
        bank_transactions.account_id,
        bank_transactions.currency,
        {{ business_date('bank_transactions.booked_at') }} as booked_date,
        bank_transactions.amount,
        bank_transactions._batch_id,
        bank_transactions._extract_date
    from bank_transactions
    inner join touched
        on
            bank_transactions.account_id = touched.account_id
            and (
                touched.booked_date is null
                or {{ business_date('bank_transactions.booked_at') }} = touched.booked_date
            )

),

days as (

    select
        account_id,
        currency,
        booked_date,
        {{ money('sum(case when amount > 0 then amount else 0 end)') }} as inflow,
        {{ money('sum(case when amount < 0 then -amount else 0 end)') }} as outflow,
        {{ money('sum(amount)') }} as net,
        count(*) as transactions,
        max(_batch_id) as _batch_id,
        max(_extract_date) as _extract_date
    from transactions
    group by 1, 2, 3

),

{%- if is_incremental() %}

    -- what earlier builds made of these days
    built as (

        select built.*
        from {{ this }} as built
        inner join touched
            on
                built.account_id = touched.account_id
                and (touched.booked_date is null or built.booked_date = touched.booked_date)
        where {{ is_in_years('built.booked_date', years) }}

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
            {{ money('0') }} as inflow,
            {{ money('0') }} as outflow,
            {{ money('0') }} as net,
            cast(0 as bigint) as transactions,
            built._batch_id,
            built._extract_date
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
            inflow,
            outflow,
            net,
            transactions,
            _batch_id,
            _extract_date
        from built
    {%- endif %}

)

select * from final
