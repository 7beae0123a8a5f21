"""Has deliveries decided, whichever queue they come from: a worker and the Lambda function call it.

The deliveries of a customer are handled one after the other; if one is not done, those behind it wait too.
"""

from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID

import asyncpg
from prometheus_client import Counter

from realtime import log
from realtime.bureau import MAX_SUBJECTS, Bureau
from realtime.database import UNAVAILABLE
from realtime.decisions import Decider, Outcome
from realtime.queue import Message
from realtime.telemetry import span

MAX_ATTEMPTS = 10

_DELIVERED = Counter("realtime_deliveries_total", "Deliveries handled", ["outcome"])

_SAY = """
with gone as (
    delete from realtime.workers where seen_at < clock_timestamp() - interval '1 hour'
)
insert into realtime.workers (worker_id, seen_at, bureau_is_up) values ($1, clock_timestamp(), $2)
on conflict (worker_id) do update set seen_at = excluded.seen_at, bureau_is_up = excluded.bureau_is_up
"""

Bury = Callable[[Message, str], Awaitable[None]]


class Handler:
    """Handles deliveries with a decider.

    Args:
        decider: decides.
        bury: keeps a message that nobody can handle as a dead letter.
        max_deliveries: a message delivered more often than this, and never reported as failed, has ended
            those that handled it.
    """

    def __init__(self, decider: Decider, bury: Bury, max_deliveries: int = MAX_ATTEMPTS) -> None:
        self._decider = decider
        self._bury = bury
        self._max_deliveries = max_deliveries

    async def handle(self, messages: Sequence[Message]) -> dict[Message, Outcome]:
        """What became of each: `done` (a dead letter, too), `later`, or `failed` with the seconds to wait."""
        outcomes: dict[Message, Outcome] = {}
        rest = list(messages)
        while rest:
            batch, behind, customers = [], [], set()
            for message in rest:
                full = message.customer_id in customers or len(batch) == MAX_SUBJECTS
                (behind if full else batch).append(message)
                customers.add(message.customer_id)
            outcomes |= await self._handle(batch)
            stuck = {m.customer_id: o for m, o in outcomes.items() if o.kind != "done"}
            rest = [m for m in behind if m.customer_id not in stuck]
            outcomes |= {
                m: Outcome("later", wait=stuck[m.customer_id].wait) for m in behind if m.customer_id in stuck
            }
        for outcome in outcomes.values():
            _DELIVERED.labels(outcome.kind).inc()
        return outcomes

    async def _handle(self, messages: Sequence[Message]) -> dict[Message, Outcome]:
        """Of messages no two of which are of one customer."""
        outcomes: dict[Message, Outcome] = {}
        try:
            # A worker that dies of a message never reports it: the count of deliveries does.
            for message in [m for m in messages if m.attempts > self._max_deliveries]:
                await self._bury(message, "delivered too often: it may have ended its workers")
                outcomes[message] = Outcome("done")
            messages = [m for m in messages if m not in outcomes]
            if not messages:
                return outcomes
            with span("decide orders", "CONSUMER", orders=len(messages)):
                decided = await self._decider.decide([m.order_id for m in messages])
            for message in messages:
                outcome = decided[message.order_id]
                if outcome.kind == "failed":
                    outcome = await self._failed(message, outcome.error)
                outcomes[message] = outcome
            return outcomes
        except (*UNAVAILABLE, asyncpg.PostgresError) as error:
            log.event("delivery_failed", "error", orders=len(messages), error=type(error).__name__)
            return {m: outcomes.get(m, Outcome("later", wait=1)) for m in messages} | outcomes
        except Exception as error:
            log.event("delivery_failed", "error", orders=len(messages), error=type(error).__name__)
            return outcomes | await self._one_by_one(messages, type(error).__name__)

    async def _one_by_one(self, messages: Sequence[Message], error: str) -> dict[Message, Outcome]:
        """One of these is more than the code can take: alone, it harms nobody else."""
        if len(messages) == 1:
            return {messages[0]: await self._failed(messages[0], f"unforeseen: {error}")}
        outcomes: dict[Message, Outcome] = {}
        for message in messages:
            outcomes |= await self._handle([message])
        return outcomes

    async def _failed(self, message: Message, error: str) -> Outcome:
        if message.attempts >= MAX_ATTEMPTS:
            try:
                await self._bury(message, error)
            except UNAVAILABLE:
                return Outcome("later", wait=1)
            return Outcome("done")
        log.event(
            "order_failed", "warning", order_id=message.order_id, attempts=message.attempts, error=error
        )
        return Outcome("failed", wait=min(60, 0.1 * 2**message.attempts), error=error)


async def report_health(pool: asyncpg.Pool, worker_id: UUID, bureau: Bureau) -> None:
    """Says that somebody decides here, and whether the bureau answers: the dashboard shows it."""
    await pool.execute(_SAY, worker_id, bureau.breaker.remaining() <= 0)
