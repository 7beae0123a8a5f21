"""What happens to the money lent: schedules, payments, delays, renegotiations, losses."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from sandbox.worlds.base import SCHEMAS
from sandbox.worlds.synthetic import columns as col
from sandbox.worlds.synthetic import timeline as tl
from sandbox.worlds.synthetic.orders import Orders, price_instalment

_STATUSES = ["open", "partially_paid", "overdue", "paid", "replaced"]
_EVENT_KINDS = ["renegotiated", "written_off", "recovered", "ceded"]
_WRITTEN_OFF, _RECOVERED, _CEDED = 1, 2, 3
_CURRENT, _LATE, _PAID_OFF, _DEFAULTED = range(4)
REPAYMENT_STATUSES = ["current", "late", "paid_off", "defaulted"]
_LONGEST_DELAY = 55  # days; who is later than this never pays, and defaults
_NIGHTLY_JOB = 9 * tl.HOUR + 30 * tl.MINUTE
_NONE = 10_000  # an instalment number no loan has


@dataclass
class Part:
    """Loans repaid by one schedule: the original, or what a renegotiation or a payoff made of the rest.

    Arrays of two dimensions are (loan, instalment); `months` says how many columns count.
    """

    loan: np.ndarray
    version: int
    offset: np.ndarray  # instalments of earlier versions that this schedule repeats
    principal: np.ndarray
    months: np.ndarray
    start: np.ndarray
    due_day: np.ndarray
    principal_due: np.ndarray
    interest_due: np.ndarray
    paid: np.ndarray
    settled: np.ndarray  # when the lender's system knows of the payment
    stop: np.ndarray  # first instalment not paid
    ended: np.ndarray  # when the next version replaced this one

    @property
    def exists(self) -> np.ndarray:
        """Which cells are instalments."""
        return np.arange(self.due_day.shape[1]) < self.months[:, None]


@dataclass
class Loans:
    """Everything that happens after disbursement, in flat arrays; `order` is an index into the orders."""

    order: np.ndarray  # instalments, by time of creation
    version: np.ndarray
    number: np.ndarray
    due_day: np.ndarray
    principal_due: np.ndarray
    interest_due: np.ndarray
    moments: np.ndarray  # (5, instalments): when each of `_STATUSES` began
    payment_order: np.ndarray  # payments, by time of creation
    payment_number: np.ndarray
    paid: np.ndarray
    payment_parts: np.ndarray  # (3, payments): principal, interest, penalty
    reversal_of: np.ndarray  # index of a payment, or -1
    payment_created: np.ndarray
    event_uuid: pa.Array  # loan events, by time of creation
    event_order: np.ndarray
    event_kind: np.ndarray
    event_amount: np.ndarray
    event_at: np.ndarray
    event_created: np.ndarray
    change_order: np.ndarray  # changes of the repayment status, in no particular order
    change_at: np.ndarray
    change_to: np.ndarray

    def installments(self, index: np.ndarray, cutoff: int, order_uuids: pa.Array) -> pa.Table:
        """These instalments as they are just before `cutoff`."""
        moments = self.moments[:, index]
        known = np.where(moments < cutoff, moments, -1)
        # The last thing that happened is the status; of two at once, the later in the list.
        status = len(_STATUSES) - 1 - np.argmax(known[::-1], axis=0)
        return pa.table(
            [
                order_uuids.take(pa.array(self.order[index])),
                col.ints(self.version[index], 32),
                col.ints(self.number[index], 32),
                col.dates(self.due_day[index]),
                col.money(self.principal_due[index] + self.interest_due[index]),
                col.money(self.principal_due[index]),
                col.money(self.interest_due[index]),
                col.texts(status, _STATUSES),
                col.times(known.max(axis=0)),
            ],
            schema=SCHEMAS["installments"],
        )

    def payments(self, index: np.ndarray, order_uuids: pa.Array) -> pa.Table:
        """These payments; they never change."""
        principal, interest, penalty = self.payment_parts[:, index]
        reversal = self.reversal_of[index]
        return pa.table(
            [
                col.ints(index + 1),
                order_uuids.take(pa.array(self.payment_order[index])),
                col.ints(self.payment_number[index], 32),
                col.times(self.paid[index]),
                col.money(principal + interest + penalty),
                col.money(principal),
                col.money(interest),
                col.money(penalty),
                col.ints(reversal + 1, 64, reversal >= 0),
                col.times(self.payment_created[index]),
            ],
            schema=SCHEMAS["loan_payments"],
        )

    def events(self, index: np.ndarray, order_uuids: pa.Array) -> pa.Table:
        """These loan events; they never change."""
        return pa.table(
            [
                self.event_uuid.take(pa.array(index)),
                order_uuids.take(pa.array(self.event_order[index])),
                col.texts(self.event_kind[index], _EVENT_KINDS),
                col.money(self.event_amount[index]),
                pa.nulls(len(index), pa.string()),
                col.times(self.event_at[index]),
                col.times(self.event_created[index]),
            ],
            schema=SCHEMAS["loan_events"],
        )


def make_loans(rng: np.random.Generator, orders: Orders, risk: np.ndarray) -> Loans:
    """Generates the life of every disbursed order. `risk` is that of each order's customer."""
    loan = np.flatnonzero(orders.disbursed < tl.NEVER)
    danger = risk[loan] + 0.7 * rng.standard_normal(len(loan))
    first = _schedule(
        loan,
        version=1,
        offset=np.zeros(len(loan), np.int64),
        principal=orders.approved[loan],
        rate=orders.rate[loan] / 1e6,
        months=orders.term[loan],
        start=orders.disbursed[loan],
    )
    _behave(rng, first, danger, hazard=0.010)
    parts = [first, _renegotiate(rng, first, danger, orders), _pay_off_early(rng, first, orders)]
    recovered = [_lose(rng, part) for part in parts]
    return _flatten(rng, parts, recovered)


