"""The event log: what customers, staff and the system did in the app, by UTC hour of receipt."""

from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

import numpy as np

from sandbox.worlds.synthetic import columns as col
from sandbox.worlds.synthetic import timeline as tl
from sandbox.worlds.synthetic.orders import APPROVED, CANCELLED, REJECTED, Orders
from sandbox.worlds.synthetic.people import People
from sandbox.worlds.synthetic.transitions import DECIDED, REPAYMENT, Transitions

KEPT_DAYS = 90
_VISITS = 0.035  # sessions without an order, per customer and day
_DUPLICATES = 0.005
_LATE = 0.15  # of the events of one hour a day, whose file comes a day late
_PAGES = ["home", "offers", "statement", "invoice", "profile", "help", "documents"]
_TEMPLATES = {APPROVED: "order_approved", REJECTED: "order_rejected", CANCELLED: "order_cancelled"}
_STREAM = 100  # apart from the streams of the tables


class _Day:
    """Collects the events of one day."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, str, int, str, int, str]] = []
        self.sessions = 0

    def add(self, customer: int, actor: str, session: int, kind: str, when: int, properties: str) -> None:
        """Adds one event; session -1 is none."""
        self.rows.append((customer, actor, session, kind, when, properties))


class Activity:
    """Writes event files. Every day has its own random stream, so a day never needs the days before."""

    def __init__(self, seed: int, people: People, orders: Orders, transitions: Transitions) -> None:
        self._seed = seed
        self._people = people
        self._orders = orders
        self._transitions = transitions
        self._order_ids = orders.uuid.to_pylist()

    def files(self, first: date, last: date) -> Iterator[tuple[str, bytes]]:
        """Yields (path, lines) of the files that appear from `first` to `last`."""
        beginning = tl.day_index(tl.FIRST_DATE - timedelta(days=KEPT_DAYS - 1))
        first_day = max(tl.day_index(first), beginning)
        last_day = tl.day_index(last)
        appears_from = tl.ORIGIN + first_day * tl.DAY
        appears_until = tl.ORIGIN + (last_day + 1) * tl.DAY
        files: dict[tuple[int, bool], list[tuple[int, str]]] = defaultdict(list)
        for day in range(max(first_day - 2, beginning), last_day + 1):
            for received, late, line in self._lines(day):
                if appears_from <= received + late * tl.DAY < appears_until:
                    files[received // tl.HOUR, late].append((received, line))
        for hour, late in sorted(files):
            lines = [line for _, line in sorted(files[hour, late])]
            when = datetime.fromtimestamp(hour * 3600, UTC)
            suffix = "-late" if late else ""
            yield f"{when:%Y-%m-%d/%H}{suffix}.jsonl.gz", ("\n".join(lines) + "\n").encode()

    def _lines(self, day: int) -> Iterator[tuple[int, bool, str]]:
        """Yields (received at, whether its file is late, JSON line) of what occurred on a day."""
        rng = np.random.Generator(np.random.PCG64([self._seed, _STREAM, day]))
        begin = tl.ORIGIN + day * tl.DAY
        events = _Day()
        self._visits(rng, events, day, begin)
        self._order_sessions(rng, events, begin)
        self._reactions(rng, events, begin)

        rows = events.rows
        size = len(rows)
        occurred = np.array([row[4] for row in rows], dtype=np.int64) // 1000 * 1000
        lag = rng.gamma(2, 0.4 * tl.SECOND, size)
        offline = rng.random(size) < 0.02
        lag = np.where(offline, rng.exponential(40 * tl.MINUTE, size), lag) + 20_000
        received = occurred + np.minimum(lag, 5 * tl.HOUR).astype(np.int64) // 1000 * 1000
        event_ids = col.uuids(rng, size).to_pylist()
        session_ids = col.uuids(rng, events.sessions).to_pylist()
        # A webhook that was not answered in time is sent again.
        again = np.flatnonzero(rng.random(size) < _DUPLICATES)
        again_at = received[again] + rng.integers(5 * tl.SECOND, 30 * tl.MINUTE, len(again)) // 1000 * 1000
        source = np.concatenate([np.arange(size), again])
        received = np.concatenate([received, again_at])
        late_hour = int(rng.integers(10, 21))
        late = (received - begin) // tl.HOUR == late_hour
        late &= rng.random(len(source)) < _LATE
        occurred_text, received_text = _iso(occurred[source]), _iso(received)
        at, is_late = received.tolist(), late.tolist()
        for place, event in enumerate(source.tolist()):
            customer, actor, session, kind, _, properties = rows[event]
            session_id = "null" if session < 0 else f'"{session_ids[session]}"'
            yield (
                at[place],
                is_late[place],
                f'{{"event_id": "{event_ids[event]}", "customer_id": {customer + 1}, "actor": "{actor}", '
                f'"session_id": {session_id}, "event_type": "{kind}", '
                f'"occurred_at": "{occurred_text[place]}Z", "properties": {properties}, '
                f'"received_at": "{received_text[place]}Z"}}',
            )

    def _visits(self, rng: np.random.Generator, events: _Day, day: int, begin: int) -> None:
        """Sessions in which nothing is ordered."""
        known = int(np.searchsorted(self._people.created, begin))
        busy = 1.0 if tl.weekday(np.int64(day)) < 5 else 0.75
        count = int(rng.poisson(known * _VISITS * busy))
        # Newer customers visit more often.
        who = (rng.random(count) ** 0.75 * known).astype(np.int64)
        start = begin + tl.app_time(rng, count)
        pages = 1 + np.minimum(rng.geometric(0.4, count), 7)
        simulates = rng.random(count) < 0.15
        steps = rng.integers(3 * tl.SECOND, 90 * tl.SECOND, (count, 10))
        shown = rng.integers(0, len(_PAGES), (count, 10))
        amounts = rng.integers(4, 300, count) * 100
        for place in range(count):
            customer, session = int(who[place]), events.sessions
            events.sessions += 1
            when = int(start[place])
            events.add(customer, "customer", session, "login", when, "{}")
            for step in range(int(pages[place])):
                when += int(steps[place, step])
                page = _PAGES[shown[place, step]]
                events.add(customer, "customer", session, "page_view", when, f'{{"page": "{page}"}}')
            if simulates[place]:
                when += int(steps[place, 9])
                amount = f'{{"amount": {amounts[place]}}}'
                events.add(customer, "customer", session, "simulation_run", when, amount)

    def _order_sessions(self, rng: np.random.Generator, events: _Day, begin: int) -> None:
        """What a customer did on the way to each order of the day."""
        orders = self._orders
        today = range(*np.searchsorted(orders.created, [begin, begin + tl.DAY]).tolist())
        back = rng.uniform(0.6, 1.4, len(today))
        for place, order in enumerate(today):
            customer, created = int(orders.customer[order]), int(orders.created[order])
            session = events.sessions
            events.sessions += 1
            order_id = f'{{"order_id": "{self._order_ids[order]}"}}'
            amount = f'{{"amount": {int(orders.requested[order]) // 100}}}'
            for seconds, kind, properties in (
                (230, "page_view", '{"page": "offers"}'),
                (170, "simulation_run", amount),
                (110, "order_started", order_id),
                (30, "document_uploaded", '{"document": "identity"}'),
                (0, "order_submitted", order_id),
            ):
                when = created - int(seconds * back[place] * tl.SECOND)
                events.add(customer, "customer", session, kind, when, properties)

    def _reactions(self, rng: np.random.Generator, events: _Day, begin: int) -> None:
        """Notifications by the system, notes by staff."""
        orders, transitions = self._orders, self._transitions
        today = np.flatnonzero((transitions.at >= begin) & (transitions.at < begin + tl.DAY))
        delay = rng.integers(tl.SECOND, 2 * tl.MINUTE, len(today))
        for place, row in enumerate(today.tolist()):
            order = int(transitions.order[row])
            customer, when = int(orders.customer[order]), int(transitions.at[row])
            kind = transitions.kind[row]
            order_id = self._order_ids[order]
            if kind == DECIDED:
                template = _TEMPLATES[int(transitions.status[row])]
                if orders.manual[order] and template != "order_cancelled":
                    note = f'{{"order_id": "{order_id}", "topic": "documents"}}'
                    events.add(customer, "staff", -1, "note_added", when - tl.MINUTE, note)
            elif kind == REPAYMENT and transitions.repayment[row] == 1:
                template = "payment_overdue"
            else:
                continue
            properties = f'{{"template": "{template}", "order_id": "{order_id}"}}'
            events.add(customer, "system", -1, "notification_sent", when + int(delay[place]), properties)


def _iso(moments: np.ndarray) -> list[str]:
    return np.datetime_as_string(moments.astype("datetime64[us]").astype("datetime64[ms]")).tolist()
