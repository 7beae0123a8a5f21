"""Known bad data and deletions on top of a generated world, and the truth about them.

Everything happens to records of its own (keys far above the world's), so the world itself stays as it is
to the byte. A record lives through steps, one a day: it is inserted, gets another version, is deleted. A
step says which rules of the warehouse it breaks; the sum of all steps is the truth that tests compare with.

Cursor columns (`updated_at`; `created_at` of tables that are only appended to) are never in the future: a
watermark of the ingestion would then leave out everything real that follows.
"""

import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from itertools import count
from typing import Any

import numpy as np
import pyarrow as pa

from sandbox.worlds.base import KEYS, SCHEMAS, TABLES, Change
from sandbox.worlds.synthetic.world import SyntheticWorld

Row = dict[str, Any]

_STREAM = 77
_LONGEST_LIFE = 7
"""Days from a record's first step to its last, at most."""
_SCHEMA_CHANGE_AFTER = 2
"""Days from the first dirty one to the one on which customers get a column more."""
NEW_COLUMN = "preferred_channel"
_FIRST_KEY = 900_000_000
_NAMESPACE = uuid.UUID("6f1c1b0e-6d0e-5a5c-9d55-2a0b6f7d9a11")

_ROWS_A_DAY = {
    "customers": 7,
    "consents": 10,
    "credit_orders": 27,
    "credit_order_events": 60,
    "risk_evaluations": 28,
    "installments": 250,
    "loan_payments": 200,
    "loan_events": 1,
    "bank_accounts": 6,
    "bank_transactions": 820,
    "events": 900,
}
"""About how many rows of a table a day brings at scale 1."""

APPEND_ONLY = ("credit_order_events", "risk_evaluations", "loan_payments", "loan_events", "bank_transactions")
_DELETED = (
    "customers",
    "consents",
    "risk_evaluations",
    "installments",
    "loan_events",
    "bank_accounts",
    "bank_transactions",
)
"""Tables whose records may be deleted: the ledger, orders and their events are kept by law."""

_CHILDREN = {
    "customers": ("consents", "credit_orders", "bank_accounts"),
    "credit_orders": ("loan_payments",),
    "bank_accounts": ("bank_transactions",),
}

ABSURD = Decimal("999999999999.99")


@dataclass(frozen=True)
class Step:
    """What happens to a record on a day: a version that breaks `reasons` (none: a good one), or its end."""

    day: date
    kind: str
    row: Row
    reasons: tuple[str, ...] = ()


@dataclass
class Life:
    """The steps of one record, in order."""

    table: str
    key: tuple
    steps: list[Step] = field(default_factory=list)


@dataclass(frozen=True)
class _Case:
    """A way to be bad: values that replace good ones, and the rules they break."""

    values: Row
    reasons: tuple[str, ...]


def _case(reasons: str, **values: object) -> _Case:
    return _Case(values, tuple(reasons.split()))


_FUTURE, _ANCIENT = datetime(2199, 5, 5, 12, tzinfo=UTC), datetime(1871, 9, 28, 12, tzinfo=UTC)