def _schedule(
    loan: np.ndarray,
    version: int,
    offset: np.ndarray,
    principal: np.ndarray,
    rate: np.ndarray,
    months: np.ndarray,
    start: np.ndarray,
) -> Part:
    """French amortisation in whole cents: the last instalment takes what rounding left."""
    width = int(months.max(initial=1))
    shape = (len(loan), width)
    principal_due, interest_due, due_day = (np.zeros(shape, np.int64) for _ in range(3))
    instalment = price_instalment(principal, rate, months)
    balance = principal.copy()
    start_day = tl.local_day(start)
    day_of_month = np.minimum(tl.day_of_month(start_day), 28)
    for column in range(width):
        exists = column < months
        interest = np.where(exists, np.rint(balance * rate).astype(np.int64), 0)
        repaid = np.where(column == months - 1, balance, np.minimum(instalment - interest, balance))
        repaid = np.where(exists, repaid, 0)
        principal_due[:, column], interest_due[:, column] = repaid, interest
        due_day[:, column] = tl.add_months(start_day, column + 1, day_of_month)
        balance -= repaid
    return Part(
        loan=loan,
        version=version,
        offset=offset,
        principal=principal,
        months=months,
        start=start,
        due_day=due_day,
        principal_due=principal_due,
        interest_due=interest_due,
        paid=np.full(shape, tl.NEVER),
        settled=np.full(shape, tl.NEVER),
        stop=np.full(len(loan), _NONE),
        ended=np.full(len(loan), tl.NEVER),
    )


