"""Takes orders from the queue and has them decided: retries, dead letters, an orderly end."""

import asyncio
import time
from collections.abc import Sequence

import asyncpg
from prometheus_client import Counter, Gauge

from realtime import log
from realtime.bureau import MAX_SUBJECTS, Bureau
from realtime.database import BY_INDEX, UNAVAILABLE, open_pool
from realtime.decisions import Decider
from realtime.http import Receive, Scope, Send, Server, respond_problem, respond_to_operator
from realtime.orders import Refusal
from realtime.policy import load_policies
from realtime.queue import Message, PostgresQueue, Queue
from realtime.settings import Settings

_BATCHES = 4  # under way at a time: what comes meanwhile waits in the queue, not here
_MAX_ATTEMPTS = 10
_IDLE = 0.5  # seconds between looks at the queue when nobody calls
_MONTHS_KEPT = 3  # of the outbox

_DELIVERED = Counter("realtime_deliveries_total", "Deliveries handled", ["outcome"])
_PENDING = Gauge("realtime_outbox_pending", "Orders that wait for their decision")
_OLDEST = Gauge("realtime_outbox_oldest_seconds", "Age of the oldest of them")
_DEAD = Gauge("realtime_dead_letters", "Dead letters that nobody has replayed")
_BACKLOG = """
select count(*), coalesce(extract(epoch from clock_timestamp() - min(created_at)), 0)::float8,
    (select count(*) from realtime.dead_letters where replayed_at is null)
from realtime.outbox
where done_at is null
"""


class Worker:
    """Handles a queue with a decider until told to stop; what was begun is finished first."""

    def __init__(self, queue: Queue, decider: Decider, bureau: Bureau) -> None:
        self._queue = queue
        self._decider = decider
        self._bureau = bureau
        self._stopping = False
        self._tasks: set[asyncio.Task] = set()
        self.alive_at = time.monotonic()
        """When the queue was last reached, by the monotonic clock."""

    def stop(self) -> None:
        """Takes nothing more."""
        self._stopping = True

    async def run(self) -> None:
        """Works until `stop` is called."""
        while not self._stopping:
            try:
                await self._step()
            except (*UNAVAILABLE, asyncpg.PostgresError) as error:
                log.event("database_unavailable", "error", at="worker", error=type(error).__name__)
                await asyncio.sleep(0.5)
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _step(self) -> None:
        if len(self._tasks) >= _BATCHES:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            return
        rest = self._bureau.breaker.remaining()
        if rest > 0:  # orders wait better in the queue than in a worker that cannot decide them
            await asyncio.sleep(min(rest, _IDLE))
            self.alive_at = time.monotonic()
            return
        messages = await self._queue.receive(MAX_SUBJECTS)
        self.alive_at = time.monotonic()
        if not messages:
            await self._queue.wait(_IDLE)
            return
        task = asyncio.create_task(self._handle(messages))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _handle(self, messages: Sequence[Message]) -> None:
        try:
            # A worker that dies of a message never reports it: the count of deliveries does.
            for message in [m for m in messages if m.attempts > _MAX_ATTEMPTS]:
                await self._bury(message, "delivered too often: it may have ended its workers")
            messages = [m for m in messages if m.attempts <= _MAX_ATTEMPTS]
            if not messages:
                return
            outcomes = await self._decider.decide([m.order_id for m in messages])
            done = [m for m in messages if outcomes[m.order_id].kind == "done"]
            if done:
                await self._queue.acknowledge(done)
                _DELIVERED.labels("done").inc(len(done))
            waits: dict[float, list[Message]] = {}
            for message in messages:
                outcome = outcomes[message.order_id]
                if outcome.kind == "later":
                    waits.setdefault(outcome.wait, []).append(message)
                elif outcome.kind == "failed":
                    await self._failed(message, outcome.error)
            for seconds, resting in waits.items():
                await self._queue.release(resting, seconds, forget=True)
                _DELIVERED.labels("later").inc(len(resting))
        except (*UNAVAILABLE, asyncpg.PostgresError) as error:
            # The lease ends by itself, and others get them.
            log.event("delivery_failed", "error", orders=len(messages), error=type(error).__name__)
        except Exception as error:
            log.event("delivery_failed", "error", orders=len(messages), error=type(error).__name__)
            await self._one_by_one(messages, type(error).__name__)

    async def _one_by_one(self, messages: Sequence[Message], error: str) -> None:
        """One of these is more than the code can take: alone, it harms nobody else."""
        if len(messages) == 1:
            await self._failed(messages[0], f"unforeseen: {error}")
            return
        for message in messages:
            await self._handle([message])

    async def _failed(self, message: Message, error: str) -> None:
        if message.attempts >= _MAX_ATTEMPTS:
            await self._bury(message, error)
            return
        _DELIVERED.labels("failed").inc()
        log.event(
            "order_failed", "warning", order_id=message.order_id, attempts=message.attempts, error=error
        )
        await self._queue.release([message], min(60, 0.1 * 2**message.attempts), forget=False)

    async def _bury(self, message: Message, error: str) -> None:
        await self._queue.bury(message, error)
        _DELIVERED.labels("buried").inc()


async def run_worker(settings: Settings, lease: float) -> None:
    """Decides orders until `SIGTERM` or `SIGINT`.

    Args:
        settings: where everything is.
        lease: seconds after which others take over what a dead worker had.

    Raises:
        RealtimeError: the port of /healthz is taken.
    """
    async with (
        open_pool(settings.realtime_dsn, _BATCHES + 1, BY_INDEX) as queue_pool,
        open_pool(settings.realtime_dsn, _BATCHES) as pool,
        Bureau(settings.bureau_url, settings.bureau_api_key) as bureau,
    ):
        queue = PostgresQueue(settings.realtime_dsn, queue_pool, lease)
        decider = Decider(pool, bureau, load_policies(), settings.clock())
        worker = Worker(queue, decider, bureau)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            stuck = time.monotonic() - worker.alive_at > 15
            if not await respond_to_operator(scope, send, "the queue is not reached" if stuck else None):
                await respond_problem(send, Refusal(404, "not-found", "there is no such resource"))

        server = Server(app, settings.realtime_host, settings.realtime_worker_port, "REALTIME_WORKER_PORT")
        helpers = [asyncio.create_task(part) for part in (queue.listen(), _keep_house(queue_pool))]
        working = asyncio.create_task(worker.run())
        serving = asyncio.create_task(server.run_until_stopped())
        await asyncio.wait((working, serving), return_when=asyncio.FIRST_COMPLETED)
        worker.stop()
        server.should_exit = True
        try:
            await working
            await serving
        finally:
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)


async def _keep_house(pool: asyncpg.Pool) -> None:
    """Makes next months' partitions, drops old ones, measures the queue."""
    housekept = -1e9
    while True:
        try:
            if time.monotonic() - housekept > 3600:
                await pool.execute("select realtime.ensure_partitions()")
                await pool.execute("select realtime.drop_old_outbox($1)", _MONTHS_KEPT)
                housekept = time.monotonic()
            pending, oldest, dead = await pool.fetchrow(_BACKLOG)
            _PENDING.set(pending)
            _OLDEST.set(oldest)
            _DEAD.set(dead)
        except (*UNAVAILABLE, asyncpg.PostgresError) as error:
            log.event("database_unavailable", "error", at="housekeeping", error=type(error).__name__)
        await asyncio.sleep(5)
