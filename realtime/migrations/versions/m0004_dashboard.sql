-- The dashboard reads what has been committed since it last looked. A number from a sequence cannot tell it,
-- since transactions do not commit in the order of their numbers; the transaction's own id and a snapshot can:
-- whatever was not visible in the last snapshot is new. Rows stay for a quarter of an hour, for viewers who
-- come back; the worker takes older ones away.
create table realtime.feed (
    xid         xid8 not null default pg_current_xact_id(),
    recorded_at timestamptz not null default now(),
    order_id    uuid not null,
    occurred_at timestamptz not null,
    seq         int not null,
    event_type  text not null,
    from_status text,
    to_status   text not null,
    actor       text not null
) with (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000,
    autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 100000
);
create index feed_by_transaction on realtime.feed (xid);

create function realtime.feed_events() returns trigger
language plpgsql as $$
begin
    insert into realtime.feed (order_id, occurred_at, seq, event_type, from_status, to_status, actor)
    select order_id, occurred_at, seq, event_type, from_status, to_status, actor
    from added;
    perform pg_notify('realtime_feed', '');
    return null;
end
$$;
create trigger credit_order_events_feed
after insert on app.credit_order_events referencing new table as added
for each statement execute function realtime.feed_events();

-- Takes away what is older than minutes_kept, some at a time; returns how many.
create function realtime.trim_feed(minutes_kept int) returns int
language plpgsql as $$
declare
    trimmed int;
begin
    delete from realtime.feed
    where
        ctid = any(array(select f.ctid from realtime.feed as f order by f.xid limit 10000))
        and recorded_at < now() - make_interval(mins => minutes_kept);
    get diagnostics trimmed = row_count;
    return trimmed;
end
$$;

-- What a worker says of itself every few seconds.
create table realtime.workers (
    worker_id    uuid primary key,
    seen_at      timestamptz not null,
    bureau_is_up boolean not null
);
