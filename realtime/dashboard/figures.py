"""Counts, amounts and times of credit orders by minute, hour and business day, kept current by the feed.

Orders count in the minute, hour and day (America/Sao_Paulo) of their request, with the status that they have
now, as in the mart `credit_decisions`.
"""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from realtime.dashboard.feed import Row, milliseconds

ZONE = ZoneInfo("America/Sao_Paulo")
STATUSES = ("in_review", "approved", "rejected", "cancelled")
WINDOWS = ("hour", "day", "yesterday", "month")
KEPT = {"minute": timedelta(hours=1), "hour": timedelta(days=2), "day": timedelta(days=30)}
"""How far each grain goes back, from the bucket that it is."""
_GRAIN = {"hour": "minute", "day": "hour", "yesterday": "hour", "month": "day"}
_STEP = math.log(1.05)
"""Of the times to a decision: what is told lies within 2.5 % of what it was."""


@dataclass(frozen=True)
class Filter:
    """Which orders somebody looks at; None is all."""

    partner: str | None = None
    product: str | None = None
    status: str | None = None
    scope: str | None = None
    """The only partner whose orders this viewer may see."""

    def takes(self, row: Row) -> bool:
        """Whether an event is of such an order, also one that leaves the status that is looked at."""
        return (
            (self.scope is None or row.partner_id == self.scope)
            and (self.partner is None or row.partner_id == self.partner)
            and (self.product is None or row.product == self.product)
            and (self.status is None or self.status in (row.status, row.from_status))
        )

    def takes_key(self, key: "Key") -> bool:
        """Whether orders of this partner and product are among them."""
        return (
            (self.scope is None or key[0] == self.scope)
            and (self.partner is None or key[0] == self.partner)
            and (self.product is None or key[1] == self.product)
        )


Key = tuple[str, str, str]
"""Partner, product, currency."""


@dataclass
class Cell:
    """Orders of one key in one bucket."""

    counts: Counter[str] = field(default_factory=Counter)
    requested: Counter[str] = field(default_factory=Counter)
    approved: Counter[str] = field(default_factory=Counter)
    """By status, in cents."""
    times: Counter[int] = field(default_factory=Counter)
    """Decisions by the step of their time, see `step`."""
    reasons: Counter[str] = field(default_factory=Counter)


def step(milliseconds: float) -> int:
    """The step of a logarithmic scale on which a time lies."""
    return math.ceil(math.log(max(milliseconds, 1.0)) / _STEP)


def percentile(times: Counter[int], share: float) -> float | None:
    """Seconds within which this share of the decisions was made; None of none."""
    rank = share * times.total()
    for place in sorted(times):
        rank -= times[place]
        if rank <= 0:
            return math.exp((place - 0.5) * _STEP) / 1000
    return None


def bucket(grain: str, at: datetime) -> datetime:
    """The beginning, in UTC, of the minute, hour or business day of `at`."""
    if grain == "minute":
        return at.replace(second=0, microsecond=0)
    local = at.astimezone(ZONE).replace(minute=0, second=0, microsecond=0)
    return (local if grain == "hour" else local.replace(hour=0)).astimezone(UTC)


