"""How the third parties misbehave on request: which faults, how often, drawn from a seed.

Without a request there is no fault. `python -m sandbox faults` writes the request into a file of the
world's folder, which the server reads again whenever it changes.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from threading import Lock
from time import monotonic
from typing import Any

from sandbox.errors import SandboxError

FAULTS = {
    "storm": "429 to every call for a while, some with Retry-After",
    "error": "500, 502, 503 or 504 instead of an answer",
    "hang": "no answer, and the connection stays open",
    "reset": "the connection is reset",
    "expire": "401, as if the API key had expired",
    "truncate": "JSON that ends in the middle",
    "drip": "an answer that comes a few bytes at a time",
    "duplicate": "some records of a page are there twice",
    "reorder": "the records of a page are in no order",
    "shift": "a page begins with records of the page before, as after an insert",
    "retype": "a record has a field of the wrong type",
    "omit": "a record lacks a field",
    "extend": "a record has a field that nobody announced",
}
BEFORE = ("storm", "error", "hang", "reset", "expire")
WITHIN = ("duplicate", "reorder", "retype", "omit", "extend")
ON_THE_WIRE = ("truncate", "drip")
SHIFTED = 3  # records that a shifted page repeats


@dataclass(frozen=True)
class Faults:
    """A request for faults.

    `rates` holds the probability of each: of a call, or of a record for retype, omit and extend. `seconds`
    holds how long a storm, a hang and a dripping answer last, and what Retry-After says in a storm.
    """

    seed: int = 0
    rates: Mapping[str, float] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        unknown = self.rates.keys() - FAULTS.keys()
        if unknown:
            raise SandboxError(f"no such fault: {', '.join(sorted(unknown))}; there are {', '.join(FAULTS)}")
        if not all(0 <= rate <= 1 for rate in self.rates.values()):
            raise SandboxError("the rate of a fault must be between 0 and 1")

    def lasts(self, name: str) -> float:
        """Seconds that something lasts."""
        return self.seconds.get(name, {"storm": 0.5, "retry_after": 1, "hang": 60, "drip": 120}[name])


class Mischief:
    """Draws the faults of each call; thread-safe. `file` holds the request, absent: none."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._read_at: int | None = None
        self._faults = Faults()
        self._lock = Lock()
        self._calls = 0
        self._storm_until = 0.0
        self._tails: dict[str, list[Any]] = {}

    def set(self, faults: Faults) -> None:
        """Misbehave like this from now on; `Faults()` ends it."""
        with self._lock:
            self._faults = faults
            self._storm_until = 0.0

    def draw(self, route: str) -> "Draw | None":
        """What goes wrong with the next call; None when nothing is asked for."""
        self._read()
        with self._lock:
            faults = self._faults
            if not any(faults.rates.values()):
                return None
            self._calls += 1
            draw = Draw(faults, route, self._calls, self._tails)
            if draw.before == "storm":
                self._storm_until = monotonic() + faults.lasts("storm")
            elif monotonic() < self._storm_until:
                draw.before = "storm"
            return draw

    def _read(self) -> None:
        if self._file is None:
            return
        try:
            changed = self._file.stat().st_mtime_ns
        except FileNotFoundError:
            changed = 0
        if changed != self._read_at:
            self._read_at = changed
            self.set(Faults(**json.loads(self._file.read_bytes())) if changed else Faults())


class Draw:
    """The faults of one call: `before` and `wire` name one of their kind, or are None."""

    def __init__(self, faults: Faults, route: str, call: int, tails: dict[str, list[Any]]) -> None:
        self.faults = faults
        self.applied: list[str] = []
        self._call = call
        self._tails = tails
        bureau_only = () if route == "bureau" else ("expire",)
        self.before = next((f for f in BEFORE if f not in bureau_only and self._happens(f)), None)
        self.wire = next((f for f in ON_THE_WIRE if self._happens(f)), None)

    def chance(self, name: str) -> Random:
        """The random numbers of one fault in this call."""
        return Random(f"{self.faults.seed}/{name}/{self._call}")

    def _happens(self, name: str) -> bool:
        return self.chance(name).random() < self.faults.rates.get(name, 0)

    def shifts(self) -> bool:
        """Whether this page is shifted."""
        happens = self._happens("shift")
        if happens:
            self.applied.append("shift")
        return happens

    def spoil(self, body: bytes, page_token: str | None) -> bytes:
        """The answer with what goes wrong in its records; `page_token` is the one that was sent."""
        document = json.loads(body)
        name = "data" if "data" in document else "value"
        records = document[name]
        tail = self._tails.get(page_token or "")
        if tail and self.shifts():
            records = [*tail, *records]
        if document.get("next_page_token"):
            self._tails[document["next_page_token"]] = document[name][-SHIFTED:]
        for fault in WITHIN:
            if fault in ("duplicate", "reorder"):
                spoilt = _PAGES[fault](self.chance(fault), records) if self._happens(fault) else records
            else:
                chance, rate = self.chance(fault), self.faults.rates.get(fault, 0)
                spoilt = [_RECORDS[fault](chance, r) if chance.random() < rate else r for r in records]
            if spoilt != records:
                self.applied.append(fault)
            records = spoilt
        document[name] = records
        return json.dumps(document).encode() if self.applied else body


def _duplicated(chance: Random, records: list[Any]) -> list[Any]:
    again = chance.sample(records, min(len(records), 1 + len(records) // 10))
    return [*records, *again]


def _reordered(chance: Random, records: list[Any]) -> list[Any]:
    return chance.sample(records, len(records))


def _retyped(chance: Random, record: dict[str, Any]) -> dict[str, Any]:
    name = chance.choice(sorted(record))
    value = record[name]
    wrong = str(value) if not isinstance(value, str) else int(value) if value.isdigit() else [value]
    return {**record, name: chance.choice([wrong, {"value": value}, not value])}


def _lacking(chance: Random, record: dict[str, Any]) -> dict[str, Any]:
    name = chance.choice(sorted(record))
    return {k: v for k, v in record.items() if k != name}


def _extended(chance: Random, record: dict[str, Any]) -> dict[str, Any]:
    return {**record, "source_system": {"name": "B3", "shard": chance.randrange(8)}}


_PAGES: dict[str, Callable[[Random, list[Any]], list[Any]]] = {
    "duplicate": _duplicated,
    "reorder": _reordered,
}
_RECORDS: dict[str, Callable[[Random, dict[str, Any]], dict[str, Any]]] = {
    "retype": _retyped,
    "omit": _lacking,
    "extend": _extended,
}