CASES: dict[str, list[_Case]] = {
    "customers": [
        _case("cpf_invalid", cpf="wrong check digit"),
        _case("cpf_invalid", cpf="a digit short"),
        _case("cpf_invalid", cpf="a letter in it"),
        _case("email_invalid", email="ana.lima.example.com"),
        _case("email_invalid", email="ana lima@example.com"),
        _case("email_invalid", email="ana@example"),
        _case("state_unknown", state="XX"),
        _case("monthly_income_out_of_range", monthly_income=Decimal("-1500.00")),
        _case("monthly_income_out_of_range", monthly_income=ABSURD),
        _case("birth_date_out_of_range", birth_date=date(1799, 1, 1)),
        _case("birth_date_out_of_range", birth_date=date(2199, 1, 1)),
        _case("created_at_out_of_range", created_at=_FUTURE),
        _case("created_at_out_of_range", created_at=_ANCIENT),
        _case(
            "email_invalid monthly_income_out_of_range state_unknown",
            email="@",
            monthly_income=Decimal("-0.01"),
            state="zz",
        ),
    ],
    "consents": [
        _case("revoked_before_granted", revoked_at=_ANCIENT),
        _case("expires_before_granted", expires_at=_ANCIENT),
    ],
    "credit_orders": [
        _case("currency_unknown", currency="R$"),
        _case("currency_unknown", currency="XX1"),
        _case("requested_amount_out_of_range", requested_amount=Decimal("-500.00")),
        _case("requested_amount_out_of_range", requested_amount=ABSURD),
        _case("term_months_out_of_range", term_months=0),
        _case("interest_rate_out_of_range", interest_rate=Decimal("-0.050000")),
        _case("decision_inconsistent", status="approved"),
        _case("decision_inconsistent", decided_at="created_at"),
        _case("decided_before_created", status="rejected", decided_at="before created_at"),
        _case("decided_at_out_of_range", status="rejected", decided_at=_FUTURE),
        _case(
            "disbursed_without_approval",
            status="cancelled",
            disbursed_at="created_at",
            disbursed_amount=Decimal("90.00"),
        ),
        _case("currency_unknown term_months_out_of_range", currency="", term_months=-12),
    ],
    "credit_order_events": [_case("status_unknown", to_status="moon")],
    "risk_evaluations": [
        _case("score_out_of_range", score=-5),
        _case("score_out_of_range", score=100_000),
        _case("latency_out_of_range", latency_ms=-1),
        _case("evaluated_at_out_of_range", evaluated_at=_FUTURE),
    ],
    "installments": [
        _case("due_amount_out_of_range", due_amount=Decimal("-10.00")),
        _case("due_date_out_of_range", due_date=date(1800, 1, 1)),
        _case("due_date_out_of_range", due_date=date(2999, 12, 31)),
        _case("due_amount_out_of_range", due_amount=ABSURD),
    ],
    "loan_payments": [
        _case("negative_without_reversal", amount=Decimal("-5.00")),
        _case("amount_out_of_range", amount=ABSURD),
        _case("paid_at_out_of_range", paid_at=_FUTURE),
        _case("paid_at_out_of_range", paid_at=_ANCIENT),
    ],
    "loan_events": [
        _case("amount_out_of_range", amount=Decimal("-1.00")),
        _case("occurred_at_out_of_range", occurred_at=_FUTURE),
    ],
    "bank_accounts": [
        _case("opened_at_out_of_range", opened_at=_FUTURE),
        _case("bank_code_missing", bank_code=" "),
    ],
    "bank_transactions": [
        _case("currency_unknown", currency="XXR"),
        _case("amount_out_of_range", amount=-ABSURD),
        _case("booked_at_out_of_range", booked_at=_FUTURE),
        _case("booked_at_out_of_range", booked_at=_ANCIENT),
    ],
    "events": [
        _case("occurred_at_out_of_range", occurred_at=_FUTURE),
        _case("occurred_at_out_of_range", occurred_at=_ANCIENT),
        _case("actor_unknown", actor="robot"),
    ],
}
"""The ways to be bad, by table. Names of rules are those of the warehouse's models."""

# What a record lives through: b a bad version, B one that breaks another rule, g a good one, d its end.
_SHAPES = ("b", "bg", "gb", "gbg", "bBg")
_ENDING = ("bd", "gbd")


