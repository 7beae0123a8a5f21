"""How ingestion talks to any HTTP API: bounded, patient with a service in trouble, silent about secrets.

A request is repeated when the service says it is busy (429), is broken (5xx), cannot be reached, does not
finish or answers something that is not JSON; never when it refuses. What it finally says is one line.

All requests to a service, whatever thread they come from, pass one gate: it keeps the rate limit, waits
as long as `Retry-After` says, and leaves a service alone that fails again and again (circuit breaker).
"""

import base64
import json
import logging
import random
import threading
import time
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from decimal import Decimal
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any

import httpx
import msgspec
import tenacity

from ingestion.config import TableConfig
from ingestion.errors import IngestionError

USER_AGENT = "credit-lakehouse"
_LOOPBACK = ("all://127.0.0.1", "all://localhost", "all://[::1]")
_REDACTED = b"***"
_SHORTEST_SECRET = 6  # a shorter one would be found in answers that have nothing to do with it

# Both log what a service sent, headers included, and that is not ours to show.
for _name in ("httpx", "httpcore"):
    logging.getLogger(_name).setLevel(logging.WARNING)


@dataclass(frozen=True)
class Patience:
    """How long to wait for a service, in seconds."""

    connect: float = 5
    read: float = 30
    """Silence within an answer."""
    answer: float = 60
    """The whole of an answer, however steadily it drips."""
    attempts: int = 6
    total: float = 180
    """No attempt begins later than this after the first."""
    first_wait: float = 0.5
    """Mean of the first pause; the next ones double, each by chance between none and twice its mean."""
    longest_wait: float = 30


@dataclass(frozen=True)
class Limits:
    """How much to ask of a service."""

    requests_per_second: float = 50
    burst: int = 10
    """Requests that may go at once after a quiet time."""
    concurrency: int = 4
    """Requests under way at the same time."""
    max_megabytes: float = 64
    """Of one answer, unpacked."""
    failures: int = 5
    """So many in a row, and the service is left alone for `rest` seconds; then one request tries it."""
    rest: float = 5


def manners(table: TableConfig) -> dict[str, Patience | Limits]:
    """`patience` and `limits` for `HttpService`, from the entry `http` of a table or its source.

    Raises:
        IngestionError: the entry names something that does not exist, or gives it no positive number.
    """
    given = table.options.get("http") or {}
    found = {}
    for name, kind in (("patience", Patience), ("limits", Limits)):
        known = {f.name: f.type for f in fields(kind)}
        found[name] = (
            kind(**{k: v for k, v in given.items() if k in known}) if isinstance(given, dict) else None
        )
    known = {f.name for kind in (Patience, Limits) for f in fields(kind)}
    if not isinstance(given, dict) or given.keys() - known:
        raise IngestionError(
            f"{table.name}: http in sources.yml may say only these: {', '.join(sorted(known))}"
        )
    whole = {"attempts", "burst", "concurrency", "failures"}
    for name, value in given.items():
        if (
            isinstance(value, bool)
            or not isinstance(value, int if name in whole else int | float)
            or value <= 0
        ):
            raise IngestionError(f"{table.name}: http.{name} in sources.yml must be a positive number")
    return found