def _behave(rng: np.random.Generator, part: Part, danger: np.ndarray, hazard: float) -> None:
    """Decides when each instalment is paid, and from which one on none is."""
    shape = part.due_day.shape
    chance = np.clip(hazard * np.exp(0.85 * danger), 0, 0.5)
    stop = np.floor(rng.exponential(1, len(part.loan)) / chance).astype(np.int64)
    part.stop = np.where(stop < part.months, stop, _NONE)
    late_chance = 1 / (1 + np.exp(1.9 - 0.9 * danger))
    late = rng.random(shape) < late_chance[:, None]
    days_late = 1 + np.minimum(rng.exponential(9, shape), _LONGEST_DELAY - 1).astype(np.int64)
    days_early = (rng.random(shape) ** 2 * 4).astype(np.int64)
    day = part.due_day + np.where(late, days_late, -days_early)
    paid = tl.at(day, tl.app_time(rng, day.size).reshape(shape))
    # A payment by slip is known the next morning, one by Pix within minutes.
    slip = rng.random(shape) < 0.3
    morning = tl.at(day + 1, rng.integers(5 * tl.HOUR, 7 * tl.HOUR, shape))
    settled = np.where(slip, morning, paid + rng.integers(20 * tl.SECOND, 15 * tl.MINUTE, shape))
    # Nobody pays an instalment before the one that came due earlier.
    happens = part.exists & (np.arange(shape[1]) < part.stop[:, None])
    part.paid = np.where(happens, np.maximum.accumulate(paid, axis=1), tl.NEVER)
    part.settled = np.where(happens, np.maximum.accumulate(settled, axis=1), tl.NEVER)


def _renegotiate(rng: np.random.Generator, first: Part, danger: np.ndarray, orders: Orders) -> Part:
    """Some who stopped paying agree on a new schedule for the rest. Those loans default more often."""
    stopped = np.flatnonzero(first.stop < _NONE)
    who = stopped[rng.random(len(stopped)) < 0.32]
    stop = first.stop[who]
    day = first.due_day[who, stop] + rng.integers(40, 80, len(who))
    when = tl.at(day, rng.integers(9 * tl.HOUR, 18 * tl.HOUR, len(who)))
    first.ended[who] = when
    months = np.clip(first.months[who] - stop + rng.integers(0, 7, len(who)), 3, 48)
    loan = first.loan[who]
    part = _schedule(
        loan,
        version=2,
        offset=stop,
        principal=_owed(first, who, stop),
        rate=np.floor(orders.rate[loan] * 0.8 / 100) / 10_000,
        months=months,
        start=when,
    )
    _behave(rng, part, danger[who], hazard=0.03)
    return part


def _pay_off_early(rng: np.random.Generator, first: Part, orders: Orders) -> Part:
    """Some pay all the rest at once: a new schedule with one instalment, due and paid that day."""
    able = np.flatnonzero((first.stop == _NONE) & (first.months >= 6))
    who = able[rng.random(len(able)) < 0.06]
    number = rng.integers(3, first.months[who])
    settled = first.settled[who, number - 1]
    when = np.maximum(settled, tl.at(first.due_day[who, number - 1], 0))
    when = tl.at(tl.local_day(when) + rng.integers(2, 15, len(who)), tl.app_time(rng, len(who)))
    loan = first.loan[who]
    principal = _owed(first, who, number)
    days = np.maximum(tl.local_day(when) - first.due_day[who, number - 1], 0)
    known = when + rng.integers(20 * tl.SECOND, 15 * tl.MINUTE, len(who))
    first.ended[who] = known
    later = np.arange(first.due_day.shape[1]) >= number[:, None]
    for moments in (first.paid, first.settled):
        moments[who] = np.where(later, tl.NEVER, moments[who])
    part = _schedule(
        loan,
        version=2,
        offset=number,
        principal=principal,
        rate=orders.rate[loan] / 1e6,
        months=np.ones(len(who), np.int64),
        start=known,
    )
    part.due_day[:, 0] = tl.local_day(when)
    part.interest_due[:, 0] = np.rint(principal * orders.rate[loan] / 1e6 * days / 30).astype(np.int64)
    part.paid[:, 0] = when
    part.settled[:, 0] = known
    # The first schedule repaid what came before.
    first.stop[who] = number
    return part


def _owed(part: Part, who: np.ndarray, number: np.ndarray) -> np.ndarray:
    """Principal of the instalments from `number` on."""
    rest = np.arange(part.due_day.shape[1]) >= number[:, None]
    return (part.principal_due[who] * rest).sum(axis=1)


