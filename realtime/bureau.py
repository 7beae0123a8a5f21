"""Asks the credit bureau about the people of a batch of orders, within a deadline, and never hangs on it.

A call that fails is repeated a few times; a bureau that fails again and again is left alone for a while
(circuit breaker), then one call tries it. A call that takes longer than nearly all others is sent once more
under the same request id, so that the bureau may count it once: at most one in a hundred.
"""

import asyncio
import time
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Annotated
from uuid import uuid4

import httpx
import msgspec
import tenacity
from prometheus_client import Counter, Gauge, Histogram

from realtime.telemetry import span, trace_headers

_PATH = "/v1/scores/batch"
MAX_SUBJECTS = 100  # a person has one or two records in the time looked at: one page of 200
_LOOK_BACK = timedelta(days=31)  # the bureau records every 30 days

_CALLS = Counter("realtime_bureau_calls_total", "Calls to the bureau", ["outcome"])
_HEDGES = Counter(
    "realtime_bureau_hedges_total", "Calls that were sent a second time because the first took long"
)
_SECONDS = Histogram(
    "realtime_bureau_seconds", "Time to the bureau's answer", buckets=(0.02, 0.05, 0.1, 0.2, 0.5, 1, 2)
)
_OPEN = Gauge("realtime_bureau_circuit_open", "1 while the bureau is left alone")


class Unavailable(Exception):
    """The bureau does not answer now."""

    def __init__(self, wait: float) -> None:
        super().__init__("the bureau does not answer")
        self.wait = wait
        """Seconds after which to ask again."""


class Refused(Exception):
    """The bureau answers, and refuses this request; to repeat it is no use. Holds the status only."""


@dataclass(frozen=True)
class Subject:
    """A person who consented, as of a request."""

    cpf: str
    consented_at: datetime
    requested_at: datetime
    known_at: datetime | None = None
    """When the bureau made the newest record that is here already."""


class Record(msgspec.Struct, frozen=True):
    """What the bureau recorded of a person."""

    cpf: str
    score: Annotated[int, msgspec.Meta(ge=0, le=1000)]
    queried_at: Annotated[datetime, msgspec.Meta(tz=True)]
    score_version: str | None = None
    negative_records: Annotated[int, msgspec.Meta(ge=0)] | None = None
    total_debt: Decimal | None = None


@dataclass(frozen=True)
class Answer:
    """The newest record of each person at their request; who has none is left out."""

    records: dict[str, Record]
    request_id: str
    seconds: float


class _Page(msgspec.Struct):
    data: list[Record]
    next_page_token: str | None = None


class _Trouble(Exception):
    """An attempt that failed and may be repeated after `wait` seconds."""

    def __init__(self, wait: float = 0) -> None:
        super().__init__()
        self.wait = wait


class Breaker:
    """Opens after `failures` calls in a row have failed, for `rest` seconds; then lets one call through."""

    def __init__(self, failures: int = 3, rest: float = 2.0) -> None:
        self._failures = failures
        self._rest = rest
        self._count = 0
        self._closed_at = 0.0

    def remaining(self) -> float:
        """Seconds until a call makes sense; 0 when it does now."""
        return max(0.0, self._closed_at - time.monotonic())

    def begin(self) -> None:
        """A call is about to be made.

        Raises:
            Unavailable: it must not be.
        """
        if self.remaining() > 0:
            raise Unavailable(self.remaining())
        if self._count >= self._failures:
            self._closed_at = time.monotonic() + self._rest  # this call is the one that tries

    def succeeded(self) -> None:
        """The call was answered."""
        self._count, self._closed_at = 0, 0.0
        _OPEN.set(0)

    def failed(self) -> None:
        """The call was not answered."""
        self._count += 1
        if self._count >= self._failures:
            self._closed_at = time.monotonic() + self._rest
            _OPEN.set(1)