class DirtyWorld:
    """A generated world with bad data (`rate`, the share of a day's rows) and `deletes`, from `since` on.

    `tables` is the world without them: what happens on the first dirty day comes by `dirt_of`, also when
    that is the day the world begins with.
    """

    def __init__(self, world: SyntheticWorld, rate: float, deletes: bool, since: date) -> None:
        self.name, self.seed, self.scale = world.name, world.seed, world.scale
        self.first_date, self.last_date = world.first_date, world.last_date
        self._world = world
        self._rate, self._deletes, self._since = rate, deletes, since
        self._lives: dict[date, list[Life]] = {}

    def tables(self, day: date) -> Iterator[tuple[str, pa.Table]]:
        """Yields the tables of the world itself."""
        yield from self._world.tables(day)

    def changes(self, day: date) -> Iterator[Change]:
        """Yields what happens on `day`: the world's own changes, then the dirt."""
        yield from self._world.changes(day)
        yield from self.dirt_of(day)

    def dirt_of(self, day: date) -> Iterator[Change]:
        """Yields the bad rows, corrections and deletions of `day`: parents before children, ends last."""
        if day == self._since + timedelta(days=_SCHEMA_CHANGE_AFTER):
            yield Change("add column", "customers", pa.table({NEW_COLUMN: pa.array([], pa.string())}))
        today = [(life, step) for life in self._until(day) for step in life.steps if step.day == day]
        for kind, tables in (("insert", TABLES), ("update", TABLES), ("delete", TABLES[::-1])):
            for table in tables:
                rows = [step.row for life, step in today if life.table == table and step.kind == kind]
                if rows:
                    yield Change(kind, table, _arrow(table, kind, rows))

    def events(self, first: date, last: date) -> Iterator[tuple[str, bytes]]:
        """Yields the world's own files of the event log, and one of each dirty day."""
        yield from self._world.events(first, last)
        day = max(first, self._since)
        while day <= last:
            lines = [
                json.dumps(step.row, default=_iso)
                for life in self._born(day)
                if life.table == "events"
                for step in life.steps
            ]
            if lines:
                # a webhook sends some of them again: duplicates, good and bad ones
                yield f"{day:%Y-%m-%d}/15-resent.jsonl.gz", ("\n".join([*lines, lines[-1]]) + "\n").encode()
            day += timedelta(days=1)

    def truth(self, day: date) -> Iterator[dict[str, Any]]:
        """Yields what is true at the end of `day` of bad versions and of deleted records.

        Of a bad version: table, key, day, the rules broken, and the day it was made good or deleted.
        """
        for life in self._until(day, everything=True):
            steps = [step for step in life.steps if step.day <= day]
            for place, step in enumerate(steps):
                record = {"table": life.table, "key": [str(value) for value in life.key]}
                if step.kind == "delete":
                    yield {"fate": "deleted"} | record | {"day": step.day.isoformat()}
                elif step.reasons:
                    good = (later.day.isoformat() for later in steps[place + 1 :] if not later.reasons)
                    yield (
                        {"fate": "quarantined"}
                        | record
                        | {
                            "day": step.day.isoformat(),
                            "reasons": sorted(step.reasons),
                            "resolved": next(good, None),
                        }
                    )

    def _until(self, day: date, everything: bool = False) -> Iterator[Life]:
        """The lives that may have a step on `day`, or all that have begun."""
        born = self._since if everything else max(self._since, day - timedelta(days=_LONGEST_LIFE))
        while born <= day:
            yield from self._born(born)
            born += timedelta(days=1)

    def _born(self, day: date) -> list[Life]:
        if day not in self._lives:
            rng = np.random.Generator(np.random.PCG64([self.seed, _STREAM, day.toordinal()]))
            self._lives[day] = list(_Births(self, rng, day).lives())
        return self._lives[day]

    @property
    def _cpfs(self) -> frozenset[str]:
        return self._world.cpfs


