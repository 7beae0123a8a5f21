"""The generated lender: everything that ever happens, made at once, looked at day by day."""

import functools
from collections.abc import Iterator
from datetime import date, timedelta

import numpy as np
import pyarrow as pa

from sandbox.errors import SandboxError
from sandbox.worlds.base import Change
from sandbox.worlds.synthetic import timeline as tl
from sandbox.worlds.synthetic.activity import Activity
from sandbox.worlds.synthetic.bank import make_transactions
from sandbox.worlds.synthetic.loans import make_loans
from sandbox.worlds.synthetic.orders import make_evaluations, make_orders
from sandbox.worlds.synthetic.people import make_accounts_and_consents, make_people
from sandbox.worlds.synthetic.transitions import make_order_events, make_transitions


class SyntheticWorld:
    """A Brazilian lender generated from a seed.

    The whole past and future is a set of facts with times; the state of any day is what the facts
    before its end say. So a day can be loaded as a whole or reached step by step, with one result.
    """

    name = "synthetic"
    first_date = tl.FIRST_DATE
    last_date: date | None = tl.LAST_DATE

    def __init__(self, seed: int, scale: float) -> None:
        self.seed = seed
        self.scale = scale
        self._people = make_people(self._rng(1), seed, scale)
        self._accounts, self._consents = make_accounts_and_consents(self._rng(2), self._people)
        self._orders = make_orders(self._rng(3), self._people, scale)
        self._evaluations = make_evaluations(self._rng(4), self._orders)
        self._loans = make_loans(self._rng(5), self._orders, self._people.risk[self._orders.customer])
        self._transactions = make_transactions(
            self._rng(6), self._people, self._accounts, self._orders, self._loans, scale
        )
        self._transitions = make_transitions(self._orders, self._loans)

    @functools.cached_property
    def cpfs(self) -> frozenset[str]:
        """The CPFs of every customer who ever arrives."""
        return frozenset(self._people.cpf.to_pylist())

    def _rng(self, stream: int) -> np.random.Generator:
        """A generator of its own for each area: a change in one leaves the others as they are."""
        return np.random.Generator(np.random.PCG64([self.seed, stream]))

    def tables(self, day: date) -> Iterator[tuple[str, pa.Table]]:
        """Yields every table as of the end of `day`."""
        self._check(day)
        end = tl.end_of(day)
        uuids = self._orders.uuid
        yield "customers", self._people.table(_before(self._people.created, end), end)
        yield "consents", self._consents.table(_before(self._consents.granted, end), end)
        yield "credit_orders", self._transitions.orders(self._orders, self._transitions.until(end))
        yield "credit_order_events", make_order_events(self._transitions).table(end, uuids)
        yield "risk_evaluations", self._evaluations.table(_before(self._evaluations.created, end), uuids)
        created = self._loans.moments[0]
        yield "installments", self._loans.installments(_before(created, end), end, uuids)
        yield "loan_payments", self._loans.payments(_before(self._loans.payment_created, end), uuids)
        yield "loan_events", self._loans.events(_before(self._loans.event_created, end), uuids)
        yield "bank_accounts", self._accounts.table(_before(self._accounts.connected, end))
        arrived = int(np.searchsorted(self._transactions.created, end))
        yield "bank_transactions", self._transactions.table(0, arrived)

    def changes(self, day: date) -> Iterator[Change]:
        """Yields what happens on `day`, parents before children."""
        self._check(day)
        begin, end = tl.end_of(day - timedelta(days=1)), tl.end_of(day)
        uuids = self._orders.uuid
        people, consents, loans = self._people, self._consents, self._loans

        def new(moments: np.ndarray) -> np.ndarray:
            return np.arange(np.searchsorted(moments, begin), np.searchsorted(moments, end))

        def touched(created: np.ndarray, changes: np.ndarray) -> np.ndarray:
            today = ((changes >= begin) & (changes < end)).any(axis=0)
            return np.flatnonzero(today & (created < begin))

        yield Change("insert", "customers", people.table(new(people.created), end))
        yield Change("update", "customers", people.table(touched(people.created, people.changed.T), end))
        yield Change("insert", "consents", consents.table(new(consents.granted), end))
        revoked = touched(consents.granted, consents.revoked[None])
        yield Change("update", "consents", consents.table(revoked, end))
        kind = "insert"
        for step in self._transitions.of_day(begin, end):
            yield Change(kind, "credit_orders", self._transitions.orders(self._orders, step))
            kind = "update"
        evaluations = self._evaluations
        yield Change("insert", "risk_evaluations", evaluations.table(new(evaluations.created), uuids))
        created = loans.moments[0]
        yield Change("insert", "installments", loans.installments(new(created), end, uuids))
        changed = touched(created, loans.moments[1:])
        yield Change("update", "installments", loans.installments(changed, end, uuids))
        yield Change("insert", "loan_payments", loans.payments(new(loans.payment_created), uuids))
        yield Change("insert", "loan_events", loans.events(new(loans.event_created), uuids))
        yield Change("insert", "bank_accounts", self._accounts.table(new(self._accounts.connected)))
        arrived = np.searchsorted(self._transactions.created, [begin, end])
        yield Change(
            "insert", "bank_transactions", self._transactions.table(int(arrived[0]), int(arrived[1]))
        )

    def events(self, first: date, last: date) -> Iterator[tuple[str, bytes]]:
        """Yields the event log's files of these days; the log begins 90 days before the first date."""
        activity = Activity(self.seed, self._people, self._orders, self._transitions)
        yield from activity.files(first, last)

    def _check(self, day: date) -> None:
        if not tl.START <= day <= tl.LAST_DATE:
            raise SandboxError(f"the world has days from {tl.START} to {tl.LAST_DATE}, not {day}")


def _before(moments: np.ndarray, end: int) -> np.ndarray:
    """Places of a sorted array before `end`."""
    return np.arange(np.searchsorted(moments, end))
