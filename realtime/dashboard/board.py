"""What all viewers of this process look at, and what each of them still has to be sent.

Viewers who look at the same thing share one channel: an event is encoded once, a frame once for a channel,
and all its viewers are sent the same bytes. A viewer who does not keep up loses the frames and is told so.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import asyncpg
import msgspec
from prometheus_client import Counter, Gauge

from realtime import log
from realtime.dashboard.feed import Feed, Row, Snapshot, only
from realtime.dashboard.figures import Figures, Filter, span
from realtime.dashboard.history import RECENT, join, read_base, read_health
from realtime.database import UNAVAILABLE
from realtime.settings import Clock

_SHOWN = 100  # orders that a viewer begins with
_PENDING = 64  # frames that wait for a slow viewer
_PENDING_BYTES = 4_000_000
_REFRESH = 300.0  # seconds until the tables are asked again, for what no event tells
_HEALTH = 5.0
_SUMMARY = 1.0

_VIEWERS = Gauge("realtime_dashboard_viewers", "Viewers now")
_RESYNCED = Counter("realtime_dashboard_resyncs_total", "Viewers who were told to begin anew")


@dataclass(frozen=True)
class View:
    """What somebody looks at."""

    window: str
    wanted: Filter


class Viewer:
    """One open stream."""

    def __init__(self) -> None:
        self._frames: deque[bytes] = deque()
        self._bytes = 0
        self._lost = False
        self._changed = asyncio.Event()
        self.is_closed = False

    def push(self, frame: bytes) -> None:
        """Queues a frame; too many of them are all dropped."""
        if self._lost:
            return
        if len(self._frames) >= _PENDING or self._bytes > _PENDING_BYTES:
            self.lose()
            return
        self._frames.append(frame)
        self._bytes += len(frame)
        self._changed.set()

    def lose(self) -> None:
        """What was queued is void: the viewer has to begin anew."""
        self._frames.clear()
        self._bytes = 0
        self._lost = True
        self._changed.set()

    def close(self) -> None:
        """Ends the stream."""
        self.is_closed = True
        self._changed.set()

    async def take(self, seconds: float) -> bytes | None:
        """What is queued; empty when nothing came in these seconds, None when the viewer must begin anew."""
        if not self._frames and not self._lost and not self.is_closed:
            self._changed.clear()
            try:
                async with asyncio.timeout(seconds):
                    await self._changed.wait()
            except TimeoutError:
                return b""
        if self._lost:
            self._lost = False
            _RESYNCED.inc()
            return None
        frames = b"".join(self._frames)
        self._frames.clear()
        self._bytes = 0
        return frames


class Channel:
    """Viewers who look at the same thing."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.viewers: set[Viewer] = set()
        self.summary = b""


