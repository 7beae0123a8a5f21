-- On top of the app's tables. What ingestion reads keeps its name, columns and key; partitions and all that
-- is the service's own live in schema realtime, so ingestion sees the parents only.

---------- events by month

-- The events so far become the first partition as they are. Each partition has the key (order_id, seq); over
-- all of them it is kept by the trigger below, which numbers events while it holds the order's row.
alter table app.credit_order_events rename to credit_order_events_before;
alter table app.credit_order_events_before set schema realtime;
create table app.credit_order_events (
    like realtime.credit_order_events_before including defaults,
    foreign key (order_id) references app.credit_orders
) partition by range (occurred_at);
create index credit_order_events_by_time on app.credit_order_events (occurred_at);

do $$
declare
    newest timestamptz;
    bound  timestamptz;
begin
    select greatest(max(occurred_at), now()) into newest from realtime.credit_order_events_before;
    bound := date_trunc('month', newest at time zone 'UTC') at time zone 'UTC' + interval '1 month';
    execute format(
        'alter table app.credit_order_events attach partition realtime.credit_order_events_before'
        ' for values from (minvalue) to (%L)', bound
    );
end
$$;

---------- the queue

create sequence realtime.message_id;

-- One row for every order that waits for its decision; kept after it for as long as its month is.
create table realtime.outbox (
    message_id   bigint not null default nextval('realtime.message_id'),
    order_id     uuid not null,
    customer_id  bigint not null,
    created_at   timestamptz not null default now(),
    available_at timestamptz not null default now(),  -- later than now: a worker has it, or it rests
    attempts     int not null default 0,
    done_at      timestamptz
) partition by range (created_at);
create index outbox_pending on realtime.outbox (message_id) where done_at is null;
create index outbox_pending_of_customer on realtime.outbox (customer_id, message_id) where done_at is null;

create table realtime.dead_letters (
    message_id  bigint primary key,
    order_id    uuid not null references app.credit_orders,
    customer_id bigint not null,
    attempts    int not null,
    error       text not null,
    failed_at   timestamptz not null default now(),
    replayed_at timestamptz
);

---------- months

-- Makes the partitions of this month and the next ones; those that exist stay.
create function realtime.ensure_partitions(months_ahead int default 2) returns int
language plpgsql as $$
declare
    parent text;
    first  timestamptz;
    name   text;
    made   int := 0;
begin
    perform pg_advisory_xact_lock(hashtext('realtime.ensure_partitions'));
    foreach parent in array array['app.credit_order_events', 'realtime.outbox'] loop
        for month in 0 .. months_ahead loop
            first := (date_trunc('month', now() at time zone 'UTC') + make_interval(months => month))
                at time zone 'UTC';
            name := split_part(parent, '.', 2) || to_char(first at time zone 'UTC', '_YYYY_MM');
            continue when to_regclass('realtime.' || name) is not null;
            -- the month of the migration itself belongs to the events before it
            continue when parent = 'app.credit_order_events' and exists (
                select from pg_class as c
                where
                    c.oid = 'realtime.credit_order_events_before'::regclass
                    and first < substring(pg_get_expr(c.relpartbound, c.oid) from 'TO \(''(.*)''\)')::timestamptz
            );
            -- made apart and then attached: inserts into other months need not wait
            execute format('create table realtime.%I (like %s including defaults)', name, parent);
            if parent = 'realtime.outbox' then
                -- rows change three times and are looked for where they are few: keep the indexes short
                execute format(
                    'alter table realtime.%I add primary key (message_id), set (fillfactor = 70,'
                    ' autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000,'
                    ' autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 20000)', name
                );
            else
                execute format('alter table realtime.%I add primary key (order_id, seq)', name);
            end if;
            execute format(
                'alter table %s attach partition realtime.%I for values from (%L) to (%L)',
                parent, name, first, first + interval '1 month'
            );
            made := made + 1;
        end loop;
    end loop;
    return made;
end
$$;
select realtime.ensure_partitions();

-- Drops the months of the outbox that ended more than months_kept months ago and hold nothing that waits.
create function realtime.drop_old_outbox(months_kept int) returns int
language plpgsql as $$
declare
    partition regclass;
    waiting   boolean;
    dropped   int := 0;