@dataclass
class Losses:
    """Loans written off, and what came back."""

    who: np.ndarray  # rows of the part
    amount: np.ndarray
    written_off: np.ndarray
    recovered: np.ndarray  # when, or never
    recovered_amount: np.ndarray
    ceded: np.ndarray
    ceded_amount: np.ndarray


def _lose(rng: np.random.Generator, part: Part) -> Losses:
    """Writes off loans 180 days past due; of some a few instalments come back, some are sold."""
    who = np.flatnonzero((part.stop < _NONE) & (part.ended == tl.NEVER))
    stop = part.stop[who]
    size = len(who)
    written_off = tl.at(part.due_day[who, stop] + 181, 4 * tl.HOUR) + np.arange(size) % 997 * tl.SECOND
    amount = _owed(part, who, stop)
    fate = rng.random(size)
    left = part.months[who] - stop
    back = (fate < 0.28) & (left >= 2)
    day = part.due_day[who, stop] + 181 + rng.integers(20, 150, size)
    recovered = np.where(back, tl.at(day, tl.app_time(rng, size)), tl.NEVER)
    count = np.where(back, np.minimum(rng.integers(1, 4, size), left - 1), 0)
    columns = np.arange(part.due_day.shape[1])
    paid = (columns >= stop[:, None]) & (columns < (stop + count)[:, None])
    known = recovered + rng.integers(20 * tl.SECOND, 15 * tl.MINUTE, size)
    part.paid[who] = np.where(paid, recovered[:, None], part.paid[who])
    part.settled[who] = np.where(paid, known[:, None], part.settled[who])
    due = part.principal_due[who] + part.interest_due[who]
    sold = (fate > 0.8) & (amount > 100_000)
    price = np.rint(amount * rng.uniform(0.04, 0.13, size)).astype(np.int64)
    return Losses(
        who=who,
        amount=amount,
        written_off=written_off,
        recovered=recovered,
        recovered_amount=(due * paid).sum(axis=1),
        ceded=np.where(sold, written_off + rng.integers(30, 90, size) * tl.DAY, tl.NEVER),
        ceded_amount=price,
    )


def _flatten(rng: np.random.Generator, parts: list[Part], losses: list[Losses]) -> Loans:
    """Turns the parts into tables of instalments, payments, events and changes of status."""
    rows: list[dict[str, np.ndarray]] = []
    for part in parts:
        line, column = np.nonzero(part.exists)
        rows.append(
            {
                "order": part.loan[line],
                "version": np.full(len(line), part.version),
                "number": part.offset[line] + column + 1,
                "due_day": part.due_day[line, column],
                "principal": part.principal_due[line, column],
                "interest": part.interest_due[line, column],
                "created": part.start[line],
                "paid": part.paid[line, column],
                "settled": part.settled[line, column],
                "ended": part.ended[line],
                "copy": np.zeros(len(line), bool),
            }
        )
    rows += [_repeated(parts[0], part) for part in parts[1:]]
    flat = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    by_time = np.lexsort((flat["number"], flat["version"], flat["order"], flat["created"]))
    flat = {name: values[by_time] for name, values in flat.items()}

    job = _NIGHTLY_JOB + flat["order"] * 37_003 % tl.MINUTE
    closed = np.minimum(flat["settled"], flat["ended"])
    overdue = tl.at(flat["due_day"] + 1, job)
    overdue = np.where((overdue < closed) & ~flat["copy"], overdue, tl.NEVER)
    ninety = tl.at(flat["due_day"] + 91, job + tl.SECOND)
    ninety = np.where((ninety < closed) & ~flat["copy"], ninety, tl.NEVER)
    ledger, partial = _ledger(rng, flat)
    flat["ended"] = np.where(flat["settled"] < flat["ended"], tl.NEVER, flat["ended"])
    moments = np.stack([flat["created"], partial, overdue, flat["settled"], flat["ended"]])
    return Loans(
        order=flat["order"],
        version=flat["version"],
        number=flat["number"],
        due_day=flat["due_day"],
        principal_due=flat["principal"],
        interest_due=flat["interest"],
        moments=moments,
        **ledger,
        **_events(rng, parts, losses),
        **_status_changes(flat, overdue, closed, ninety),
    )


