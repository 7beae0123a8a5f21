"""Takes orders in: order, event and outbox row in one transaction, or none of them.

Requests that arrive while a transaction is on its way share the next one, so the more come, the less each
costs. There is one at a time: two would be half as large each, and cost more than the wait that they save.
The order id is the key of idempotency: an order that is there already is compared, never changed.
"""

import asyncio
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

import asyncpg
import msgspec
from prometheus_client import Counter, Gauge, Histogram

from realtime import log
from realtime.database import UNAVAILABLE
from realtime.orders import OrderRequest, Refusal
from realtime.settings import Clock
from realtime.telemetry import span

CHANNEL = "realtime_outbox"
"""Told when there is something to decide."""
# After the transactions of orders, never within: PostgreSQL lets one transaction at a time commit that
# notifies, so each would wait for the disk alone. Nor does this one wait: what is lost is found anyway.
_NOTIFY = "select set_config('synchronous_commit', 'off', true), pg_notify($1, '')"
_NOTIFY_GAP = 0.02  # seconds from one call to the next, at least

# A customer's orders are stored one after the other, each dated when its turn has come: whoever decides an
# order sees all that are older. Milliseconds, since the warehouse has no finer ones.
_ACCEPT = """
with request as (
    select *
    from unnest(
        $1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::numeric[], $8::int[],
        $9::jsonb[]
    ) with ordinality as r (
        order_id, partner_id, cpf, product, purpose, currency, requested_amount, term_months, metadata, place
    )
),
known as (
    select r.*, c.customer_id
    from request as r
    join app.customers as c on c.cpf = r.cpf and c.partner_id = r.partner_id
    order by hashint8(c.customer_id)  -- all take the locks in one order, so nobody waits in a circle
),
locked as materialized (
    select known.*, pg_advisory_xact_lock($11, hashint8(customer_id))
    from known
),
dated as materialized (
    select *, date_trunc('milliseconds', clock_timestamp()) + $10::interval as at
    from locked
    order by place
),
accepted as (
    insert into app.credit_orders (
        order_id, customer_id, partner_id, product, purpose, currency, requested_amount, term_months,
        status, metadata, created_at, updated_at
    )
    select
        order_id, customer_id, partner_id, product, purpose, currency, requested_amount, term_months,
        'in_review', metadata, at, at
    from dated
    order by order_id  -- two transactions with the same orders wait for each other, never in a circle
    on conflict (order_id) do nothing
    returning order_id, customer_id, created_at
),
queued as (
    insert into realtime.outbox (order_id, customer_id)
    select a.order_id, a.customer_id
    from accepted as a
    join request as r using (order_id)
    order by r.place
)
select order_id, created_at
from accepted
"""
_CUSTOMER_LOCK = 0x6F726472
"""Of the advisory locks: the second half is the customer."""

_FIND = """
select
    o.order_id, o.partner_id, c.cpf, o.product, o.purpose, o.currency, o.requested_amount, o.term_months,
    o.metadata, o.created_at
from app.credit_orders as o
join app.customers as c using (customer_id)
where o.order_id = any($1)
"""

_ACCEPTED = Counter("realtime_orders_accepted_total", "Orders accepted for the first time")
_REPEATED = Counter("realtime_orders_repeated_total", "Orders that came again, unchanged")
_WAITING = Gauge("realtime_intake_waiting", "Orders that wait for a transaction")
_BATCH = Histogram(
    "realtime_intake_batch", "Orders in a transaction", buckets=(1, 2, 5, 10, 20, 50, 100, 200)
)


@dataclass(frozen=True)
class _Waiting:
    order: OrderRequest
    partner_id: str
    receipt: "asyncio.Future[datetime]"