class _Births:
    """Makes the records that are born on one day."""

    def __init__(self, world: DirtyWorld, rng: np.random.Generator, day: date) -> None:
        self._world, self._rng, self._day = world, rng, day
        self._number = count((day - world._since).days * 10_000)

    def lives(self) -> Iterator[Life]:
        """The day's records of every table; the first day has every case, and the parents of the others."""
        world, first = self._world, self._day == self._world._since
        if first:
            for table in ("customers", "bank_accounts", "credit_orders"):
                yield self._parent(table)
        for table, cases in CASES.items():
            bad = 0
            if world._rate:
                bad = max(1, round(world._rate * world.scale * _ROWS_A_DAY[table]))
                bad = max(bad, len(cases)) if first else bad
            begin = 0 if first else int(self._rng.integers(len(cases)))
            for place in range(bad):
                case = cases[(begin + place) % len(cases)]
                other = cases[(begin + place + 1) % len(cases)]
                yield from self._life(table, self._shape(table, place, first), case, other)
            if world._deletes and table in _DELETED:
                yield from self._life(table, "gd", cases[0], cases[0])

    def _shape(self, table: str, place: int, first: bool) -> str:
        shapes: tuple[str, ...] = ("b",) if table in (*APPEND_ONLY, "events") else _SHAPES
        if self._world._deletes and table in _DELETED:
            shapes += _ENDING[:1] if table in APPEND_ONLY else _ENDING
        return shapes[(place if first else int(self._rng.integers(len(shapes)))) % len(shapes)]

    def _life(self, table: str, shape: str, case: _Case, other: _Case) -> Iterator[Life]:
        good = _GOOD[table](self)
        key = tuple(good[column] for column in (("event_id",) if table == "events" else KEYS[table]))
        life, day = Life(table, key), self._day
        for place, letter in enumerate(shape):
            if place:
                day += timedelta(days=1 + int(self._rng.integers(2)))
            kind = "delete" if letter == "d" else "update" if place else "insert"
            row, chosen = dict(good), {"b": case, "B": other}.get(letter)
            if chosen:
                row |= {c: _value(v, good) for c, v in chosen.values.items()}
            if "updated_at" in row:
                row["updated_at"] = self._at(day) if place else good["updated_at"]
            if place and table == "customers" and letter == "g":
                row["city"] = "Campinas"
            life.steps.append(Step(day, kind, row, chosen.reasons if chosen else ()))
        yield life
        if shape[0] == "b" and "d" not in shape:
            # what hangs on a record in quarantine is good, and must not be lost
            for child in _CHILDREN.get(table, ()):
                row = _GOOD[child](self) | {KEYS[table][0]: key[0]}
                yield Life(child, tuple(row[c] for c in KEYS[child]), [Step(self._day, "insert", row)])

    def _parent(self, table: str) -> Life:
        row = _GOOD[table](self, parent=True)
        return Life(table, tuple(row[c] for c in KEYS[table]), [Step(self._day, "insert", row)])

    def _at(self, day: date) -> datetime:
        """A moment of the afternoon of `day` in São Paulo."""
        second = int(self._rng.integers(3 * 3600))
        return datetime.combine(day, time(16), UTC) + timedelta(seconds=second)

    def _born_at(self) -> datetime:
        """Mostly of the day; one in five comes late, with the time of the evening before."""
        late = datetime.combine(self._day, time(2, 30), UTC) + timedelta(seconds=int(self._rng.integers(600)))
        return late if self._rng.random() < 0.2 else self._at(self._day)

    def _id(self) -> int:
        return _FIRST_KEY + next(self._number)

    def _uuid(self) -> str:
        return str(uuid.uuid5(_NAMESPACE, f"{self._world.seed}/{next(self._number)}"))

    def _parent_id(self) -> int:
        return _FIRST_KEY - 1

    def _parent_order(self) -> str:
        return str(uuid.uuid5(_NAMESPACE, f"{self._world.seed}/parent"))

    def _cpf(self) -> str:
        while True:
            cpf = with_check_digits(f"{int(self._rng.integers(10**8, 10**9))}")
            if cpf not in self._world._cpfs:
                return cpf

    def _customer(self, parent: bool = False) -> Row:
        key, born = self._parent_id() if parent else self._id(), self._born_at()
        row = {
            "customer_id": key,
            "partner_id": "loja-azul",
            "full_name": "Ana Lima",
            "cpf": self._cpf(),
            "email": f"Ana.Lima.{key}@Example.com",
            "phone": None,
            "birth_date": date(1990, 5, 17),
            "gender": "F",
            "city": "São Paulo",
            "state": "sp",
            "monthly_income": Decimal("3000.00"),
            "created_at": born,
            "updated_at": born,
        }
        if self._day >= self._world._since + timedelta(days=_SCHEMA_CHANGE_AFTER):
            row[NEW_COLUMN] = "whatsapp"
        return row

    def _consent(self, parent: bool = False) -> Row:
        born = self._born_at()
        return {
            "consent_id": self._uuid(),
            "customer_id": self._parent_id(),
            "scope": "marketing",
            "granted_at": born,
            "expires_at": None,
            "revoked_at": None,
            "updated_at": born,
        }

    def _order(self, parent: bool = False) -> Row:
        born = self._born_at()
        row = dict.fromkeys(SCHEMAS["credit_orders"].names) | {
            "order_id": self._parent_order() if parent else self._uuid(),
            "customer_id": self._parent_id(),
            "partner_id": "loja-azul",
            "product": "personal_loan",
            "currency": "brl",
            "requested_amount": Decimal("100.00"),
            "term_months": 12,
            "interest_rate": Decimal("0.020000"),
            "status": "in_review",
            "metadata": "{}",
            "created_at": born,
            "updated_at": born,
        }
        if parent:
            row |= {
                "status": "approved",
                "approved_amount": Decimal("100.00"),
                "disbursed_amount": Decimal("100.00"),
                "decided_at": born,
                "disbursed_at": born,
                "repayment_status": "current",
            }
        return row

    def _order_event(self) -> Row:
        return {
            "order_id": self._parent_order(),
            # the trigger counts from what is there: its numbers stay below
            "seq": next(self._number) + 1_000,
            "event_type": "note",
            "from_status": "approved",
            "to_status": "approved",
            "actor": "staff",
            "payload": "{}",
            "occurred_at": self._at(self._day),
        }

    def _evaluation(self) -> Row:
        born = self._at(self._day)
        return {
            "evaluation_id": self._uuid(),
            "order_id": self._parent_order(),
            "provider": "scorecard",
            "model_version": "1",
            "score": 500,
            "decision": "approve",
            "reason_codes": "{LOW_SCORE}",
            "latency_ms": 100,
            "raw_response": None,
            "evaluated_at": born,
            "created_at": born,
        }

    def _installment(self) -> Row:
        return {
            "order_id": self._parent_order(),
            "schedule_version": 1,
            "installment_no": next(self._number) + 1,
            "due_date": self._day + timedelta(days=3650),
            "due_amount": Decimal("10.00"),
            "principal_due": Decimal("10.00"),
            "interest_due": Decimal("0.00"),
            "status": "open",
            "updated_at": self._born_at(),
        }

    def _payment(self) -> Row:
        born = self._at(self._day)
        return {
            "payment_id": self._id(),
            "order_id": self._parent_order(),
            "installment_no": 1,
            "paid_at": born,
            "amount": Decimal("5.00"),
            "principal": Decimal("5.00"),
            "interest": Decimal("0.00"),
            "penalty": Decimal("0.00"),
            "reversal_of": None,
            "created_at": born,
        }

    def _loan_event(self) -> Row:
        born = self._at(self._day)
        return {
            "event_id": self._uuid(),
            "order_id": self._parent_order(),
            "kind": "recovered",
            "amount": Decimal("1.00"),
            "related_order_id": self._uuid(),  # of no order: nothing in the database forbids it
            "occurred_at": born,
            "created_at": born,
        }

    def _account(self, parent: bool = False) -> Row:
        born = self._born_at()
        return {
            "account_id": self._parent_id() if parent else self._id(),
            "customer_id": self._parent_id(),
            "bank_code": "001",
            "opened_at": born - timedelta(days=400),
            "updated_at": born,
        }

    def _transaction(self) -> Row:
        born = self._at(self._day)
        return {
            "transaction_id": self._id(),
            "account_id": self._parent_id(),
            "booked_at": born,
            "amount": Decimal("-12.34"),
            "currency": "BRL",
            "kind": "card",
            "counterparty_bank": None,
            "description": None,
            "balance_after": None,
            "created_at": born,
        }

    def _event(self) -> Row:
        received = datetime.combine(self._day, time(15, 30), UTC)
        number = next(self._number)
        return {
            "event_id": self._uuid(),
            "customer_id": self._parent_id() if number % 2 else 1,
            "actor": "customer",
            "session_id": None,
            "event_type": "login",
            "occurred_at": received - timedelta(seconds=5),
            "properties": {},
            "received_at": received + timedelta(milliseconds=number % 60_000),
        }