class Board:
    """Feed, figures and viewers of this process; `run` it.

    Args:
        dsn: of PostgreSQL, the one that orders are written to.
        primary: a pool on it.
        history: a pool where history is read.
        clock: the time of business.
    """

    def __init__(self, dsn: str, primary: asyncpg.Pool, history: asyncpg.Pool, clock: Clock) -> None:
        self.feed = Feed(dsn, self._publish, self._begin_anew)
        self._primary = primary
        self._history = history
        self._clock = clock
        self._figures: Figures | None = None
        self._recent: OrderedDict[str, Row] = OrderedDict()
        self._channels: dict[View, Channel] = {}
        self._health: dict[str, Any] = {}
        self._reload = asyncio.Event()
        self._is_stopping = False

    @property
    def is_ready(self) -> bool:
        """Whether there is something to show."""
        return self._figures is not None and not self._is_stopping

    async def run(self) -> None:
        """Keeps everything current until cancelled."""
        async with asyncio.TaskGroup() as group:
            for part in (self.feed.run(), self._load(), self._summarize(), self._watch_health()):
                group.create_task(part)

    def stop(self) -> None:
        """Ends all streams; the viewers come back, here or elsewhere."""
        self._is_stopping = True
        for channel in self._channels.values():
            for viewer in channel.viewers:
                viewer.close()

    def join(self, view: View, viewer: Viewer, place: str | None) -> bytes:
        """Lets a viewer in and returns what it needs first: what it missed since `place`, or everything."""
        channel = self._channels.get(view)
        if channel is None:
            channel = self._channels[view] = Channel(view)
        channel.viewers.add(viewer)
        _VIEWERS.inc()
        if place is None:
            return self.state(view, "state")
        try:
            missed = self.feed.since(Snapshot.parse(place))
        except ValueError:
            missed = None
        if missed is None:
            _RESYNCED.inc()
            return self.state(view, "resync")
        rows = only(missed, view.wanted.takes)
        frame = self._frame(rows) if rows else b"id: %s\n\n" % self.feed.place.encode()
        return frame + b"event: summary\ndata: " + self.summary(view) + b"\n\n"

    def leave(self, view: View, viewer: Viewer) -> None:
        """Lets a viewer go."""
        _VIEWERS.dec()
        channel = self._channels[view]
        channel.viewers.discard(viewer)
        if not channel.viewers:
            del self._channels[view]

    def state(self, view: View, event: str) -> bytes:
        """Everything that a view begins with, as an event."""
        return b"id: %s\nevent: %s\ndata: %s\n\n" % (
            self.feed.place.encode(),
            event.encode(),
            self.state_json(view),
        )

    def state_json(self, view: View) -> bytes:
        """Everything that a view begins with."""
        return b'{"summary":%s,"orders":[%s]}' % (
            self.summary(view),
            b",".join(row.data for row in self._shown(view)),
        )

    def summary(self, view: View) -> bytes:
        """The figures of a view, as JSON."""
        summary = self._figures.summary(view.window, view.wanted, self._clock.now())
        health = self._health
        if view.wanted.scope is not None:  # how much others order is none of a partner's business
            health = {name: health.get(name) for name in ("workers", "bureau_is_up")}
        return msgspec.json.encode(summary | {"health": health})

    def keepalive(self) -> bytes:
        """Tells a viewer of whom nothing is known that it is up to date, so that it can resume from here."""
        return b"id: %s\n\n" % self.feed.place.encode()

    def _shown(self, view: View) -> list[Row]:
        since, until = span(view.window, self._clock.now())
        wanted = view.wanted
        found = [
            row
            for row in self._recent.values()
            if wanted.takes(row)
            and (wanted.status is None or row.status == wanted.status)
            and since <= row.created_at < until
        ]
        return sorted(found, key=lambda row: (row.created_at, row.order_id), reverse=True)[:_SHOWN]

    def _frame(self, rows: bytes) -> bytes:
        return b"id: %s\nevent: orders\ndata: [%s]\n\n" % (self.feed.place.encode(), rows)

    def _publish(self, rows: list[Row]) -> None:
        if self._figures is not None:
            now = self._clock.now()
            for row in rows:
                self._figures.apply(row, now)
            self._remember(rows)
        for channel in self._channels.values():
            if data := only(rows, channel.view.wanted.takes):
                frame = self._frame(data)
                for viewer in channel.viewers:
                    viewer.push(frame)

    def _remember(self, rows: list[Row]) -> None:
        for row in rows:
            self._recent[row.order_id] = row
            self._recent.move_to_end(row.order_id)
        while len(self._recent) > RECENT:
            self._recent.popitem(last=False)

    def _begin_anew(self) -> None:
        self._figures = None
        self._reload.set()
        for channel in self._channels.values():
            for viewer in channel.viewers:
                viewer.lose()

    async def _load(self) -> None:
        """Reads the tables at the start, and again now and then."""
        while True:
            self._reload.clear()
            try:
                await self.feed.begun.wait()
                self.feed.holding = True
                if not await self._load_from(self._history) and self._figures is None:
                    log.event("replica_too_far_behind", "warning")
                    await self._load_from(self._primary)
            except (*UNAVAILABLE, asyncpg.PostgresError) as error:
                log.event("database_unavailable", "error", at="history", error=type(error).__name__)
            finally:
                self.feed.holding = False
            try:
                async with asyncio.timeout(_REFRESH if self._figures is not None else 1):
                    await self._reload.wait()
            except TimeoutError:
                pass

    async def _load_from(self, pool: asyncpg.Pool) -> bool:
        base = await read_base(pool, self._clock.now())
        since = join(base, self.feed, self._clock.now())
        if since is None:
            return False
        self._figures = base.figures
        self._recent.clear()
        self._remember([*reversed(base.recent), *since])
        return True

    async def _summarize(self) -> None:
        """Sends each channel its figures, whenever they have changed."""
        while True:
            await asyncio.sleep(_SUMMARY)
            if self._figures is None:
                continue
            self._figures.forget(self._clock.now())
            for channel in list(self._channels.values()):
                summary = self.summary(channel.view)
                changed = _without_time(summary) != _without_time(channel.summary)
                if changed and channel.viewers:
                    channel.summary = summary
                    frame = b"event: summary\ndata: %s\n\n" % summary
                    for viewer in channel.viewers:
                        viewer.push(frame)
                await asyncio.sleep(0)  # events go first
                if self._figures is None:
                    break

    async def _watch_health(self) -> None:
        while True:
            try:
                self._health = await read_health(self._primary)
            except (*UNAVAILABLE, asyncpg.PostgresError) as error:
                log.event("database_unavailable", "error", at="health", error=type(error).__name__)
                self._health = {}
            await asyncio.sleep(_HEALTH)


def _without_time(summary: bytes) -> bytes:
    head, _, tail = summary.partition(b'"as_of":')
    return head + tail.partition(b",")[2]


class Cache:
    """Answers that many ask for at once, each made once in a few seconds."""

    def __init__(self, seconds: float = 5.0, limit: int = 200) -> None:
        self._seconds = seconds
        self._limit = limit
        self._made: OrderedDict[Any, tuple[float, asyncio.Task]] = OrderedDict()

    async def get(self, key: Any, make: Callable[[], Any]) -> Any:
        """The answer for `key`, by `make` where it is not known.

        Raises:
            Whatever `make` raises.
        """
        now = asyncio.get_running_loop().time()
        at, task = self._made.get(key, (-1e9, None))
        if task is None or now - at > self._seconds or (task.done() and task.exception() is not None):
            task = asyncio.ensure_future(make())
            self._made[key] = (now, task)
            self._made.move_to_end(key)
            while len(self._made) > self._limit:
                self._made.popitem(last=False)
        return await asyncio.shield(task)