class Refused(IngestionError):
    """The service understood the request and refuses it, with this status."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


class HttpService:
    """A named API below one URL; use it as a context manager. Thread-safe, connections are reused.

    Args:
        name: what the service is called in messages.
        url: its base URL.
        setting: the setting that holds the URL, for messages.
        headers: sent with every request; never shown.
        key_setting: the setting that holds the API key, for messages.
        secrets: texts that are blacked out wherever the service repeats them, before anybody sees its
            answer; the values of `headers` and the URL's password are among them anyway.
        patience: timeouts and retries.
        limits: rate, concurrency, size of an answer, circuit breaker.

    Raises:
        IngestionError: the URL is missing or is none.
    """

    def __init__(
        self,
        name: str,
        url: str,
        setting: str,
        *,
        headers: Mapping[str, str] | None = None,
        key_setting: str | None = None,
        secrets: Iterable[str] = (),
        patience: Patience | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.name = name
        self._setting = setting
        self._key_setting = key_setting
        self._patience = patience or Patience()
        self.limits = limits or Limits()
        self._gate = _Gate(self.limits, probes=self._patience.attempts)
        if not url:
            raise IngestionError(f"{setting} is not set; set it to the URL of the {name}")
        try:
            parsed = httpx.URL(url.rstrip("/"))
        except httpx.InvalidURL:
            parsed = httpx.URL("")
        if parsed.scheme not in ("http", "https") or not parsed.host or parsed.query or parsed.fragment:
            raise IngestionError(f"{setting} is not a URL; set it to http(s)://… of the {name}")
        self._where = f"{parsed.scheme}://{parsed.netloc.decode()}"  # without user, password, path
        # User and password travel in a header: a URL ends up in logs.
        login = (parsed.username, parsed.password) if parsed.userinfo else None
        self._base = str(parsed.copy_with(username=None, password=None)).rstrip("/")
        known = [*secrets, *(headers or {}).values(), parsed.password]
        known.append(base64.b64encode(":".join(login or ()).encode()).decode())
        self._secrets = {form for s in known if s and len(s) >= _SHORTEST_SECRET for form in _forms_of(s)}
        try:
            self._client = httpx.Client(
                headers={"User-Agent": USER_AGENT, "Accept": "application/json", **(headers or {})},
                auth=login,
                timeout=httpx.Timeout(self._patience.read, connect=self._patience.connect),
                # A proxy of the environment is for the world outside, not for this machine.
                mounts=dict.fromkeys(_LOOPBACK),
                # Plain HTTP has no certificate to verify, and loading the authorities takes 50 ms.
                verify=parsed.scheme == "https",
            )
        except UnicodeError:
            raise self._unusable_header() from None

    def __enter__(self) -> "HttpService":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def get(self, path: str) -> Any:
        """The JSON at `path` (with its query string); numbers with a fraction are Decimal.

        Raises:
            IngestionError: the service refused, or did not answer within the patience.
        """
        return self._request("GET", path, None)

    def post(self, path: str, body: Any) -> Any:
        """The JSON answer to `body` posted as JSON; see `get`. The request must be safe to repeat.

        Raises:
            IngestionError: the service refused, or did not answer within the patience.
        """
        return self._request("POST", path, body)

    def give_up(self) -> None:
        """Let no further request begin: whoever waits for one, in any thread, gets its error now."""
        self._gate.close()

    def unexpected(self, what: str) -> IngestionError:
        """The error for an answer that is not what this API promises; `what` must hold no value of it."""
        return IngestionError(
            f"the {self.name} answered {what}; check that {self._setting} is the API this version reads"
        )

    def _request(self, method: str, path: str, body: Any) -> Any:
        began = time.monotonic()
        content = None if body is None else msgspec.json.encode(body)
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(lambda e: isinstance(e, _Trouble) and not e.final),
            stop=tenacity.stop_any(
                tenacity.stop_after_attempt(self._patience.attempts),
                tenacity.stop_before_delay(self._patience.total),
            ),
            wait=self._pause,
            sleep=tenacity.sleep_using_event(self._gate.closed_for_good),
            reraise=True,
        )
        try:
            return retrying(self._once, method, path, content, deadline=began + self._patience.total)
        except _Trouble as trouble:
            seconds = round(time.monotonic() - began)
            attempts = retrying.statistics["attempt_number"]
            tried = f"{attempts} attempt{'s' if attempts > 1 else ''} in {seconds} s"
            raise IngestionError(
                f"the {self.name} at {self._where} {trouble.what} ({tried}); {self._remedy(trouble)}"
            ) from None

    def _once(self, method: str, path: str, body: bytes | None, *, deadline: float) -> Any:
        with self._gate.passage(deadline):
            status, headers, content = self._exchange(method, path, body)
            if status == 429 or status >= 500:
                raise _Trouble(f"answers {status}", retry_after=_retry_after(headers), busy=status == 429)
            if status != 200:
                raise self._refused(status)
            for secret in self._secrets:
                content = content.replace(secret, _REDACTED)
            try:
                return json.loads(content, parse_float=Decimal, parse_constant=_no_constant)
            except (ValueError, RecursionError):
                raise _Trouble("answers something that is not JSON") from None

    def _exchange(self, method: str, path: str, body: bytes | None) -> tuple[int, httpx.Headers, bytes]:
        """One request and the whole of its answer, bounded in time and size."""
        began = time.monotonic()
        content = bytearray()
        kind = None if body is None else {"Content-Type": "application/json"}
        try:
            with self._client.stream(method, self._base + path, content=body, headers=kind) as response:
                for chunk in response.iter_bytes():
                    content += chunk
                    if len(content) > self.limits.max_megabytes * 1e6:
                        raise IngestionError(
                            f"the {self.name} at {self._where} answers more than"
                            f" {self.limits.max_megabytes:g} MB at once; check {self._setting}"
                        )
                    if time.monotonic() - began > self._patience.answer:
                        raise _Trouble(f"does not finish an answer within {self._patience.answer:g} s")
                return response.status_code, response.headers, bytes(content)
        except httpx.ConnectError:
            raise _Trouble("cannot be reached", unreachable=True) from None
        except httpx.ConnectTimeout:
            raise _Trouble("does not accept a connection", unreachable=True) from None
        except httpx.TimeoutException:
            raise _Trouble(f"does not answer within {self._patience.read:g} s") from None
        except httpx.LocalProtocolError:
            raise self._unusable_header() from None
        except (httpx.TransportError, httpx.DecodingError):
            raise _Trouble("broke off the connection") from None

    def _pause(self, state: tenacity.RetryCallState) -> float:
        trouble = state.outcome.exception() if state.outcome else None
        mean = min(self._patience.first_wait * 2 ** (state.attempt_number - 1), self._patience.longest_wait)
        pause = random.uniform(0, 2 * mean)
        if isinstance(trouble, _Trouble) and trouble.retry_after is not None:
            # Never earlier than asked; a little later, so that waiting clients do not all come at once.
            return trouble.retry_after + min(pause, 0.1)
        return pause

    def _refused(self, status: int) -> Refused:
        if status in (401, 403) and self._key_setting:
            return Refused(
                f"the {self.name} refuses the API key ({status}); set {self._key_setting} to a valid one",
                status,
            )
        return Refused(
            f"the {self.name} at {self._where} refuses the request ({status});"
            f" check that {self._setting} is the API this version reads",
            status,
        )

    def _unusable_header(self) -> IngestionError:
        return IngestionError(
            f"{self._key_setting or self._setting} holds characters that cannot be sent; correct it"
        )

    def _remedy(self, trouble: "_Trouble") -> str:
        if trouble.unreachable:
            return f"check {self._setting} and the network, then run again"
        if trouble.retry_after is not None:
            return f"run again in {trouble.retry_after:.0f} s or later"
        return "run again when the service is well"


class _Gate:
    """Says when the next request to a service may go; one for all threads.

    After `limits.failures` failures in a row it is open: nobody goes for `limits.rest` seconds, then one
    request probes. `probes` failed ones later nobody goes any more.
    """

    def __init__(self, limits: Limits, probes: int) -> None:
        self.closed_for_good = threading.Event()
        self._limits = limits
        self._probes = probes
        self._changed = threading.Condition()
        self._free = limits.concurrency
        self._tokens = float(limits.burst)
        self._filled_at = time.monotonic()
        self._not_before = 0.0
        self._failures = 0
        self._probing = False

    def close(self) -> None:
        """Let nobody through any more, and tell those who wait."""
        with self._changed:
            self.closed_for_good.set()
            self._changed.notify_all()

    @contextmanager
    def passage(self, deadline: float) -> Iterator[None]:
        """Wait for a place, hold it during one request, and learn from how that ends.

        Raises:
            _Trouble: the request cannot begin before `deadline`, or not at all.
        """
        probes = self._enter(deadline)
        try:
            yield
        except _Trouble as trouble:
            self._leave(probes, failed=not trouble.busy, pause=trouble.retry_after or 0)
            raise
        except BaseException:
            self._leave(probes)  # whoever refuses is well
            raise
        self._leave(probes)

    def _enter(self, deadline: float) -> bool:
        """Take a place; returns whether this request is the one that probes."""
        with self._changed:
            while True:
                now = time.monotonic()
                if self._failures >= self._limits.failures + self._probes or self.closed_for_good.is_set():
                    raise _Trouble(f"failed {self._failures} times in a row", final=True)
                wait = self._wait(now)
                if wait <= 0:
                    break
                if now + wait > deadline:
                    raise _Trouble("cannot be asked again within the time there is", final=True)
                self._changed.wait(wait)
            self._free -= 1
            self._tokens -= 1
            self._probing = self._is_open
            return self._probing

    def _leave(self, probes: bool, *, failed: bool = False, pause: float = 0) -> None:
        with self._changed:
            self._free += 1
            self._probing = self._probing and not probes
            self._failures = self._failures + 1 if failed else 0
            if self._is_open:
                pause = max(pause, self._limits.rest)
            self._not_before = max(self._not_before, time.monotonic() + pause)
            self._changed.notify_all()

    @property
    def _is_open(self) -> bool:
        return self._failures >= self._limits.failures

    def _wait(self, now: float) -> float:
        """Seconds until it is worth looking again; 0 when a request may go."""
        rate = self._limits.requests_per_second
        self._tokens = min(self._limits.burst, self._tokens + (now - self._filled_at) * rate)
        self._filled_at = now
        if self._free == 0 or (self._is_open and self._probing):
            return 0.05  # `_leave` wakes earlier
        return max(self._not_before - now, (1 - self._tokens) / rate)


class _Trouble(Exception):
    """A failure that may pass; `final` when there is no time left to see it pass."""

    def __init__(
        self,
        what: str,
        *,
        retry_after: float | None = None,
        unreachable: bool = False,
        busy: bool = False,
        final: bool = False,
    ) -> None:
        super().__init__(what)
        self.what = what
        self.retry_after = retry_after
        self.unreachable = unreachable
        self.busy = busy
        self.final = final


def _forms_of(secret: str) -> set[bytes]:
    """A secret as it stands in JSON, where some write a slash or a letter beyond ASCII as an escape."""
    plain = secret.encode()
    escaped = json.dumps(secret)[1:-1].encode()
    return {plain, escaped, escaped.replace(b"/", b"\\/"), urllib.parse.quote(secret, safe="").encode()}


def _retry_after(headers: httpx.Headers) -> float | None:
    """Seconds the service asks to wait: the header holds a number or a date."""
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