class Bureau:
    """The bureau at `url`; use it as an asynchronous context manager.

    Args:
        url: its base URL.
        api_key: never shown.
        timeout: seconds for an attempt.
        attempts: for a call.
        calls_per_second: what the contract allows; further calls wait.
    """

    def __init__(
        self,
        url: str,
        api_key: str,
        *,
        timeout: float = 2.0,
        attempts: int = 3,
        calls_per_second: float = 50,
        breaker: Breaker | None = None,
    ) -> None:
        self.breaker = breaker or Breaker()
        self._attempts = attempts
        self._timeout = timeout
        self._interval = 1 / calls_per_second
        self._next_at = 0.0
        self._seconds: deque[float] = deque(maxlen=500)
        self._calls = 0
        self._hedges = 0
        self._client = httpx.AsyncClient(
            base_url=url,
            headers={"X-Api-Key": api_key, "Accept": "application/json"},
            timeout=timeout,
            # No limit: a connection that a cancelled call leaves behind must not keep others waiting.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=8),
        )

    async def __aenter__(self) -> "Bureau":
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._client.aclose()

    async def ask(self, subjects: Collection[Subject]) -> Answer:
        """The newest record of each of up to `MAX_SUBJECTS` people that was there at their request.

        Raises:
            Unavailable: no answer, or none that makes sense; later, perhaps.
            Refused: the bureau refuses the request as it is.
        """
        self.breaker.begin()
        request_id, began = str(uuid4()), time.monotonic()
        try:
            with span("ask the bureau", "CLIENT", subjects=len(subjects), request_id=request_id):
                records = await self._ask(subjects, request_id)
        except Refused:
            self.breaker.succeeded()
            raise
        except _Trouble as error:
            self.breaker.failed()
            raise Unavailable(max(error.wait, self.breaker.remaining(), 0.5)) from None
        self.breaker.succeeded()
        return Answer(records, request_id, time.monotonic() - began)

    async def _ask(self, subjects: Collection[Subject], request_id: str) -> dict[str, Record]:
        requested_at = {s.cpf: s.requested_at for s in subjects}
        body = {
            "subjects": [
                {
                    "cpf": s.cpf,
                    "consented_at": s.consented_at,
                    "after": max(
                        s.known_at or s.requested_at - _LOOK_BACK, s.consented_at - timedelta(microseconds=1)
                    ),
                }
                for s in subjects
            ],
            "page_token": None,
        }
        newest: dict[str, Record] = {}
        for number in range(2 + len(subjects)):
            page = await self._patiently(msgspec.json.encode(body), f"{request_id}/{number}")
            for record in page.data:
                if record.cpf not in requested_at:
                    raise _Trouble  # an answer to somebody else's question
                known = newest.get(record.cpf)
                if record.queried_at <= requested_at[record.cpf] and (
                    known is None or record.queried_at > known.queried_at
                ):
                    newest[record.cpf] = record
            if page.next_page_token is None:
                return newest
            body["page_token"] = page.next_page_token
        raise _Trouble  # pages without end

    async def _patiently(self, body: bytes, request_id: str) -> _Page:
        async for attempt in tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(self._attempts),
            wait=tenacity.wait_random_exponential(0.1, max=1.0),
            retry=tenacity.retry_if_exception(lambda e: isinstance(e, _Trouble) and e.wait <= 1),
            reraise=True,
        ):
            with attempt:
                page = await self._hedged(body, request_id)
        return page

    async def _hedged(self, body: bytes, request_id: str) -> _Page:
        self._calls += 1
        first = asyncio.create_task(self._call(body, request_id))
        running = {first}
        try:
            if len(self._seconds) >= 50 and self._hedges + 1 <= 0.01 * self._calls:
                slow = sorted(self._seconds)[int(0.95 * len(self._seconds))]
                done, _ = await asyncio.wait(running, timeout=slow)
                if not done:
                    self._hedges += 1
                    _HEDGES.inc()
                    running.add(asyncio.create_task(self._call(body, request_id)))
            while True:
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                good = [task for task in done if task.exception() is None]
                if good or not running:
                    return (good or list(done))[0].result()
        finally:
            for task in running:
                task.cancel()

    async def _call(self, body: bytes, request_id: str) -> _Page:
        await self._turn()
        began = time.monotonic()
        outcome = "trouble"
        try:
            async with asyncio.timeout(self._timeout):  # of the whole answer, however steadily it drips
                response = await self._client.post(
                    _PATH,
                    content=body,
                    headers={
                        "Content-Type": "application/json",
                        "X-Request-Id": request_id,
                        **trace_headers(),
                    },
                )
            if response.status_code == 429:
                wait = response.headers.get("Retry-After", "")
                raise _Trouble(float(wait) if wait.isascii() and wait.isdigit() else 0.5)
            if response.status_code in (400, 413, 422):
                outcome = "refused"
                raise Refused(str(response.status_code))
            if response.status_code != 200:  # 401, 404 too: no order is at fault for a key or an address
                raise _Trouble
            page = msgspec.json.decode(response.content, type=_Page)
            outcome = "answered"
            return page
        except (TimeoutError, httpx.HTTPError, msgspec.MsgspecError, ValueError) as error:
            if isinstance(error, asyncio.CancelledError):
                raise
            raise _Trouble from None
        finally:
            _CALLS.labels(outcome).inc()
            if outcome == "answered":
                self._seconds.append(time.monotonic() - began)
                _SECONDS.observe(time.monotonic() - began)

    async def _turn(self) -> None:
        """Waits until the rate limit allows another call."""
        now = time.monotonic()
        self._next_at = max(now - 5 * self._interval, self._next_at) + self._interval
        if self._next_at > now:
            await asyncio.sleep(self._next_at - now)
