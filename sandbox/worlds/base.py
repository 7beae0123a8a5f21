"""What a world is: a lender whose state at the end of any day can be written down.

A world never reads the clock. Its state is a function of (seed, scale, day), so a killed load is
repeated with the same result and two machines agree.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from typing import Literal, Protocol

import pyarrow as pa

TABLES = (
    "customers",
    "consents",
    "credit_orders",
    "credit_order_events",
    "risk_evaluations",
    "installments",
    "loan_payments",
    "loan_events",
    "bank_accounts",
    "bank_transactions",
)
"""Every table of the app schema, parents before children."""


def _money() -> pa.DataType:
    return pa.decimal128(14, 2)


def _time() -> pa.DataType:
    return pa.timestamp("us", tz="UTC")


SCHEMAS: dict[str, pa.Schema] = {
    "customers": pa.schema(
        {
            "customer_id": pa.int64(),
            "partner_id": pa.string(),
            "full_name": pa.string(),
            "cpf": pa.string(),
            "email": pa.string(),
            "phone": pa.string(),
            "birth_date": pa.date32(),
            "gender": pa.string(),
            "city": pa.string(),
            "state": pa.string(),
            "monthly_income": _money(),
            "created_at": _time(),
            "updated_at": _time(),
        }
    ),
    "consents": pa.schema(
        {
            "consent_id": pa.string(),
            "customer_id": pa.int64(),
            "scope": pa.string(),
            "granted_at": _time(),
            "expires_at": _time(),
            "revoked_at": _time(),
            "updated_at": _time(),
        }
    ),
    "credit_orders": pa.schema(
        {
            "order_id": pa.string(),
            "customer_id": pa.int64(),
            "partner_id": pa.string(),
            "product": pa.string(),
            "purpose": pa.string(),
            "currency": pa.string(),
            "requested_amount": _money(),
            "approved_amount": _money(),
            "disbursed_amount": _money(),
            "iof_amount": _money(),
            "fee_amount": _money(),
            "term_months": pa.int32(),
            "interest_rate": pa.decimal128(9, 6),
            "status": pa.string(),
            "decided_at": _time(),
            "policy_version": pa.string(),
            "disbursed_at": _time(),
            "repayment_status": pa.string(),
            "metadata": pa.string(),
            "created_at": _time(),
            "updated_at": _time(),
        }
    ),
    "credit_order_events": pa.schema(
        {
            "order_id": pa.string(),
            "seq": pa.int32(),
            "event_type": pa.string(),
            "from_status": pa.string(),
            "to_status": pa.string(),
            "actor": pa.string(),
            "payload": pa.string(),
            "occurred_at": _time(),
        }
    ),
    "risk_evaluations": pa.schema(
        {
            "evaluation_id": pa.string(),
            "order_id": pa.string(),
            "provider": pa.string(),
            "model_version": pa.string(),
            "score": pa.int32(),
            "decision": pa.string(),
            "reason_codes": pa.string(),
            "latency_ms": pa.int32(),
            "raw_response": pa.string(),
            "evaluated_at": _time(),
            "created_at": _time(),
        }
    ),
    "installments": pa.schema(
        {
            "order_id": pa.string(),
            "schedule_version": pa.int32(),
            "installment_no": pa.int32(),
            "due_date": pa.date32(),
            "due_amount": _money(),
            "principal_due": _money(),
            "interest_due": _money(),
            "status": pa.string(),
            "updated_at": _time(),
        }
    ),
    "loan_payments": pa.schema(
        {
            "payment_id": pa.int64(),
            "order_id": pa.string(),
            "installment_no": pa.int32(),
            "paid_at": _time(),
            "amount": _money(),
            "principal": _money(),
            "interest": _money(),
            "penalty": _money(),
            "reversal_of": pa.int64(),
            "created_at": _time(),
        }
    ),
    "loan_events": pa.schema(
        {
            "event_id": pa.string(),
            "order_id": pa.string(),
            "kind": pa.string(),
            "amount": _money(),
            "related_order_id": pa.string(),
            "occurred_at": _time(),
            "created_at": _time(),
        }
    ),
    "bank_accounts": pa.schema(
        {
            "account_id": pa.int64(),
            "customer_id": pa.int64(),
            "bank_code": pa.string(),
            "opened_at": _time(),
            "updated_at": _time(),
        }
    ),
    "bank_transactions": pa.schema(
        {
            "transaction_id": pa.int64(),
            "account_id": pa.int64(),
            "booked_at": _time(),
            "amount": _money(),
            "currency": pa.string(),
            "kind": pa.string(),
            "counterparty_bank": pa.string(),
            "description": pa.string(),
            "balance_after": _money(),
            "created_at": _time(),
        }
    ),
}
"""Arrow types of every table. Arrays (reason_codes) are PostgreSQL array literals such as `{A,B}`."""

KEYS: dict[str, tuple[str, ...]] = {
    "customers": ("customer_id",),
    "consents": ("consent_id",),
    "credit_orders": ("order_id",),
    "credit_order_events": ("order_id", "seq"),
    "risk_evaluations": ("evaluation_id",),
    "installments": ("order_id", "schedule_version", "installment_no"),
    "loan_payments": ("payment_id",),
    "loan_events": ("event_id",),
    "bank_accounts": ("account_id",),
    "bank_transactions": ("transaction_id",),
}


@dataclass(frozen=True)
class Change:
    """A batch of rows that one statement of a day applies.

    `rows` has the columns of the table in `SCHEMAS`. An update carries whole rows, found by key; a delete
    carries keys; an added column is one of text, named by `rows`.
    """

    kind: Literal["insert", "update", "delete", "add column"]
    table: str
    rows: pa.Table


class World(Protocol):
    """A lender. Days are the world's own calendar days (its local time zone).

    Invariant: `tables(d)` equals `tables(d - 1)` with `changes(d)` applied, the events written by
    the trigger included.
    """

    name: str
    seed: int
    scale: float
    first_date: date
    """The day `up` begins with."""
    last_date: date | None
    """The last day there is, or None when the days never end."""

    def tables(self, day: date) -> Iterator[tuple[str, pa.Table]]:
        """Yields every table of `TABLES`, in that order, complete at the end of `day`."""
        ...

    def changes(self, day: date) -> Iterator[Change]:
        """Yields what happens on `day`, in order; the order events come from the trigger."""
        ...

    def events(self, first: date, last: date) -> Iterator[tuple[str, bytes]]:
        """Yields (path below `events/`, JSON lines not yet compressed) of files that appear on these days.

        A path is `YYYY-MM-DD/HH.jsonl.gz`. `first` may be `date.min`: from the beginning of the log.
        """
        ...
