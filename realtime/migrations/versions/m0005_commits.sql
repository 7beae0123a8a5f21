-- PostgreSQL lets one transaction at a time commit that notifies, the wait for the disk included. So what writes
-- events only writes them: the dashboard looks by itself, ten times a second.
create or replace function realtime.feed_events() returns trigger
language plpgsql as $$
begin
    insert into realtime.feed (order_id, occurred_at, seq, event_type, from_status, to_status, actor)
    select order_id, occurred_at, seq, event_type, from_status, to_status, actor
    from added;
    return null;
end
$$;

-- Sessions of the dashboard whose user has logged out before their end; rows are of no use after it.
create table realtime.ended_sessions (
    session_id text primary key,
    until      timestamptz not null
);

-- The service makes partitions, too, and need not be the owner of what they are parts of.
alter function realtime.ensure_partitions(int) security definer set search_path = pg_catalog, pg_temp;
