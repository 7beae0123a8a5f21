"""The queue between intake and decision: what a worker needs of any, and the one that PostgreSQL is.

Delivery is at least once, and the orders of one customer come one after the other, in the order in which they
were accepted. What is received stays with the worker for as long as the lease, then others get it.
"""

import asyncio
from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol
from uuid import UUID

import asyncpg

from realtime import log
from realtime.database import UNAVAILABLE, connect
from realtime.intake import CHANNEL


class QueueUnavailable(Exception):
    """The queue does not answer now; its text is the kind of error."""


@dataclass(frozen=True)
class Message:
    """An order to decide."""

    message_id: int
    """Of the outbox; the same on every queue."""
    order_id: UUID
    customer_id: int
    attempts: int
    """Deliveries, this one included."""
    handle: str = ""
    """What the queue calls this delivery, where it has a name of its own for it."""


class Queue(Protocol):
    """What a worker asks of a queue."""

    max_deliveries: int
    """A message that was delivered more often has ended its workers."""

    async def receive(self, limit: int) -> list[Message]:
        """Up to `limit` messages, no two of one customer; none where nothing waits."""

    async def wait(self, seconds: float) -> None:
        """Returns when something may have arrived, or after so many seconds."""

    async def acknowledge(self, messages: Collection[Message]) -> None:
        """These are done."""

    async def release(self, messages: Collection[Message], seconds: float, *, forget: bool) -> None:
        """Deliver these again after so many seconds; `forget` that they were delivered."""

    async def bury(self, message: Message, error: str) -> None:
        """Nobody can handle this one: keep it as a dead letter. `error` holds no value of a record."""


# Only the oldest of a customer's messages is ever taken, and it counts as waiting until it is done.
_RECEIVE = """
with heads as (
    select o.message_id, o.created_at
    from realtime.outbox as o
    where
        o.done_at is null
        and o.available_at <= clock_timestamp()
        and not exists (
            select from realtime.outbox as earlier
            where
                earlier.customer_id = o.customer_id
                and earlier.done_at is null
                and earlier.message_id < o.message_id
        )
    order by o.message_id
    limit $1
    for update of o skip locked
)
update realtime.outbox as o
set available_at = clock_timestamp() + $2, attempts = o.attempts + 1
from heads
where o.message_id = heads.message_id and o.created_at = heads.created_at
returning o.message_id, o.order_id, o.customer_id, o.attempts
"""
_ACKNOWLEDGE = """
update realtime.outbox set done_at = clock_timestamp() where message_id = any($1) and done_at is null
"""
_RELEASE = """
update realtime.outbox
set
    available_at = clock_timestamp() + make_interval(secs => $2),
    attempts = attempts - case when $3 then 1 else 0 end
where message_id = any($1) and done_at is null
"""
_BURY = """
with buried as (
    update realtime.outbox
    set done_at = clock_timestamp()
    where message_id = $1 and done_at is null
    returning message_id, order_id, customer_id, attempts
)
insert into realtime.dead_letters (message_id, order_id, customer_id, attempts, error)
select message_id, order_id, customer_id, attempts, $2 from buried
"""
_KEEP = """
insert into realtime.dead_letters (message_id, order_id, customer_id, attempts, error)
values ($1, $2, $3, $4, $5)
on conflict (message_id) do nothing
"""
_REPLAY = """
with risen as (
    update realtime.dead_letters
    set replayed_at = clock_timestamp()
    where replayed_at is null and ($1::uuid is null or order_id = $1)
    returning message_id, order_id, customer_id
),
queued as (
    insert into realtime.outbox (order_id, customer_id)
    select order_id, customer_id from risen order by message_id
    returning 1
)
select count(*), pg_notify($2::text, '') from queued
"""


class PostgresQueue:
    """The transactional outbox as a queue.

    Args:
        dsn: to listen with, on a connection of its own.
        pool: for everything else.
        lease: seconds that a worker has for what it received.
    """

    max_deliveries = 10

    def __init__(self, dsn: str, pool: asyncpg.Pool, lease: float) -> None:
        self._dsn = dsn
        self._pool = pool
        self._lease = timedelta(seconds=lease)
        self._arrived = asyncio.Event()

    async def receive(self, limit: int) -> list[Message]:
        """See `Queue`."""
        rows = await self._pool.fetch(_RECEIVE, limit, self._lease)
        return [Message(*row) for row in sorted(rows)]

    async def wait(self, seconds: float) -> None:
        """See `Queue`."""
        try:
            async with asyncio.timeout(seconds):
                await self._arrived.wait()
        except TimeoutError:
            return
        self._arrived.clear()

    async def acknowledge(self, messages: Collection[Message]) -> None:
        """See `Queue`."""
        await self._pool.execute(_ACKNOWLEDGE, [m.message_id for m in messages])
        self._arrived.set()  # a customer's next one may be waiting

    async def release(self, messages: Collection[Message], seconds: float, *, forget: bool) -> None:
        """See `Queue`."""
        await self._pool.execute(_RELEASE, [m.message_id for m in messages], seconds, forget)

    async def bury(self, message: Message, error: str) -> None:
        """See `Queue`."""
        await self._pool.execute(_BURY, message.message_id, error)
        _tell_dead(message, error)

    async def listen(self) -> None:
        """Hears of new messages, until cancelled. Without it they are found a little later."""
        while True:
            try:
                connection = await connect(self._dsn)
                try:
                    ended = asyncio.Event()
                    connection.add_termination_listener(lambda _, ended=ended: ended.set())
                    await connection.add_listener(CHANNEL, lambda *_: self._arrived.set())
                    self._arrived.set()  # what came while nobody listened
                    await ended.wait()
                finally:
                    connection.terminate()
            except (*UNAVAILABLE, asyncpg.PostgresError) as error:
                log.event("database_unavailable", "error", at="queue", error=type(error).__name__)
            await asyncio.sleep(0.5)


async def keep_dead_letter(pool: asyncpg.Pool, message: Message, error: str) -> None:
    """Keeps a message of another queue as a dead letter; once, however often it is buried."""
    await pool.execute(
        _KEEP, message.message_id, message.order_id, message.customer_id, message.attempts, error
    )
    _tell_dead(message, error)


def _tell_dead(message: Message, error: str) -> None:
    log.event("dead_letter", "error", order_id=message.order_id, attempts=message.attempts, error=error)


async def replay_dead_letters(pool: asyncpg.Pool, order_id: UUID | None = None) -> int:
    """Puts dead letters (of one order, or all) back into the queue; returns how many."""
    return await pool.fetchval(_REPLAY, order_id, CHANNEL)
