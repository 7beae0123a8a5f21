"""How ingestion talks to any HTTP API: bounded, patient with a service in trouble, silent about secrets.

A request is repeated when the service says it is busy (429), is broken (5xx), cannot be reached or
answers something that is not JSON; never when it refuses. What it finally says is one line.
"""

import json
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any

import httpx
import tenacity

from ingestion.errors import IngestionError

USER_AGENT = "credit-lakehouse"
_LOOPBACK = ("all://127.0.0.1", "all://localhost", "all://[::1]")


@dataclass(frozen=True)
class Patience:
    """How long to wait for a service, in seconds."""

    connect: float = 5
    read: float = 30
    attempts: int = 6
    total: float = 180
    """No attempt begins later than this after the first."""
    first_wait: float = 0.5
    """Mean of the first pause; the next ones double, each by chance between none and twice its mean."""
    longest_wait: float = 30


class HttpService:
    """A named API below one URL; use it as a context manager. Thread-safe, connections are reused.

    Args:
        name: what the service is called in messages.
        url: its base URL.
        setting: the setting that holds the URL, for messages.
        headers: sent with every request; never shown.
        key_setting: the setting that holds the API key, for messages.
        patience: timeouts and retries.

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
        patience: Patience | None = None,
    ) -> None:
        self.name = name
        self._setting = setting
        self._key_setting = key_setting
        self._patience = patience or Patience()
        self._base = url.rstrip("/")
        if not url:
            raise IngestionError(f"{setting} is not set; set it to the URL of the {name}")
        try:
            parsed = httpx.URL(self._base)
        except httpx.InvalidURL:
            parsed = httpx.URL("")
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise IngestionError(f"{setting} is not a URL; set it to http(s)://… of the {name}")
        self._where = f"{parsed.scheme}://{parsed.netloc.decode()}"  # without user, password, path
        try:
            self._client = httpx.Client(
                headers={"User-Agent": USER_AGENT, "Accept": "application/json", **(headers or {})},
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

    def unexpected(self, what: str) -> IngestionError:
        """The error for an answer that is not what this API promises; `what` must hold no value of it."""
        return IngestionError(
            f"the {self.name} answered {what}; check that {self._setting} is the API this version reads"
        )

    def _request(self, method: str, path: str, body: Any) -> Any:
        began = time.monotonic()
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_Trouble),
            stop=tenacity.stop_any(
                tenacity.stop_after_attempt(self._patience.attempts),
                tenacity.stop_before_delay(self._patience.total),
            ),
            wait=self._pause,
            reraise=True,
        )
        try:
            return retrying(self._once, method, path, body)
        except _Trouble as trouble:
            seconds = round(time.monotonic() - began)
            attempts = retrying.statistics["attempt_number"]
            tried = f"{attempts} attempt{'s' if attempts > 1 else ''} in {seconds} s"
            raise IngestionError(
                f"the {self.name} at {self._where} {trouble.what} ({tried}); {self._remedy(trouble)}"
            ) from None

    def _once(self, method: str, path: str, body: Any) -> Any:
        try:
            response = self._client.request(method, self._base + path, json=body)
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
        if response.status_code == 429 or response.status_code >= 500:
            raise _Trouble(f"answers {response.status_code}", retry_after=_retry_after(response))
        if response.status_code != 200:
            raise self._refused(response.status_code)
        try:
            return json.loads(response.content, parse_float=Decimal, parse_constant=_no_constant)
        except ValueError:
            raise _Trouble("answers something that is not JSON") from None

    def _pause(self, state: tenacity.RetryCallState) -> float:
        trouble = state.outcome.exception() if state.outcome else None
        mean = min(self._patience.first_wait * 2 ** (state.attempt_number - 1), self._patience.longest_wait)
        pause = random.uniform(0, 2 * mean)
        if isinstance(trouble, _Trouble) and trouble.retry_after is not None:
            # Never earlier than asked; a little later, so that waiting clients do not all come at once.
            return trouble.retry_after + min(pause, 0.1)
        return pause

    def _refused(self, status: int) -> IngestionError:
        if status in (401, 403) and self._key_setting:
            return IngestionError(
                f"the {self.name} refuses the API key ({status}); set {self._key_setting} to a valid one"
            )
        return IngestionError(
            f"the {self.name} at {self._where} refuses the request ({status});"
            f" check that {self._setting} is the API this version reads"
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


class _Trouble(Exception):
    """A failure that may pass."""

    def __init__(self, what: str, *, retry_after: float | None = None, unreachable: bool = False) -> None:
        super().__init__(what)
        self.what = what
        self.retry_after = retry_after
        self.unreachable = unreachable


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds the service asks to wait: the header holds a number or a date."""
    text = response.headers.get("Retry-After", "").strip()
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