_GOOD: dict[str, Callable[..., Row]] = {
    "customers": _Births._customer,
    "consents": _Births._consent,
    "credit_orders": _Births._order,
    "credit_order_events": _Births._order_event,
    "risk_evaluations": _Births._evaluation,
    "installments": _Births._installment,
    "loan_payments": _Births._payment,
    "loan_events": _Births._loan_event,
    "bank_accounts": _Births._account,
    "bank_transactions": _Births._transaction,
    "events": _Births._event,
}


def with_check_digits(nine: str) -> str:
    """A CPF from its first nine digits."""
    digits = [int(digit) for digit in nine]
    for _ in range(2):
        total = sum(
            digit * weight for digit, weight in zip(digits, range(len(digits) + 1, 1, -1), strict=True)
        )
        digits.append(total * 10 % 11 % 10)
    return "".join(map(str, digits))


def _value(value: object, good: Row) -> object:
    """A case's value; some are a change to a good row. A CPF stays unique: the database asks for that."""
    if value == "created_at":
        return good["created_at"]
    if value == "before created_at":
        return good["created_at"] - timedelta(days=1)
    if value == "wrong check digit":
        return good["cpf"][:10] + str((int(good["cpf"][10]) + 1) % 10)
    if value == "a digit short":
        return good["cpf"][:10]
    if value == "a letter in it":
        return f"{good['cpf'][:10]}O"
    return value


def _arrow(table: str, kind: str, rows: list[Row]) -> pa.Table:
    fields = [f for f in SCHEMAS[table] if kind != "delete" or f.name in KEYS[table]]
    if kind != "delete" and any(NEW_COLUMN in row for row in rows):
        fields.append(pa.field(NEW_COLUMN, pa.string()))
    return pa.Table.from_pylist(
        [{f.name: row.get(f.name) for f in fields} for row in rows], schema=pa.schema(fields)
    )


def _iso(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"
