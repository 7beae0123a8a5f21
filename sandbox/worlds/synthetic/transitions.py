"""The states an order goes through, and the events the database's trigger records of them."""

import json
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from sandbox.worlds.base import SCHEMAS
from sandbox.worlds.synthetic import columns as col
from sandbox.worlds.synthetic import timeline as tl
from sandbox.worlds.synthetic.loans import REPAYMENT_STATUSES, Loans
from sandbox.worlds.synthetic.orders import APPROVED, CANCELLED, IN_REVIEW, REJECTED, STATUSES, Orders

CREATED, DECIDED, DISBURSED, REPAYMENT = range(4)
_CURRENT = 0
_NO_STATUS = -1
_EVENT_TYPES = ["created", "approved", "rejected", "cancelled", "disbursed", "repayment_status_changed"]
_DISBURSED_EVENT, _REPAYMENT_EVENT = 4, 5
_ACTORS = ["customer", "system"]


def _payloads() -> list[str]:
    """What the trigger writes of a change from one repayment status to another; the first is empty."""
    texts = ["{}"]
    for old in [None, *REPAYMENT_STATUSES]:
        texts += [json.dumps({"from": old, "to": new}) for new in REPAYMENT_STATUSES]
    return texts


@dataclass
class Transitions:
    """Every change of an order, by order and time; the first of each is its creation."""

    order: np.ndarray
    at: np.ndarray
    kind: np.ndarray
    status: np.ndarray
    repayment: np.ndarray
    first: np.ndarray  # of each order, the place of its creation

    def until(self, cutoff: int) -> np.ndarray:
        """The last transition before `cutoff` of each order that exists then."""
        seen = self.at < cutoff
        count = np.bincount(self.order[seen], minlength=len(self.first))
        return (self.first + count - 1)[count > 0]

    def of_day(self, begin: int, end: int) -> list[np.ndarray]:
        """Transitions in [begin, end): first the creations, then each order's next, and so on."""
        today = np.flatnonzero((self.at >= begin) & (self.at < end))
        creations = today[self.kind[today] == CREATED]
        changes = today[self.kind[today] != CREATED]
        order = self.order[changes]
        new = np.append(True, order[1:] != order[:-1]) if len(order) else np.empty(0, bool)
        places = np.arange(len(order))
        rank = places - np.maximum.accumulate(np.where(new, places, 0)) if len(order) else places
        return [creations] + [changes[rank == step] for step in range(int(rank.max(initial=-1)) + 1)]

    def orders(self, orders: Orders, places: np.ndarray) -> pa.Table:
        """The orders as they are right after these transitions."""
        return orders.table(
            self.order[places],
            self.at[places] + 1,
            self.status[places],
            col.texts(self.repayment[places], REPAYMENT_STATUSES),
            self.at[places],
        )


def make_transitions(orders: Orders, loans: Loans) -> Transitions:
    """Puts everything that happens to orders in one line."""
    everything = np.arange(len(orders))
    cancelled = np.flatnonzero(orders.cancelled < tl.NEVER)
    decided = np.flatnonzero(orders.decided < tl.NEVER)
    disbursed = np.flatnonzero(orders.disbursed < tl.NEVER)
    parts = [  # order, when, kind, repayment status
        (everything, orders.created, CREATED, _NO_STATUS),
        (cancelled, orders.cancelled[cancelled], DECIDED, _NO_STATUS),
        (decided, orders.decided[decided], DECIDED, _NO_STATUS),
        (disbursed, orders.disbursed[disbursed], DISBURSED, _CURRENT),
        (loans.change_order, loans.change_at, REPAYMENT, loans.change_to),
    ]
    order, at = (np.concatenate([part[place] for part in parts]) for place in (0, 1))
    kind, repayment = (
        np.concatenate([np.broadcast_to(part[place], len(part[0])) for part in parts]) for place in (2, 3)
    )
    line = np.lexsort((kind, at, order))
    order, at, kind, repayment = order[line], at[line], kind[line], repayment[line]
    status = np.where(kind == CREATED, IN_REVIEW, orders.outcome[order])
    return Transitions(order, at, kind, status, repayment, np.flatnonzero(kind == CREATED))


@dataclass
class OrderEvents:
    """What the trigger writes, computed for a load of the whole past (and compared in the tests)."""

    order: np.ndarray
    seq: np.ndarray
    event_type: np.ndarray
    from_status: np.ndarray
    to_status: np.ndarray
    payload: np.ndarray
    at: np.ndarray

    def table(self, cutoff: int, order_uuids: pa.Array) -> pa.Table:
        """Events before `cutoff`."""
        index = np.flatnonzero(self.at < cutoff)
        event_type = self.event_type[index]
        return pa.table(
            [
                order_uuids.take(pa.array(self.order[index])),
                col.ints(self.seq[index], 32),
                col.texts(event_type, _EVENT_TYPES),
                col.texts(self.from_status[index], STATUSES),
                col.texts(self.to_status[index], STATUSES),
                col.texts((event_type > 0).astype(np.int8), _ACTORS),
                col.texts(self.payload[index], _payloads()),
                col.times(self.at[index]),
            ],
            schema=SCHEMAS["credit_order_events"],
        )


def make_order_events(transitions: Transitions) -> OrderEvents:
    """Derives the events: a disbursement is two, since the repayment status begins with it."""
    count = np.where(transitions.kind == DISBURSED, 2, 1)
    source = np.repeat(np.arange(len(count)), count)
    second = np.append(False, source[1:] == source[:-1])
    kind, order = transitions.kind[source], transitions.order[source]
    to_status = transitions.status[source]
    decision = np.select([to_status == APPROVED, to_status == REJECTED, to_status == CANCELLED], [1, 2, 3])
    event_type = np.select(
        [kind == CREATED, kind == DECIDED, (kind == DISBURSED) & ~second],
        [0, decision, _DISBURSED_EVENT],
        _REPAYMENT_EVENT,
    )
    from_status = np.select([kind == CREATED, kind == DECIDED], [_NO_STATUS, IN_REVIEW], to_status)
    # The repayment status before, of the same order (an order begins with none).
    before = np.append(_NO_STATUS, transitions.repayment[:-1])[source]
    payload = 1 + (before + 1) * len(REPAYMENT_STATUSES) + transitions.repayment[source]
    begins = np.flatnonzero(np.append(True, order[1:] != order[:-1]))
    lengths = np.diff(np.append(begins, len(order)))
    seq = np.arange(len(order)) - np.repeat(begins, lengths) + 1
    return OrderEvents(
        order,
        seq,
        event_type,
        from_status,
        to_status,
        np.where(event_type == _REPAYMENT_EVENT, payload, 0),
        transitions.at[source],
    )