class Figures:
    """All cells. What is loaded and what the feed says must be disjoint: see `app.Board`."""

    def __init__(self) -> None:
        self._cells: dict[str, dict[datetime, dict[Key, Cell]]] = {grain: {} for grain in KEPT}

    def load(self, grain: str, rows: Iterable[Any]) -> None:
        """Takes what the tables say: rows of `history.FIGURES`."""
        for row in rows:
            cell = self._cell(grain, row["bucket"], (row["partner_id"], row["product"], row["currency"]))
            status = row["status"]
            cell.counts[status] += row["orders"]
            cell.requested[status] += row["requested"]
            cell.approved[status] += row["approved"]
            if row["step"] is not None:
                cell.times[row["step"]] += row["orders"]

    def load_reasons(self, grain: str, rows: Iterable[Any]) -> None:
        """Takes what the tables say: rows of `history.REASONS`."""
        for row in rows:
            key = (row["partner_id"], row["product"], row["currency"])
            self._cell(grain, row["bucket"], key).reasons[row["code"]] += row["orders"]

    def apply(self, row: Row, now: datetime) -> None:
        """Takes an event."""
        if row.from_status == row.status:
            return
        key = (row.partner_id, row.product, row.currency)
        for grain, kept in KEPT.items():
            if row.created_at < now - kept - timedelta(days=1):
                continue
            cell = self._cell(grain, bucket(grain, row.created_at), key)
            if row.from_status is not None:
                cell.counts[row.from_status] -= 1
                cell.requested[row.from_status] -= row.requested
            cell.counts[row.status] += 1
            cell.requested[row.status] += row.requested
            if row.status in ("approved", "cancelled"):
                cell.approved[row.status] += row.approved
            if row.from_status in (None, "in_review") and row.decided_at and row.status != "in_review":
                cell.times[step((row.decided_at - row.created_at).total_seconds() * 1000)] += 1
            if "rejected" in (row.from_status, row.status):
                for code in row.reasons:
                    cell.reasons[code] += 1 if row.status == "rejected" else -1

    def forget(self, now: datetime) -> None:
        """Lets go of what no window reaches any more."""
        for grain, kept in KEPT.items():
            first = bucket(grain, now - kept - timedelta(days=1))
            for at in [at for at in self._cells[grain] if at < first]:
                del self._cells[grain][at]

    def options(self, scope: str | None) -> dict[str, list[str]]:
        """Partners and products that there are to choose from."""
        keys = {key for cells in self._cells["day"].values() for key in cells}
        keys = {key for key in keys if scope is None or key[0] == scope}
        return {
            "partners": sorted({partner for partner, _, _ in keys}),
            "products": sorted({product for _, product, _ in keys}),
        }

    def summary(self, window: str, wanted: Filter, now: datetime) -> dict[str, Any]:
        """What a window holds for a filter. Amounts in cents, times in milliseconds since 1970.

        A status that is filtered by narrows amounts and the chart; the counts of the other statuses stay.
        """
        grain = _GRAIN[window]
        counts: Counter[str] = Counter()
        times: Counter[int] = Counter()
        reasons: Counter[str] = Counter()
        currencies: dict[str, list[int]] = {}
        products: dict[tuple[str, str], list[int]] = {}
        partners: dict[tuple[str, str], list[int]] = {}
        starts = list(_starts(window, now))
        shown = STATUSES if wanted.status is None else (wanted.status,)
        series: dict[str, list[int]] = {status: [0] * len(starts) for status in STATUSES}
        for place, start in enumerate(starts):
            for key, cell in self._cells[grain].get(start, {}).items():
                if not wanted.takes_key(key):
                    continue
                for status, count in cell.counts.items():
                    counts[status] += count
                    if status in shown:
                        series[status][place] += count
                orders = sum(cell.counts[status] for status in shown)
                requested = sum(cell.requested[status] for status in shown)
                approved = sum(cell.approved[status] for status in shown)
                for table, name in (
                    (products, (key[1], key[2])),
                    (partners, (key[0], key[2])),
                    (currencies, key[2]),
                ):
                    line = table.setdefault(name, [0, 0, 0])
                    line[0] += orders
                    line[1] += requested
                    line[2] += approved
                times.update(cell.times)
                reasons.update(cell.reasons)
        decided = counts["approved"] + counts["rejected"]
        return {
            "window": window,
            "as_of": milliseconds(now),
            "counts": {status: counts[status] for status in STATUSES},
            "approval_rate": round(counts["approved"] / decided, 4) if decided else None,
            "decision_seconds": {"p50": percentile(times, 0.5), "p95": percentile(times, 0.95)},
            "totals": [[name, *line] for name, line in sorted(currencies.items()) if line[0]],
            "products": [[*name, *line] for name, line in sorted(products.items()) if line[0]],
            "partners": [[*name, *line] for name, line in sorted(partners.items()) if line[0]],
            "reasons": [[code, count] for code, count in reasons.most_common() if count > 0],
            "series": {"start": [milliseconds(start) for start in starts], **series},
            "options": self.options(wanted.scope),
        }

    def _cell(self, grain: str, at: datetime, key: Key) -> Cell:
        cells = self._cells[grain].setdefault(at, {})
        if key not in cells:
            cells[key] = Cell()
        return cells[key]


def span(window: str, now: datetime) -> tuple[datetime, datetime]:
    """From when until before when a window reaches."""
    starts = list(_starts(window, now))
    return starts[0], min(_next(window, starts[-1]), now + timedelta(seconds=1))


def _next(window: str, start: datetime) -> datetime:
    if window == "month":
        return (start.astimezone(ZONE) + timedelta(days=1)).astimezone(UTC)
    return start + (timedelta(minutes=1) if window == "hour" else timedelta(hours=1))


def _starts(window: str, now: datetime) -> Iterable[datetime]:
    if window == "month":
        today = bucket("day", now).astimezone(ZONE)  # days are added by the calendar
        return [(today - timedelta(days=days)).astimezone(UTC) for days in range(29, -1, -1)]
    if window == "yesterday":
        today = bucket("day", now).astimezone(ZONE)
        first = (today - timedelta(days=1)).astimezone(UTC)
        hours = round((today.astimezone(UTC) - first) / timedelta(hours=1))
        return [first + timedelta(hours=n) for n in range(hours)]
    if window == "day":
        return [bucket("hour", now) - timedelta(hours=n) for n in range(23, -1, -1)]
    return [bucket("minute", now) - timedelta(minutes=n) for n in range(59, -1, -1)]