class Intake:
    """Accepts orders into the database of `pool`; `run` must be under way.

    Args:
        pool: of at least two connections.
        clock: how far the time of business is from the database's.
        batch: orders in one transaction, at most.
        max_waiting: more orders than these are turned away until some are through.
    """

    def __init__(
        self, pool: asyncpg.Pool, clock: Clock, *, batch: int = 200, max_waiting: int = 2000
    ) -> None:
        self._pool = pool
        self._clock = clock
        self._batch = batch
        self._max_waiting = max_waiting
        self._waiting: deque[_Waiting] = deque()
        self._arrived = asyncio.Event()
        self._stored = asyncio.Event()

    async def submit(self, order: OrderRequest, partner_id: str) -> datetime:
        """Stores the order durably, once; returns when it was made, the same every time.

        Raises:
            Refusal: too much is waiting (503), the database is away (503; repeat the request), the customer
                is not this partner's (422), or the id is taken by another order (409).
        """
        if len(self._waiting) >= self._max_waiting:
            raise Refusal(503, "busy", "too many orders are waiting; repeat the request later", wait=1)
        receipt = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(order, partner_id, receipt))
        self._arrived.set()
        return await receipt

    async def run(self) -> None:
        """Writes what arrives, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._write_forever())
            group.create_task(self._call_workers())

    async def _write_forever(self) -> None:
        while True:
            batch = self._take()
            if not batch:
                self._arrived.clear()
                await self._arrived.wait()
                continue
            _WAITING.set(len(self._waiting))
            _BATCH.observe(len(batch))
            try:
                await self._store(batch)
            except UNAVAILABLE as error:
                log.event("database_unavailable", "error", at="intake", error=type(error).__name__)
                self._turn_away(batch)
            except Exception as error:
                # One of them may be at fault: the others must not suffer.
                log.event("batch_failed", "error", orders=len(batch), error=type(error).__name__)
                await self._store_singly(batch)

    async def _call_workers(self) -> None:
        while True:
            await self._stored.wait()
            self._stored.clear()
            try:
                await self._pool.execute(_NOTIFY, CHANNEL)
            except (*UNAVAILABLE, asyncpg.PostgresError) as error:
                log.event("database_unavailable", "error", at="notify", error=type(error).__name__)
            await asyncio.sleep(_NOTIFY_GAP)

    def _take(self) -> list[_Waiting]:
        """The next ones, no two of the same id: the second is compared with the first once that is stored."""
        taken, again = {}, []
        while self._waiting and len(taken) < self._batch:
            waiting = self._waiting.popleft()
            if waiting.receipt.done():
                continue  # whoever sent it is gone
            if waiting.order.order_id in taken:
                again.append(waiting)
            else:
                taken[waiting.order.order_id] = waiting
        self._waiting.extendleft(reversed(again))
        return list(taken.values())

    async def _store_singly(self, batch: list[_Waiting]) -> None:
        for waiting in batch:
            try:
                await self._store([waiting])
            except UNAVAILABLE as error:
                log.event("database_unavailable", "error", at="intake", error=type(error).__name__)
                self._turn_away([waiting])
            except Exception as error:
                # To repeat it would be no use.
                log.event(
                    "order_failed", "error", order_id=waiting.order.order_id, error=type(error).__name__
                )
                if not waiting.receipt.done():
                    refusal = Refusal(500, "internal", "this is our fault; it is in our log")
                    waiting.receipt.set_exception(refusal)

    async def _store(self, batch: list[_Waiting]) -> None:
        columns = zip(
            *(
                (
                    w.order.order_id,
                    w.partner_id,
                    w.order.cpf,
                    w.order.product,
                    w.order.purpose,
                    w.order.currency,
                    w.order.requested_amount,
                    w.order.term_months,
                    msgspec.json.encode(w.order.metadata).decode(),
                )
                for w in batch
            ),
            strict=True,
        )
        with span("store orders", db__system__name="postgresql", orders=len(batch)):
            await self._store_columns(batch, columns)

    async def _store_columns(self, batch: list[_Waiting], columns: Iterable[tuple]) -> None:
        async with self._pool.acquire() as connection:
            rows = await connection.fetch(_ACCEPT, *map(list, columns), self._clock.offset, _CUSTOMER_LOCK)
            accepted = {row[0]: row[1] for row in rows}
            rest = [w for w in batch if w.order.order_id not in accepted]
            found = {}
            if rest:  # a new snapshot: what another transaction has just stored is in it
                rows = await connection.fetch(_FIND, [w.order.order_id for w in rest])
                found = {row["order_id"]: row for row in rows}
        if accepted:
            self._stored.set()
        _ACCEPTED.inc(len(accepted))
        for w in batch:
            if w.receipt.done():
                continue
            if w.order.order_id in accepted:
                w.receipt.set_result(accepted[w.order.order_id])
            else:
                self._compare(w, found.get(w.order.order_id))

    def _compare(self, waiting: _Waiting, stored: asyncpg.Record | None) -> None:
        order = waiting.order
        if stored is None:
            # The same words whether nobody or another partner knows this customer.
            refusal = Refusal(422, "unknown-customer", "this CPF is not one of your customers", "/cpf")
            waiting.receipt.set_exception(refusal)
            return
        same = (
            stored["partner_id"] == waiting.partner_id
            and stored["cpf"] == order.cpf
            and stored["product"] == order.product
            and stored["purpose"] == order.purpose
            and stored["currency"] == order.currency
            and stored["requested_amount"] == order.requested_amount
            and stored["term_months"] == order.term_months
            and msgspec.json.decode(stored["metadata"]) == msgspec.to_builtins(order.metadata)
        )
        if same:
            _REPEATED.inc()
            waiting.receipt.set_result(stored["created_at"])
        else:
            refusal = Refusal(409, "conflict", "this order_id belongs to another order", "/order_id")
            waiting.receipt.set_exception(refusal)

    def _turn_away(self, batch: Iterable[_Waiting]) -> None:
        """It may be stored or not: to repeat the request finds out."""
        for waiting in batch:
            if not waiting.receipt.done():
                waiting.receipt.set_exception(
                    Refusal(
                        503, "unavailable", "the order could not be stored now; repeat the request", wait=1
                    )
                )