def _repeated(first: Part, part: Part) -> dict[str, np.ndarray]:
    """Rows of a second schedule that repeat the instalments already paid, unchanged."""
    place = np.searchsorted(first.loan, part.loan)
    repeats = np.arange(first.due_day.shape[1]) < part.offset[:, None]
    line, column = np.nonzero(repeats)
    source = place[line]
    return {
        "order": part.loan[line],
        "version": np.full(len(line), 2),
        "number": column + 1,
        "due_day": first.due_day[source, column],
        "principal": first.principal_due[source, column],
        "interest": first.interest_due[source, column],
        "created": part.start[line],
        "paid": part.start[line],
        "settled": part.start[line],
        "ended": np.full(len(line), tl.NEVER),
        "copy": np.ones(len(line), bool),
    }


def _ledger(
    rng: np.random.Generator, flat: dict[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Payments of the instalments: whole, in two parts, or bounced and repeated."""
    source = np.flatnonzero((flat["settled"] < tl.NEVER) & ~flat["copy"])
    size = len(source)
    number, order = flat["number"][source], flat["order"][source]
    paid, settled = flat["paid"][source], flat["settled"][source]
    principal, interest = flat["principal"][source], flat["interest"][source]
    due = principal + interest
    days_late = np.maximum(tl.local_day(paid) - flat["due_day"][source], 0)
    # 2% fine and 1% a month, as Brazilian contracts have it; waived when the loan was written off.
    penalty = np.rint(due * (0.02 + days_late / 3_000)).astype(np.int64)
    penalty = np.where((days_late > 0) & (days_late <= 180), penalty, 0)

    draw = rng.random(size)
    # Enough time since the previous instalment for something to happen in between.
    previous = np.where(
        np.append(False, flat["number"][1:] > flat["number"][:-1]), np.roll(flat["paid"], 1), 0
    )
    since = paid - np.maximum(previous, flat["created"])[source]
    ordinary = (since > 10 * tl.DAY) & (days_late <= 180)
    lag = rng.integers(20 * tl.SECOND, 15 * tl.MINUTE, size)
    # The first part, or the payment that bounces, comes some days before.
    earlier = rng.integers(tl.DAY, 8 * tl.DAY, size)
    halved = np.flatnonzero(ordinary & (draw < 0.03) & (due > 100))
    split = np.minimum(np.rint(due * rng.uniform(0.3, 0.7, size)).astype(np.int64), due - 1)[halved]
    split_interest = np.minimum(split, interest[halved])
    split_principal = split - split_interest
    split_paid = (paid - earlier)[halved]
    partial = np.full(len(flat["order"]), tl.NEVER)
    partial[source[halved]] = split_paid + lag[halved]

    rest = np.stack([principal, interest, penalty])
    rest[:2, halved] -= np.stack([split_principal, split_interest])
    bounced = np.flatnonzero(ordinary & (draw > 0.9955))
    bounced_paid = (paid - earlier)[bounced]
    returned = bounced_paid + rng.integers(3 * tl.HOUR, 20 * tl.HOUR, len(bounced))
    bounced_parts = np.stack([principal[bounced], interest[bounced], np.zeros(len(bounced), np.int64)])
    nothing = np.zeros(len(halved), np.int64)
    pieces = [  # which instalments, paid at, known at, parts
        (np.arange(size), paid, settled, rest),
        (halved, split_paid, split_paid + lag[halved], np.stack([split_principal, split_interest, nothing])),
        (bounced, bounced_paid, bounced_paid + lag[bounced], bounced_parts),
        (bounced, returned, returned + lag[bounced], -bounced_parts),
    ]
    which, paid, created = (np.concatenate([piece[place] for piece in pieces]) for place in range(3))
    parts = np.concatenate([piece[3] for piece in pieces], axis=1)
    reverses = np.full(len(which), -1)
    if len(bounced):
        reverses[-len(bounced) :] = np.arange(len(bounced)) + len(which) - 2 * len(bounced)
    by_time = np.lexsort((number[which], order[which], created))
    new_place = np.empty(len(which), np.int64)
    new_place[by_time] = np.arange(len(which))
    reverses = np.where(reverses < 0, -1, new_place[reverses])
    which = which[by_time]
    ledger = {
        "payment_order": order[which],
        "payment_number": number[which],
        "paid": paid[by_time],
        "payment_parts": parts[:, by_time],
        "reversal_of": reverses[by_time],
        "payment_created": created[by_time],
    }
    return ledger, partial


def _events(
    rng: np.random.Generator, parts: list[Part], losses: list[Losses]
) -> dict[str, np.ndarray | pa.Array]:
    """Loan events: renegotiations, write-offs, recoveries, cessions."""
    renegotiated = parts[1]
    rows = [(renegotiated.loan, 0, renegotiated.principal, renegotiated.start)]
    for part, loss in zip(parts, losses, strict=True):
        order = part.loan[loss.who]
        rows.append((order, _WRITTEN_OFF, loss.amount, loss.written_off))
        rows.append((order, _RECOVERED, loss.recovered_amount, loss.recovered))
        rows.append((order, _CEDED, loss.ceded_amount, loss.ceded))
    order, amount, when = (np.concatenate([row[place] for row in rows]) for place in (0, 2, 3))
    kind = np.concatenate([np.full(len(row[0]), row[1]) for row in rows])
    created = when + rng.integers(tl.SECOND, 2 * tl.HOUR, len(when))
    happens = np.flatnonzero(when < tl.NEVER)
    by_time = happens[np.lexsort((kind[happens], order[happens], created[happens]))]
    return {
        "event_uuid": col.uuids(rng, len(by_time)),
        "event_order": order[by_time],
        "event_kind": kind[by_time],
        "event_amount": amount[by_time],
        "event_at": when[by_time],
        "event_created": created[by_time],
    }


def _status_changes(
    flat: dict[str, np.ndarray], overdue: np.ndarray, closed: np.ndarray, ninety: np.ndarray
) -> dict[str, np.ndarray]:
    """Changes of an order's repayment status, from what is overdue when."""
    size = int(flat["order"].max(initial=0)) + 1
    # An order is late while any instalment is overdue: overlapping spells are one.
    spells = np.flatnonzero(overdue < tl.NEVER)
    spells = spells[np.lexsort((overdue[spells], flat["order"][spells]))]
    order, begin, end = flat["order"][spells], overdue[spells], closed[spells]
    # Instalments are paid in order, so the end of the previous spell is the latest end so far.
    opens = np.ones(len(spells), bool)
    opens[1:] = (order[1:] != order[:-1]) | (begin[1:] > end[:-1])
    closes = np.append(opens[1:], True)[: len(spells)]

    defaulted = np.full(size, tl.NEVER)
    np.minimum.at(defaulted, flat["order"], ninety)
    in_force = ~flat["copy"] & (flat["ended"] == tl.NEVER)
    paid_off = np.zeros(size, np.int64)
    replaced = ~in_force & (flat["settled"] == tl.NEVER)
    last = np.where(replaced, 0, flat["settled"])
    np.maximum.at(paid_off, flat["order"], last)
    order_of_paid = np.flatnonzero((paid_off > 0) & (paid_off < tl.NEVER))
    order_of_default = np.flatnonzero(defaulted < tl.NEVER)
    back = closes & (end < tl.NEVER)
    back[back] = end[back] != paid_off[order[back]]
    changes = [
        (order[opens], begin[opens], _LATE),
        (order[back], end[back], _CURRENT),
        (order_of_paid, paid_off[order_of_paid], _PAID_OFF),
        (order_of_default, defaulted[order_of_default], _DEFAULTED),
    ]
    who, when = (np.concatenate([change[place] for change in changes]) for place in (0, 1))
    to = np.concatenate([np.full(len(change[0]), change[2]) for change in changes])
    kept = when <= defaulted[who]  # a default is for good
    return {"change_order": who[kept], "change_at": when[kept], "change_to": to[kept]}
