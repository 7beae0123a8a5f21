"""What has happened to credit orders since this process last looked, in an order in which nothing is missed.

The place in the feed is a snapshot of PostgreSQL: whatever it did not see is new, in whichever order
transactions committed. Every instance understands the places of the others: a viewer may come back to any.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg
import msgspec
from prometheus_client import Counter, Gauge

from realtime import log
from realtime.database import BY_INDEX, UNAVAILABLE, connect

# Seconds from one read to the next: what happens meanwhile comes together. Nobody calls, since a transaction
# that notifies is committed alone, and those of orders must not be.
_GAP = 0.1
_LIMIT = 50_000  # rows of one read; when more are new, everything is read anew

_READ = """
with place as materialized (
    select pg_current_snapshot()::text as snapshot
),
news as materialized (
    select * from realtime.feed where xid >= $1::text::xid8
    union all
    select * from realtime.feed where xid = any($2::text[]::xid8[]) and xid < $1::text::xid8
    limit $3
)
select
    p.snapshot, n.xid::text::bigint as xid, n.order_id::text, n.seq, n.event_type, n.from_status, n.to_status,
    n.occurred_at, o.partner_id, o.product, o.currency, o.requested_amount, o.approved_amount, o.created_at,
    o.decided_at, r.reason_codes
