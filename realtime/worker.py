"""Takes orders from the queue and has them decided: retries, dead letters, an orderly end."""

import asyncio
import time
from collections.abc import Coroutine, Sequence
from typing import Any
from uuid import uuid4

import asyncpg
from prometheus_client import Gauge

from realtime import log
from realtime.aws import KinesisQueue, Relay, SqsQueue
from realtime.bureau import MAX_SUBJECTS, Bureau
from realtime.database import BY_INDEX, UNAVAILABLE, Partitions, open_pool
from realtime.decisions import Decider
from realtime.errors import RealtimeError
from realtime.features import forget_old
from realtime.handler import Handler, report_health
from realtime.http import Receive, Scope, Send, Server, respond_problem, respond_to_operator
from realtime.orders import Refusal
from realtime.policy import load_policies
from realtime.queue import Message, PostgresQueue, Queue, QueueUnavailable
from realtime.settings import Clock, Settings

_UNREACHABLE = (*UNAVAILABLE, asyncpg.PostgresError, QueueUnavailable)
_BATCHES = 4  # under way at a time: what comes meanwhile waits in the queue, not here
_IDLE = 0.5  # seconds between looks at the queue when nobody calls
_MONTHS_KEPT = 3  # of the outbox
_MINUTES_KEPT = 15  # of the dashboard's feed

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
        self._handler = Handler(decider, queue.bury, queue.max_deliveries)
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
            except _UNREACHABLE as error:
                log.event("queue_unavailable", "error", error=type(error).__name__)
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
        outcomes = await self._handler.handle(messages)
        done = [m for m, outcome in outcomes.items() if outcome.kind == "done"]
        waits: dict[tuple[float, bool], list[Message]] = {}
        for message, outcome in outcomes.items():
            if outcome.kind != "done":
                waits.setdefault((outcome.wait, outcome.kind == "later"), []).append(message)
        try:
            if done:
                await self._queue.acknowledge(done)
            for (seconds, forget), resting in waits.items():
                await self._queue.release(resting, seconds, forget=forget)
        except _UNREACHABLE as error:
            # The lease ends by itself, and others get them.
            log.event("delivery_failed", "error", orders=len(messages), error=type(error).__name__)


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
        queue = _open_queue(settings, queue_pool, lease)
        decider = Decider(pool, bureau, load_policies(), settings.clock())
        helpers = [_keep_house(queue_pool, settings.clock(), bureau)]
        if isinstance(queue, PostgresQueue):
            helpers.append(queue.listen())
        await _run_beside_server(Worker(queue, decider, bureau), settings, helpers)
        if not isinstance(queue, PostgresQueue):
            await queue.close()


async def run_relay(settings: Settings, lease: float) -> None:
    """Hands on what the outbox holds to `REALTIME_QUEUE` until `SIGTERM` or `SIGINT`.

    Args:
        settings: where everything is.
        lease: seconds after which others take over what a dead relay had.

    Raises:
        RealtimeError: the queue is PostgreSQL itself, or the port of /healthz is taken.
    """
    if settings.realtime_queue == "postgres":
        raise RealtimeError("REALTIME_QUEUE is postgres: workers read the outbox, nothing is handed on")
    async with open_pool(settings.realtime_dsn, 3, BY_INDEX) as pool:
        outbox = PostgresQueue(settings.realtime_dsn, pool, lease)
        relay = Relay(outbox, _open_queue(settings, pool, lease))
        await _run_beside_server(relay, settings, [outbox.listen()])


def _open_queue(
    settings: Settings, pool: asyncpg.Pool, lease: float
) -> PostgresQueue | SqsQueue | KinesisQueue:
    where = settings.realtime_queue
    if where == "postgres":
        return PostgresQueue(settings.realtime_dsn, pool, lease)
    if where.startswith("kinesis:"):
        return KinesisQueue(where.removeprefix("kinesis:"), pool, lease)
    return SqsQueue(where, pool, lease)


async def _run_beside_server(
    work: Worker | Relay, settings: Settings, helpers: list[Coroutine[Any, Any, None]]
) -> None:
    """Works until told to stop, answers /healthz and /metrics meanwhile, and finishes what was begun."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        stuck = time.monotonic() - work.alive_at > 15
        if not await respond_to_operator(scope, send, "the queue is not reached" if stuck else None):
            await respond_problem(send, Refusal(404, "not-found", "there is no such resource"))

    server = Server(app, settings.realtime_host, settings.realtime_worker_port, "REALTIME_WORKER_PORT")
    helping = [asyncio.create_task(part) for part in helpers]
    working = asyncio.create_task(work.run())
    serving = asyncio.create_task(server.run_until_stopped())
    await asyncio.wait((working, serving), return_when=asyncio.FIRST_COMPLETED)
    work.stop()
    server.should_exit = True
    try:
        await working
        await serving
    finally:
        for helper in helping:
            helper.cancel()
        await asyncio.gather(*helping, return_exceptions=True)


async def _keep_house(pool: asyncpg.Pool, clock: Clock, bureau: Bureau) -> None:
    """Makes next months' partitions, drops old ones, measures the queue, says that this worker lives."""
    housekept = -1e9
    worker_id = uuid4()
    partitions = Partitions(pool)
    while True:
        try:
            if time.monotonic() - housekept > 3600:
                await partitions.make()
                await pool.execute("select realtime.drop_old_outbox($1)", _MONTHS_KEPT)
                await forget_old(pool, clock.now())
                housekept = time.monotonic()
            while await pool.fetchval("select realtime.trim_feed($1)", _MINUTES_KEPT) >= 10_000:
                pass
            await report_health(pool, worker_id, bureau)
            pending, oldest, dead = await pool.fetchrow(_BACKLOG)
            _PENDING.set(pending)
            _OLDEST.set(oldest)
            _DEAD.set(dead)
        except (*UNAVAILABLE, asyncpg.PostgresError) as error:
            log.event("database_unavailable", "error", at="housekeeping", error=type(error).__name__)
        await asyncio.sleep(5)
