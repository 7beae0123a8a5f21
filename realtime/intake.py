"""Takes orders in: order, event and outbox row in one transaction, or none of them.

Requests that arrive while a transaction is on its way share the next one, so the more come, the less each
costs. The order id is the key of idempotency: an order that is there already is compared, never changed.
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

CHANNEL = "realtime_outbox"
"""Told when there is something to decide."""

_ACCEPT = """
with request as (
    select *
    from unnest(
        $1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::numeric[], $8::int[],
        $9::jsonb[], $10::timestamptz[]
    ) with ordinality as r (
        order_id, partner_id, cpf, product, purpose, currency, requested_amount, term_months, metadata,
        received_at, place
    )
),
accepted as (
    insert into app.credit_orders (
        order_id, customer_id, partner_id, product, purpose, currency, requested_amount, term_months,
        status, metadata, created_at, updated_at
    )
    select
        r.order_id, c.customer_id, r.partner_id, r.product, r.purpose, r.currency, r.requested_amount,
        r.term_months, 'in_review', r.metadata, r.received_at, r.received_at
    from request as r
    join app.customers as c on c.cpf = r.cpf and c.partner_id = r.partner_id
    order by r.order_id  -- two transactions with the same orders wait for each other, never in a circle
    on conflict (order_id) do nothing
    returning order_id, customer_id
),
queued as (
    insert into realtime.outbox (order_id, customer_id)
    select a.order_id, a.customer_id
    from accepted as a
    join request as r using (order_id)
    order by r.place
    returning order_id
)
select order_id, pg_notify($11::text, '')
from queued
"""

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
    received_at: datetime
    receipt: "asyncio.Future[datetime]"


class Intake:
    """Accepts orders into the database of `pool`; `run` must be under way.

    Args:
        pool: of at least `writers` connections.
        clock: says when an order is made.
        batch: orders in one transaction, at most.
        writers: transactions at the same time.
        max_waiting: more orders than these are turned away until some are through.
    """

    def __init__(
        self, pool: asyncpg.Pool, clock: Clock, *, batch: int = 200, writers: int = 2, max_waiting: int = 2000
    ) -> None:
        self._pool = pool
        self._clock = clock
        self._batch = batch
        self._writers = writers
        self._max_waiting = max_waiting
        self._waiting: deque[_Waiting] = deque()
        self._arrived = asyncio.Event()

    async def submit(self, order: OrderRequest, partner_id: str) -> datetime:
        """Stores the order durably, once; returns when it was made, the same every time.

        Raises:
            Refusal: too much is waiting (503), the database is away (503; repeat the request), the customer
                is not this partner's (422), or the id is taken by another order (409).
        """
        if len(self._waiting) >= self._max_waiting:
            raise Refusal(503, "busy", "too many orders are waiting; repeat the request later", wait=1)
        receipt = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(order, partner_id, self._clock.now(), receipt))
        self._arrived.set()
        return await receipt

    async def run(self) -> None:
        """Writes what arrives, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._writers):
                group.create_task(self._write_forever())

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
            except Exception as error:
                log.event(
                    "order_failed", "error", order_id=waiting.order.order_id, error=type(error).__name__
                )
                self._turn_away([waiting])

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
                    w.received_at,
                )
                for w in batch
            ),
            strict=True,
        )
        async with self._pool.acquire() as connection:
            accepted = {row[0] for row in await connection.fetch(_ACCEPT, *map(list, columns), CHANNEL)}
            rest = [w for w in batch if w.order.order_id not in accepted]
            found = {}
            if rest:  # a new snapshot: what another transaction has just stored is in it
                rows = await connection.fetch(_FIND, [w.order.order_id for w in rest])
                found = {row["order_id"]: row for row in rows}
        _ACCEPTED.inc(len(accepted))
        for w in batch:
            if w.receipt.done():
                continue
            if w.order.order_id in accepted:
                w.receipt.set_result(w.received_at)
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