from place as p
left join news as n on true
left join app.credit_orders as o on o.order_id = n.order_id
left join lateral (
    select e.reason_codes
    from app.risk_evaluations as e
    where e.order_id = n.order_id and e.decision = 'reject'
    order by e.evaluated_at
    limit 1
) as r on n.from_status = 'rejected' or n.to_status = 'rejected'
order by n.xid, n.order_id, n.seq
"""
# Where a reader begins who wants to know the last ones, too.
_BEGIN = """
select coalesce(
    (select f.xid from realtime.feed as f order by f.xid desc offset $1 limit 1),
    (select min(f.xid) from realtime.feed as f),
    pg_snapshot_xmin(pg_current_snapshot())
)::text, pg_current_snapshot()::text
"""

_READS = Counter("realtime_dashboard_reads_total", "Times that the feed was read")
_EVENTS = Counter("realtime_dashboard_events_total", "Events that were read")
_BEHIND = Gauge("realtime_dashboard_last_read_seconds", "How long the last read took")


@dataclass(frozen=True)
class Snapshot:
    """Which transactions are seen: all before `xmax` but those in `running`."""

    xmax: int
    running: frozenset[int]

    @classmethod
    def parse(cls, text: str) -> "Snapshot":
        """Reads PostgreSQL's form, `xmin:xmax:xip,…`.

        Raises:
            ValueError: it is none.
        """
        _, xmax, running = text.split(":")
        ids = frozenset(int(xid) for xid in running.split(",")) if running else frozenset()
        return cls(int(xmax), ids)

    def sees(self, xid: int) -> bool:
        """Whether what this transaction did is seen."""
        return xid < self.xmax and xid not in self.running

    def contains(self, older: "Snapshot") -> bool:
        """Whether all that `older` sees is seen."""
        return older.xmax <= self.xmax and all(
            xid in older.running for xid in self.running if xid < older.xmax
        )


class Row:
    """An event and the order that it happened to."""

    __slots__ = (
        "approved",
        "created_at",
        "currency",
        "data",
        "decided_at",
        "event_type",
        "from_status",
        "order_id",
        "partner_id",
        "product",
        "reasons",
        "requested",
        "seq",
        "status",
        "xid",
    )

    def __init__(self, given: Any) -> None:
        self.xid: int = given["xid"]
        self.order_id: str = given["order_id"]
        self.seq: int = given["seq"]
        self.event_type: str = given["event_type"]
        self.from_status: str | None = given["from_status"]
        self.status: str = given["to_status"]
        self.partner_id: str = given["partner_id"]
        self.product: str = given["product"]
        self.currency: str = given["currency"]
        self.requested = cents(given["requested_amount"])
        self.approved = cents(given["approved_amount"] or 0)
        self.created_at: datetime = given["created_at"]
        self.decided_at: datetime | None = given["decided_at"]
        self.reasons: Sequence[str] = given["reason_codes"] or ()
        self.data = msgspec.json.encode(
            [
                self.order_id,
                self.seq,
                self.event_type,
                self.from_status,
                self.status,
                self.partner_id,
                self.product,
                self.currency,
                self.requested,
                self.approved if self.status == "approved" else None,
                milliseconds(self.created_at),
                milliseconds(given["occurred_at"]),
                self.reasons if self.status == "rejected" else (),
            ]
        )
        """As viewers get it, made once for all: amounts in cents, times in milliseconds since 1970."""


def cents(amount: Any) -> int:
    """An amount of two decimals as a whole number."""
    return int(amount * 100)


def milliseconds(at: datetime) -> int:
    """Milliseconds since 1970."""
    return round(at.timestamp() * 1000)


class Feed:
    """Follows the database and keeps the last events; one reader, however many want to know.

    Args:
        dsn: of PostgreSQL, the one that orders are written to.
        publish: gets the rows of every read that has any, and the place after it.
        lost: called when so much is new that it must be read anew from the tables.
        keep: rows, for those who come back.
    """

    def __init__(
        self,
        dsn: str,
        publish: Callable[[list[Row]], None],
        lost: Callable[[], None],
        keep: int = 40_000,
    ) -> None:
        self._dsn = dsn
        self._publish = publish
        self._lost = lost
        self._keep = keep
        self._frames: deque[tuple[Snapshot, list[Row]]] = deque()  # with the place before each
        self._kept = 0
        self.snapshot: Snapshot = None
        self.place = ""
        """The id of the last event: a snapshot as PostgreSQL writes it."""
        self.begun = asyncio.Event()
        self.holding = False
        """Whether to keep all rows, while somebody reads tables that they are to be joined with."""
        self.read_at = 0.0
        """When the database last answered, by the monotonic clock."""

    def since(self, place: Snapshot) -> list[Row] | None:
        """What happened since `place`; None if it is not known any more, or is another database's."""
        if self.snapshot is None or place.xmax > self.snapshot.xmax:
            return None
        oldest = self._frames[0][0] if self._frames else self.snapshot
        if not place.contains(oldest):
            return None
        return [row for _, rows in self._frames for row in rows if not place.sees(row.xid)]

    def covers(self, place: Snapshot) -> bool:
        """Whether `since(place)` is known."""
        oldest = self._frames[0][0] if self._frames else self.snapshot
        return place.contains(oldest)

    def rows(self) -> list[Row]:
        """All rows that are kept."""
        return [row for _, rows in self._frames for row in rows]

    async def run(self) -> None:
        """Reads again and again, until cancelled."""
        while True:
            try:
                connection = await connect(self._dsn, BY_INDEX)
                try:
                    if self.snapshot is None:
                        await self._begin(connection)
                    while True:
                        began = time.monotonic()
                        await self._read(connection)
                        _BEHIND.set(time.monotonic() - began)
                        await asyncio.sleep(max(0.0, began + _GAP - time.monotonic()))
                finally:
                    connection.terminate()
            except (*UNAVAILABLE, asyncpg.PostgresError) as error:
                log.event("database_unavailable", "error", at="feed", error=type(error).__name__)
            await asyncio.sleep(0.5)

    async def _begin(self, connection: asyncpg.Connection) -> None:
        """A little before now, so that whoever saw an earlier process of ours can go on here."""
        first, now = await connection.fetchrow(_BEGIN, self._keep // 2)
        running = Snapshot.parse(now).running
        xmax = int(first)
        self.snapshot = Snapshot(xmax, frozenset(xid for xid in running if xid < xmax))

    async def _read(self, connection: asyncpg.Connection) -> None:
        before = self.snapshot
        running = [str(xid) for xid in before.running]
        found = await connection.fetch(_READ, str(before.xmax), running, _LIMIT + 1)
        _READS.inc()
        self.place = found[0]["snapshot"]
        self.snapshot = Snapshot.parse(self.place)
        self.read_at = time.monotonic()
        if len(found) > _LIMIT:
            log.event("feed_too_far_behind", "warning")
            self._frames.clear()
            self._kept = 0
            self.begun.set()
            self._lost()
            return
        # an order that somebody has deleted meanwhile is of no interest any more
        rows = [Row(row) for row in found if row["partner_id"] is not None]
        first = not self.begun.is_set()
        if rows:
            _EVENTS.inc(len(rows))
            self._frames.append((before, rows))
            self._kept += len(rows)
            while self._kept > self._keep and len(self._frames) > 1 and not self.holding:
                self._kept -= len(self._frames.popleft()[1])
        elif not self._frames:
            self._frames.append((before, []))
        self.begun.set()
        if rows and not first:
            self._publish(rows)


def only(rows: Sequence[Row], wanted: Callable[[Row], bool]) -> bytes:
    """What viewers get of those rows that are wanted, with commas between; empty where there are none."""
    return b",".join([row.data for row in rows if wanted(row)])
