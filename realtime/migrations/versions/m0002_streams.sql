create table realtime.stream_positions (
    stream       text not null,
    shard        text not null,
    position     text,                    -- everything up to this record is done; null: nothing yet
    owner        uuid not null,           -- the worker that reads it
    leased_until timestamptz not null,
    begun        int not null default 1,  -- workers that began at this position, one after the other
    ended        boolean not null default false,
    primary key (stream, shard)
);
