-- The lender's app database. Every world fills this same schema, so nothing downstream knows
-- which world it reads. Times are timestamptz, money is numeric(14,2) with its currency.
create schema app;

create table app.customers (
    customer_id    bigint primary key,
    partner_id     text not null,          -- tenant: the partner whose storefront brought the customer
    full_name      text not null,
    cpf            text not null unique,   -- 11 digits, no punctuation
    email          text not null,
    phone          text,
    birth_date     date,
    gender         text,
    city           text,
    state          text,
    monthly_income numeric(14, 2),
    created_at     timestamptz not null,
    updated_at     timestamptz not null
);
create index customers_updated_at on app.customers (updated_at);

create table app.consents (
    consent_id  uuid primary key,
    customer_id bigint not null references app.customers,
    scope       text not null check (scope in ('bureau', 'open_finance', 'marketing')),
    granted_at  timestamptz not null,
    expires_at  timestamptz,
    revoked_at  timestamptz,
    updated_at  timestamptz not null
);
create index consents_customer_id on app.consents (customer_id);
create index consents_updated_at on app.consents (updated_at);

create table app.credit_orders (
    order_id         uuid primary key,
    customer_id      bigint not null references app.customers,
    partner_id       text not null,
    product          text not null,
    purpose          text,
    currency         text not null,
    requested_amount numeric(14, 2) not null,
    approved_amount  numeric(14, 2),
    disbursed_amount numeric(14, 2),
    iof_amount       numeric(14, 2),       -- Brazil's tax on financial operations
    fee_amount       numeric(14, 2),
    term_months      int not null,
    interest_rate    numeric(9, 6),        -- per month
    status           text not null check (status in ('in_review', 'approved', 'rejected', 'cancelled')),
    decided_at       timestamptz,          -- set by approval or rejection, not by cancelling
    policy_version   text,
    disbursed_at     timestamptz,
    repayment_status text check (repayment_status in ('current', 'late', 'paid_off', 'defaulted')),
    metadata         jsonb not null default '{}',
    created_at       timestamptz not null,
    updated_at       timestamptz not null
);
create index credit_orders_customer_id on app.credit_orders (customer_id);
create index credit_orders_updated_at on app.credit_orders (updated_at);

-- Append-only, filled by the trigger below: no transition is lost between two extracts.
create table app.credit_order_events (
    order_id    uuid not null references app.credit_orders,
    seq         int not null,
    event_type  text not null,
    from_status text,
    to_status   text not null,             -- events that change no status have from = to
    actor       text not null,
    payload     jsonb not null default '{}',
    occurred_at timestamptz not null,
    primary key (order_id, seq)
);
create index credit_order_events_occurred_at on app.credit_order_events (occurred_at);

create table app.risk_evaluations (
    evaluation_id uuid primary key,
    order_id      uuid not null references app.credit_orders,
    provider      text not null,
    model_version text not null,
    score         int,
    decision      text not null,
    reason_codes  text[] not null default '{}',
    latency_ms    int,
    raw_response  jsonb,
    evaluated_at  timestamptz not null,
    created_at    timestamptz not null
);
create index risk_evaluations_order_id on app.risk_evaluations (order_id);
create index risk_evaluations_created_at on app.risk_evaluations (created_at);

-- A schedule_version is a whole schedule: a renegotiation writes every instalment again
-- (those already paid unchanged), so the schedule in force is the highest version.
create table app.installments (
    order_id         uuid not null references app.credit_orders,
    schedule_version int not null,
    installment_no   int not null,
    due_date         date not null,
    due_amount       numeric(14, 2) not null,
    principal_due    numeric(14, 2),
    interest_due     numeric(14, 2),
    status           text not null,
    updated_at       timestamptz not null,
    primary key (order_id, schedule_version, installment_no)
);
create index installments_updated_at on app.installments (updated_at);

-- Append-only ledger. A reversal is a row of its own with the negated amounts.
create table app.loan_payments (
    payment_id     bigint primary key,
    order_id       uuid not null references app.credit_orders,
    installment_no int,
    paid_at        timestamptz not null,
    amount         numeric(14, 2) not null,
    principal      numeric(14, 2),
    interest       numeric(14, 2),
    penalty        numeric(14, 2),
    reversal_of    bigint references app.loan_payments,
    created_at     timestamptz not null
);
create index loan_payments_order_id on app.loan_payments (order_id);
create index loan_payments_created_at on app.loan_payments (created_at);

create table app.loan_events (
    event_id         uuid primary key,
    order_id         uuid not null references app.credit_orders,
    kind             text not null check (kind in ('renegotiated', 'written_off', 'recovered', 'ceded')),
    amount           numeric(14, 2),
    related_order_id uuid,
    occurred_at      timestamptz not null,
    created_at       timestamptz not null
);
create index loan_events_created_at on app.loan_events (created_at);

create table app.bank_accounts (
    account_id  bigint primary key,
    customer_id bigint not null references app.customers,
    bank_code   text not null,
    opened_at   timestamptz not null,
    updated_at  timestamptz not null
);
create index bank_accounts_customer_id on app.bank_accounts (customer_id);
create index bank_accounts_updated_at on app.bank_accounts (updated_at);

create table app.bank_transactions (
    transaction_id    bigint primary key,
    account_id        bigint not null references app.bank_accounts,
    booked_at         timestamptz not null,
    amount            numeric(14, 2) not null,   -- signed: credits positive
    currency          text not null,
    kind              text not null,
    counterparty_bank text,
    description       text,
    balance_after     numeric(14, 2),
    created_at        timestamptz not null
);
create index bank_transactions_account_id on app.bank_transactions (account_id);
create index bank_transactions_created_at on app.bank_transactions (created_at);

create function app.record_credit_order_event() returns trigger
language plpgsql as $$
declare
    old_status text;
    types      text[] := '{}';
    details    jsonb := '{}';
begin
    if tg_op = 'INSERT' then
        types := array['created'];
    else
        old_status := old.status;
        if new.status is distinct from old.status then
            types := types || new.status;
        end if;
        if new.disbursed_at is distinct from old.disbursed_at then
            types := types || 'disbursed'::text;
        end if;
        if new.repayment_status is distinct from old.repayment_status then
            types := types || 'repayment_status_changed'::text;
            details := jsonb_build_object('from', old.repayment_status, 'to', new.repayment_status);
        end if;
    end if;
    for i in 1 .. coalesce(array_length(types, 1), 0) loop
        insert into app.credit_order_events
            (order_id, seq, event_type, from_status, to_status, actor, payload, occurred_at)
        select
            new.order_id,
            coalesce(max(e.seq), 0) + 1,
            types[i],
            case when i = 1 then old_status else new.status end,
            new.status,
            case when types[i] = 'created' then 'customer' else 'system' end,
            case when types[i] = 'repayment_status_changed' then details else '{}' end,
            case when types[i] = 'created' then new.created_at else new.updated_at end
        from app.credit_order_events as e
        where e.order_id = new.order_id;
    end loop;
    return null;
end
$$;

create trigger credit_orders_record_event
after insert or update on app.credit_orders
for each row execute function app.record_credit_order_event();
