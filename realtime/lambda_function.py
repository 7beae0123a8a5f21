"""The AWS Lambda function: `realtime.lambda_function.handler`, on an event of SQS (FIFO) or Kinesis.

The event source must report batch item failures (`FunctionResponseTypes: [ReportBatchItemFailures]`): what is
not decided is named in the answer and delivered again, the rest is not. Settings are those of the worker.
"""

import asyncio
import base64
import time
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import asyncpg

from realtime import log
from realtime.aws import decode
from realtime.bureau import Bureau
from realtime.database import UNAVAILABLE, open_pool
from realtime.decisions import Decider
from realtime.handler import Handler, report_health
from realtime.policy import load_policies
from realtime.queue import Message, keep_dead_letter
from realtime.settings import Settings

_MAX_DELIVERIES = 1000  # they are counted while the bureau is down, too; beyond, the redrive policy acts
_REPORT_SECONDS = 5


class _Function:
    """What outlives an invocation: connections, the bureau's breaker."""

    def __init__(self, settings: Settings) -> None:
        log.catch_libraries()
        self._settings = settings
        self._runner = asyncio.Runner()
        self._handler: Handler | None = None
        self._report: Callable[[], Awaitable[None]] | None = None
        self._reported_at = -1e9
        self._tries: dict[str, int] = {}

    def __call__(self, event: dict[str, Any]) -> dict[str, Any]:
        return self._runner.run(self._answer(event))

    async def _answer(self, event: dict[str, Any]) -> dict[str, Any]:
        if self._handler is None:
            self._handler = await self._start()
        messages: dict[str, Message] = {}
        failed: list[str] = []
        for record in event["Records"]:
            name, message = self._read(record)
            if message:
                messages[name] = message
            else:
                log.event("foreign_message", "error", queue=record["eventSource"])
                if record["eventSource"] == "aws:sqs":  # its redrive policy is for that; a shard would stand
                    failed.append(name)
        outcomes = await self._handler.handle(list(messages.values()))
        for name, message in messages.items():
            if outcomes[message].kind == "failed":
                self._tries[name] = message.attempts + 1
            else:
                self._tries.pop(name, None)
            if outcomes[message].kind != "done":
                failed.append(name)
        await self._say_how_it_is()
        return {"batchItemFailures": [{"itemIdentifier": name} for name in failed]}

    async def _say_how_it_is(self) -> None:
        """At most every five seconds; what was decided is decided, whether or not this succeeds."""
        if time.monotonic() - self._reported_at < _REPORT_SECONDS:
            return
        try:
            await self._report()
            self._reported_at = time.monotonic()
        except (*UNAVAILABLE, asyncpg.PostgresError) as error:
            log.event("database_unavailable", "error", at="report", error=type(error).__name__)

    def _read(self, record: dict[str, Any]) -> tuple[str, Message | None]:
        """A delivery, and the name that its failure is reported under."""
        if record["eventSource"] == "aws:sqs":
            name = record["messageId"]
            return name, decode(record["body"], int(record["attributes"]["ApproximateReceiveCount"]), name)
        name = record["kinesis"]["sequenceNumber"]
        # Kinesis does not count: what this instance remembers has to do.
        return name, decode(base64.b64decode(record["kinesis"]["data"]), self._tries.get(name, 1), name)

    async def _start(self) -> Handler:
        settings = self._settings
        pool = await open_pool(settings.realtime_dsn, 2)
        bureau = Bureau(settings.bureau_url, settings.bureau_api_key)
        decider = Decider(pool, bureau, load_policies(), settings.clock())

        async def bury(message: Message, error: str) -> None:
            await keep_dead_letter(pool, message, error)

        worker_id = uuid4()
        self._report = lambda: report_health(pool, worker_id, bureau)
        return Handler(decider, bury, _MAX_DELIVERIES)


_function: _Function | None = None


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """Decides the orders of an event; names those that must be delivered again.

    Raises:
        RealtimeError: a setting is missing.
    """
    global _function
    if _function is None:
        _function = _Function(Settings.from_environment())
    return _function(event)
