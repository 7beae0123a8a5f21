-- Filled from the warehouse by `python -m realtime load-features`, kept current by triggers and by the bureau's
-- answers. Every row says since when it was known, so that a decision sees what was known at its request. Times
-- are whole milliseconds, as the warehouse's.

create function realtime.to_ms(at timestamptz) returns timestamptz
language sql immutable parallel safe as $$
    select date_trunc('milliseconds', at + interval '500 microseconds', 'UTC')
$$;

-- What a customer was, from a moment on.
create table realtime.customer_versions (
    customer_id    bigint not null,
    known_from     timestamptz not null,
    state          text,
    monthly_income numeric(18, 2),
    birth_date     date,
    registered_at  timestamptz not null,
    primary key (customer_id, known_from)
);

-- Bank accounts that anything was ever heard of, and since when.
create table realtime.bank_sources (
    account_id     bigint primary key,
    customer_id    bigint not null,
    first_known_at timestamptz
);
create index bank_sources_of_customer on realtime.bank_sources (customer_id);

-- Transactions of the last months: a window of 90 days ends at any moment.
create table realtime.bank_movements (
    account_id     bigint not null,
    booked_at      timestamptz not null,
    transaction_id bigint not null,
    known_at       timestamptz not null,
    currency       text not null,
    amount         numeric(14, 2) not null,
    primary key (account_id, booked_at, transaction_id) include (known_at, currency, amount)
);

create table realtime.bureau_records (
    customer_id      bigint not null,
    queried_at       timestamptz not null,
    score            int not null,
    score_version    text,
    negative_records int,
    total_debt       numeric(14, 2),
    primary key (customer_id, queried_at)
);

create table realtime.fx_closings (
    currency  text not null,
    rate_date date not null,
    quoted_at timestamptz not null,
    sell      numeric(18, 8) not null,
    primary key (currency, rate_date)
);

-- As the warehouse converts (macro convert_money): rates are of the currencies into BRL.
create function realtime.convert(
    amount numeric, from_currency text, from_rate numeric, to_currency text, to_rate numeric
) returns numeric
language sql immutable parallel safe as $$
    select case
        when amount = 0 or from_currency = to_currency then amount
        when to_currency = 'BRL' then round(amount * from_rate, 2)
        else round(
            (amount::float8 * case from_currency when 'BRL' then 1 else from_rate::float8 end / to_rate::float8)
            ::numeric, 2
        )
    end
$$;

---------- what happens

create function realtime.take_customers(given app.customers []) returns void
language sql as $$
    insert into realtime.customer_versions
        (customer_id, known_from, state, monthly_income, birth_date, registered_at)
    select
        customer_id,
        realtime.to_ms(updated_at),
        case when length(trim(state)) = 2 then upper(trim(state)) else nullif(trim(state), '') end,
        monthly_income,
        birth_date,
        realtime.to_ms(created_at)
    from unnest(given)
    on conflict (customer_id, known_from) do update
    set state = excluded.state, monthly_income = excluded.monthly_income, birth_date = excluded.birth_date
$$;

create function realtime.take_bank_accounts(given app.bank_accounts []) returns void
language sql as $$
    insert into realtime.bank_sources (account_id, customer_id)
    select account_id, customer_id from unnest(given)
    on conflict (account_id) do update set customer_id = excluded.customer_id
$$;

create function realtime.take_bank_transactions(given app.bank_transactions []) returns void
language sql as $$
    insert into realtime.bank_movements (account_id, booked_at, transaction_id, known_at, currency, amount)
    select
        account_id, realtime.to_ms(booked_at), transaction_id, realtime.to_ms(created_at), upper(trim(currency)),
        amount
    from unnest(given)
    on conflict do nothing;
    insert into realtime.bank_sources as s (account_id, customer_id, first_known_at)
    select t.account_id, a.customer_id, realtime.to_ms(min(t.created_at))
    from unnest(given) as t
    join app.bank_accounts as a using (account_id)
    group by 1, 2
    on conflict (account_id) do update
    set first_known_at = least(s.first_known_at, excluded.first_known_at)
$$;

create function realtime.note_changes() returns trigger
language plpgsql as $$
begin
    case tg_table_name
        when 'customers' then perform realtime.take_customers(array_agg(row(c.*)::app.customers)) from changed as c;
        when 'bank_accounts' then perform realtime.take_bank_accounts(array_agg(row(c.*)::app.bank_accounts)) from changed as c;
        else perform realtime.take_bank_transactions(array_agg(row(c.*)::app.bank_transactions)) from changed as c;
    end case;
    return null;
end
$$;
create trigger customers_inserted after insert on app.customers
referencing new table as changed for each statement execute function realtime.note_changes();
create trigger customers_updated after update on app.customers
referencing new table as changed for each statement execute function realtime.note_changes();
create trigger bank_accounts_inserted after insert on app.bank_accounts
referencing new table as changed for each statement execute function realtime.note_changes();
create trigger bank_accounts_updated after update on app.bank_accounts
referencing new table as changed for each statement execute function realtime.note_changes();
create trigger bank_transactions_inserted after insert on app.bank_transactions
referencing new table as changed for each statement execute function realtime.note_changes();

---------- what is there already

select realtime.take_customers(array_agg(c)) from app.customers as c;
insert into realtime.bank_sources (account_id, customer_id, first_known_at)
select a.account_id, a.customer_id, (
    select realtime.to_ms(min(t.created_at)) from app.bank_transactions as t where t.account_id = a.account_id
)
from app.bank_accounts as a;
insert into realtime.bank_movements (account_id, booked_at, transaction_id, known_at, currency, amount)
select
    account_id, realtime.to_ms(booked_at), transaction_id, realtime.to_ms(created_at), upper(trim(currency)),
    amount
from app.bank_transactions
where booked_at > (select max(booked_at) from app.bank_transactions) - interval '100 days';