begin
    for partition in
        select i.inhrelid::regclass
        from pg_inherits as i
        join pg_class as c on c.oid = i.inhrelid
        where
            i.inhparent = 'realtime.outbox'::regclass
            and substring(pg_get_expr(c.relpartbound, c.oid) from 'TO \(''(.*)''\)')::timestamptz
            <= now() - make_interval(months => months_kept)
    loop
        execute format('select exists (select from %s where done_at is null)', partition) into waiting;
        continue when waiting;
        execute format('drop table %s', partition);
        dropped := dropped + 1;
    end loop;
    return dropped;
end
$$;

---------- what the database itself keeps

drop trigger credit_orders_record_event on app.credit_orders;
drop function app.record_credit_order_event();

-- An order's first event; for all rows of a statement at once.
create function app.record_created_orders() returns trigger
language plpgsql as $$
begin
    insert into app.credit_order_events (order_id, seq, event_type, from_status, to_status, actor, occurred_at)
    select order_id, 1, 'created', null, status, 'customer', created_at
    from created_orders;
    return null;
end
$$;
create trigger credit_orders_record_created
after insert on app.credit_orders referencing new table as created_orders
for each statement execute function app.record_created_orders();

-- One event for each thing that changes. Whoever changes an order may name the actor and add a payload, for
-- the transaction: set_config('app.actor', …, true), set_config('app.event_payload', …, true).
create function app.record_changed_order() returns trigger
language plpgsql as $$
declare
    who     text := coalesce(nullif(current_setting('app.actor', true), ''), 'system');
    details jsonb := coalesce(nullif(current_setting('app.event_payload', true), '')::jsonb, '{}');
    types   text[] := '{}';
begin
    if new.status is distinct from old.status then
        types := types || new.status;
    end if;
    if new.disbursed_at is distinct from old.disbursed_at then
        types := types || 'disbursed'::text;
    end if;
    if new.repayment_status is distinct from old.repayment_status then
        types := types || 'repayment_status_changed'::text;
    end if;
    for i in 1 .. coalesce(array_length(types, 1), 0) loop
        insert into app.credit_order_events
            (order_id, seq, event_type, from_status, to_status, actor, payload, occurred_at)
        select
            new.order_id,
            coalesce(max(e.seq), 0) + 1,
            types[i],
            case when i = 1 then old.status else new.status end,
            new.status,
            who,
            case
                when types[i] = 'repayment_status_changed'
                    then jsonb_build_object('from', old.repayment_status, 'to', new.repayment_status)
                else details
            end,
            new.updated_at
        from app.credit_order_events as e
        where e.order_id = new.order_id;
    end loop;
    return null;
end
$$;
create trigger credit_orders_record_changed
after update on app.credit_orders
for each row when (
    new.status is distinct from old.status
    or new.disbursed_at is distinct from old.disbursed_at
    or new.repayment_status is distinct from old.repayment_status
)
execute function app.record_changed_order();

-- A decision is final, but for a person who reviews a refusal. (Orders may be loaded with a history, so the
-- status that a row begins with is free.)
create function app.check_credit_order_transition() returns trigger
language plpgsql as $$
begin
    if old.status = 'in_review'
        or (old.status = 'rejected' and new.status = 'approved' and current_setting('app.actor', true) = 'staff')
    then
        return new;
    end if;
    raise exception 'a credit order cannot go from % to %', old.status, new.status using errcode = 'check_violation';
end
$$;
create trigger credit_orders_check_transition
before update on app.credit_orders
for each row when (new.status is distinct from old.status)
execute function app.check_credit_order_transition();

create function app.refuse_change() returns trigger
language plpgsql as $$
begin
    raise exception '% is append-only', tg_table_name using errcode = 'check_violation';
end
$$;
create trigger credit_order_events_append_only
before update or delete on app.credit_order_events
for each row execute function app.refuse_change();

---------- who may call

create table realtime.api_keys (
    key_sha256          bytea primary key,            -- of a random key: the key itself is nowhere
    name                text not null,
    partner_id          text,                         -- null: a reviewer of the lender's own staff
    requests_per_second double precision not null check (requests_per_second > 0),
    burst               int not null check (burst > 0),
    created_at          timestamptz not null default now(),
    revoked_at          timestamptz
);

---------- the queries of velocity rules

drop index if exists app.credit_orders_customer_id;
create index credit_orders_of_customer on app.credit_orders (customer_id, created_at);
create index credit_orders_of_device on app.credit_orders ((metadata ->> 'device_id'), created_at)
where metadata ->> 'device_id' is not null;
