"""The marts against a second opinion: plain Python over the raw files, a row at a time.

Nothing here knows the models: no macro, no staging table, no window function. Definitions are those of the
marts' descriptions; money is compared to the cent.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

import duckdb
import pyarrow.parquet as pq
import pytest
from conftest import Day

SAO_PAULO = ZoneInfo("America/Sao_Paulo")
ZERO = Decimal("0.00")
CENT = Decimal("0.01")
AS_IN_THE_SOURCE = (
    "customer_id partner_id product currency requested_amount approved_amount term_months interest_rate status"
    " policy_version"
).split()
DAY = timedelta(days=1)


def day_of(moment: datetime) -> date:
    return moment.astimezone(SAO_PAULO).date()


def cents(amount: Decimal) -> Decimal:
    return amount.quantize(CENT, ROUND_HALF_UP)


def month_of(day: date) -> date:
    return day.replace(day=1)


def next_month(month: date) -> date:
    return (month + 31 * DAY).replace(day=1)


def months(first: date, last: date) -> Iterator[date]:
    while first <= last:
        yield first
        first = next_month(first)


def full_years(birth: date, day: date) -> int:
    return day.year - birth.year - ((day.month, day.day) < (birth.month, birth.day))


def to_milliseconds(row: dict) -> dict:
    """The warehouse keeps milliseconds, rounded half up: so must what it is compared with."""
    for name, value in row.items():
        if isinstance(value, datetime):
            value += timedelta(microseconds=500)
            row[name] = value.replace(microsecond=value.microsecond // 1000 * 1000)
    return row


def latest(
    lake: Path, table: str, key: tuple[str, ...], changes: bool = False, columns: str | None = None
) -> list[dict]:
    """Every record of a raw table as its last landed version has it, by the batches where it changes."""
    names = columns.split() if columns else None
    records: dict[tuple, dict] = {}
    for file in sorted((lake / "raw" / table).glob("*/*.parquet")):
        for row in map(to_milliseconds, pq.read_table(file, columns=names, partitioning=None).to_pylist()):
            place = tuple(row[column] for column in key)
            known = records.get(place)
            if known is None or (changes and row["_batch_id"] > known["_batch_id"]):
                records[place] = row
    return list(records.values())


def by(rows: list[dict], column: str) -> dict:
    groups = defaultdict(list)
    for row in rows:
        groups[row[column]].append(row)
    return groups


@dataclass
class Instalment:
    """An instalment of the schedule in force and what came in for it."""

    due_date: date
    due: Decimal
    principal_due: Decimal
    payments: list[tuple[date, Decimal, Decimal]] = field(default_factory=list)
    """(day, towards the instalment, principal), reversals negative."""

    def unpaid(self, day: date) -> Decimal:
        """The unpaid part at the end of a day."""
        paid = sum((amount for paid_on, amount, _ in self.payments if paid_on <= day), ZERO)
        return self.due - min(max(paid, ZERO), self.due)

    def unpaid_principal(self, day: date) -> Decimal:
        paid = sum((principal for paid_on, _, principal in self.payments if paid_on <= day), ZERO)
        return self.principal_due - min(max(paid, ZERO), self.principal_due) if self.unpaid(day) else ZERO

    def was_ever_past_due(self, days: int, as_of: date) -> bool:
        """Did any day up to as_of begin with the instalment open and more than so many days old?

        Only a payment changes what is open, so the ends of those days are enough to look at.
        """
        last_good = self.due_date + timedelta(days=days)
        evenings = [last_good, *(paid_on for paid_on, _, _ in self.payments if paid_on > last_good)]
        return any(self.unpaid(evening) for evening in evenings if evening < as_of)


@dataclass
class Lender:
    """All that the lake holds of the lender, on the day it was last extracted."""

    as_of: date
    customers: list[dict]
    orders: list[dict]
    evaluations: dict[str, list[dict]]
    schedules: dict[str, list[Instalment]]
    superseded: dict[str, list[tuple[Instalment, date]]]
    """Instalments of versions that were replaced, with the day of it."""
    ledger: list[dict]
    written_off: dict[str, date]
    transactions: dict[int, list[dict]]
    scores: dict[str, list[dict]]
    events: dict[int, list[dict]]
    closings: dict[str, list[tuple[datetime, Decimal]]]

    def rate(self, currency: str, known_by: datetime) -> Decimal | None:
        """The last closing known at a moment, if it is not older than a week."""
        if currency == "BRL":
            return Decimal(1)
        quotes = self.closings.get(currency, [])
        place = bisect_right(quotes, known_by, key=lambda quote: quote[0])
        if not place or (day_of(known_by) - day_of(quotes[place - 1][0])).days > 7:
            return None
        return quotes[place - 1][1]

    def rate_on(self, currency: str, day: date) -> Decimal | None:
        """The closing of the last business day on or before a day."""
        end = datetime(day.year, day.month, day.day, tzinfo=SAO_PAULO) + DAY
        return self.rate(currency, end - timedelta(microseconds=1))


def superseded_schedules(
    installments: list[dict], loan_events: list[dict], ledger: list[dict]
) -> dict[str, list[tuple[Instalment, date]]]:
    """The instalments that a renegotiation or a payoff replaced, with what came in for them before."""
    renegotiations = by([e for e in loan_events if e["kind"] == "renegotiated"], "order_id")
    payments = by(ledger, "order_id")
    superseded = defaultdict(list)
    for order_id, rows in by(installments, "order_id").items():
        versions = by(rows, "schedule_version")
        began = {version: min(day_of(r["updated_at"]) for r in rows) for version, rows in versions.items()}
        began |= dict(enumerate(sorted(day_of(e["occurred_at"]) for e in renegotiations[order_id]), start=2))
        for version in sorted(versions)[:-1]:
            replaced_on = began[version + 1]
            for row in versions[version]:
                instalment = Instalment(row["due_date"], row["due_amount"], row["principal_due"])
                instalment.payments = [
                    (day_of(p["paid_at"]), p["amount"] - p["penalty"], p["principal"])
                    for p in payments[order_id]
                    if p["installment_no"] == row["installment_no"]
                ]
                superseded[order_id].append((instalment, replaced_on))
    return superseded


@pytest.fixture(scope="module", params=["synthetic_day2", "another_seed"])
def built(request: pytest.FixtureRequest) -> Day:
    """A day of a world, of two seeds."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def lender(built) -> Lender:
    lake = built.lake
    as_of = max(
        date.fromisoformat(p.name.split("=")[1]) for p in (lake / "raw/app/customers").glob("extract_date=*")
    )
    orders = latest(lake, "app/credit_orders", ("order_id",), changes=True)
    installments = latest(
        lake, "app/installments", ("order_id", "schedule_version", "installment_no"), changes=True
    )
    in_force: dict[str, int] = defaultdict(int)
    for row in installments:
        in_force[row["order_id"]] = max(in_force[row["order_id"]], row["schedule_version"])
    schedules: dict[str, dict[int, Instalment]] = defaultdict(dict)
    for row in installments:
        if row["schedule_version"] == in_force[row["order_id"]]:
            schedules[row["order_id"]][row["installment_no"]] = Instalment(
                row["due_date"], row["due_amount"], row["principal_due"]
            )
    ledger = latest(lake, "app/loan_payments", ("payment_id",))
    for row in ledger:
        sign = -1 if row["reversal_of"] is not None else 1
        for part in ("amount", "principal", "penalty"):
            row[part] = sign * abs(row[part])
        instalment = schedules[row["order_id"]].get(row["installment_no"])
        if instalment:
            instalment.payments.append(
                (day_of(row["paid_at"]), row["amount"] - row["penalty"], row["principal"])
            )
    loan_events = latest(lake, "app/loan_events", ("event_id",))
    owner = {
        row["account_id"]: row["customer_id"]
        for row in latest(lake, "app/bank_accounts", ("account_id",), changes=True)
    }
    transactions = latest(
        lake,
        "app/bank_transactions",
        ("transaction_id",),
        columns="transaction_id account_id booked_at amount currency created_at",
    )
    for row in transactions:
        row["customer_id"] = owner[row["account_id"]]
    closings = defaultdict(list)
    for row in latest(lake, "central_bank/fx_rates", ("currency", "quoted_at", "bulletin")):
        if row["bulletin"].startswith("Fechamento"):
            closings[row["currency"]].append((row["quoted_at"], row["sell"]))
    return Lender(
        as_of=as_of,
        customers=latest(lake, "app/customers", ("customer_id",), changes=True),
        orders=orders,
        evaluations=by(latest(lake, "app/risk_evaluations", ("evaluation_id",)), "order_id"),
        schedules={order: list(schedule.values()) for order, schedule in schedules.items()},
        superseded=superseded_schedules(installments, loan_events, ledger),
        ledger=ledger,
        written_off={
            row["order_id"]: day_of(row["occurred_at"])
            for row in sorted(loan_events, key=lambda e: e["occurred_at"], reverse=True)
            if row["kind"] == "written_off" and day_of(row["occurred_at"]) <= as_of
        },
        transactions=by(transactions, "customer_id"),
        scores=by(latest(lake, "bureau/scores", ("cpf", "queried_at")), "cpf"),
        events=by(
            latest(
                lake,
                "app_log/events",
                ("event_id",),
                columns="event_id customer_id actor session_id occurred_at",
            ),
            "customer_id",
        ),
        closings={currency: sorted(quotes) for currency, quotes in closings.items()},
    )


@pytest.fixture(scope="module")
def mart(built):
    """Read a mart: `mart("customer_360", "customer_id")` gives its rows by that key."""

    def read(name: str, *key: str) -> dict:
        with duckdb.connect(str(built.warehouse), read_only=True) as connection:
            rows = connection.sql(f"select * from marts.{name}")
            columns = rows.columns
            records = [dict(zip(columns, row, strict=True)) for row in rows.fetchall()]
        keyed = {tuple(r[k] for k in key) if len(key) > 1 else r[key[0]]: r for r in records}
        assert len(keyed) == len(records) > 0
        return keyed

    return read


def outcome(lender: Lender, order: dict) -> str | None:
    """What became of a loan."""
    if order["disbursed_at"] is None:
        return None
    schedule = lender.schedules[order["order_id"]]
    if (
        order["repayment_status"] == "defaulted"
        or order["order_id"] in lender.written_off
        or any(i.was_ever_past_due(90, lender.as_of) for i in schedule)
        or any(
            i.was_ever_past_due(90, min(replaced_on, lender.as_of))
            for i, replaced_on in lender.superseded.get(order["order_id"], [])
        )
    ):
        return "defaulted"
    if not any(i.unpaid(lender.as_of) for i in schedule):
        return "paid_off"
    return "late" if days_past_due(schedule, lender.as_of) else "current"


def days_past_due(schedule: list[Instalment], day: date) -> int:
    open_since = [i.due_date for i in schedule if i.due_date < day and i.unpaid(day)]
    return (day - min(open_since)).days if open_since else 0


@pytest.mark.parametrize("by", [("currency",), ("partner_id", "currency")])
def test_cash_flow_is_what_orders_schedules_and_ledger_say(lender, mart, by):
    actual = mart("monthly_cash_flow" + ("_by_partner" if "partner_id" in by else ""), "month", *by)
    group_of = {order["order_id"]: tuple(order[column] for column in by) for order in lender.orders}
    disbursed, due, received = (defaultdict(lambda: ZERO) for _ in range(3))
    loans: dict[tuple, int] = defaultdict(int)
    for order in lender.orders:
        if order["disbursed_at"]:
            place = month_of(day_of(order["disbursed_at"])), *group_of[order["order_id"]]
            loans[place] += 1
            disbursed[place] += order["disbursed_amount"]
    for order_id, schedule in lender.schedules.items():
        for instalment in schedule:
            if instalment.due_date <= lender.as_of:
                due[month_of(instalment.due_date), *group_of[order_id]] += instalment.due
    for payment in lender.ledger:
        place = month_of(day_of(payment["paid_at"])), *group_of[payment["order_id"]]
        received[place] += payment["amount"]

    expected_keys = set()
    for group in {tuple(group) for _, *group in disbursed}:
        cumulative = ZERO
        first = min(month for month, *other in [*disbursed, *due, *received] if tuple(other) == group)
        schedules = [s for order_id, s in lender.schedules.items() if group_of[order_id] == group]
        for month in months(first, month_of(lender.as_of)):
            place = month, *group
            expected_keys.add(place)
            measured_on = min(next_month(month) - DAY, lender.as_of)
            net = received[place] - disbursed[place]
            cumulative += net
            rate = lender.rate_on(group[-1], measured_on)
            expected = {
                "month": month,
                **dict(zip(by, group, strict=True)),
                "orders_disbursed": loans[place],
                "disbursed_amount": disbursed[place],
                "due_amount": due[place],
                "received_amount": received[place],
                "net_cash_flow": net,
                "cumulative_net_cash_flow": cumulative,
                "overdue_amount": sum(
                    (i.unpaid(measured_on) for s in schedules for i in s if i.due_date <= measured_on), ZERO
                ),
                "fx_rate_to_brl": rate,
                "net_cash_flow_brl": None if rate is None else cents(net * rate),
            }
            assert actual[place] == expected
    assert set(actual) == expected_keys
    assert sum(row["overdue_amount"] for row in actual.values()) > 0
    assert any(row["fx_rate_to_brl"] not in (1, None) for row in actual.values())


BUCKETS = {  # days since an instalment was due, from and to
    "due_1_30_amount": (-30, -1),
    "due_31_90_amount": (-90, -31),
    "due_91_360_amount": (-360, -91),
    "due_after_360_amount": (-99_999, -361),
    "overdue_amount": (0, 99_999),
    "overdue_0_14_amount": (0, 14),
    "overdue_15_30_amount": (15, 30),
    "overdue_31_60_amount": (31, 60),
    "overdue_61_90_amount": (61, 90),
    "overdue_after_90_amount": (91, 99_999),
}


@pytest.fixture(scope="module")
def positions(lender) -> list[dict]:
    """Every loan at every month's end since it was paid out."""
    found = []
    for order in lender.orders:
        if not order["disbursed_at"]:
            continue
        order_id, disbursed = order["order_id"], day_of(order["disbursed_at"])
        schedule = lender.schedules[order_id]
        for month in months(month_of(disbursed), month_of(lender.as_of)):
            day = min(next_month(month) - DAY, lender.as_of)
            amounts = [((day - i.due_date).days, i.unpaid(day)) for i in schedule]
            past_due = days_past_due(schedule, day)
            lost = lender.written_off.get(order_id, date.max) <= day
            defaulted = (
                lost
                or any(i.was_ever_past_due(90, day) for i in schedule)
                or any(
                    i.was_ever_past_due(90, min(until, day))
                    for i, until in lender.superseded.get(order_id, [])
                )
            )
            found.append(
                {
                    **{
                        name: order[name]
                        for name in ("order_id", "customer_id", "partner_id", "product", "currency")
                    },
                    "month": month,
                    "measured_on": day,
                    "disbursed_date": disbursed,
                    "months_on_book": (month.year - disbursed.year) * 12 + month.month - disbursed.month,
                    "disbursed_amount": order["disbursed_amount"],
                    "outstanding_amount": sum((i.unpaid_principal(day) for i in schedule), ZERO),
                    **{
                        name: sum((unpaid for age, unpaid in amounts if low <= age <= high), ZERO)
                        for name, (low, high) in BUCKETS.items()
                    },
                    "days_past_due": past_due,
                    "is_defaulted": defaulted,
                    "is_written_off": lost,
                    "risk_stage": 3 if defaulted or past_due > 90 else 2 if past_due > 30 else 1,
                }
            )
    return found


def test_monthly_positions_are_what_was_open_then(positions, mart):
    actual = mart("scr_monthly_position", "order_id", "month")
    assert len(actual) == len(positions)
    for expected in positions:
        assert actual[expected["order_id"], expected["month"]] == expected
    assert {p["risk_stage"] for p in positions} == {1, 2, 3}
    assert all(any(p[name] for p in positions) for name in ("overdue_61_90_amount", "due_91_360_amount"))


@pytest.mark.parametrize("by_partner", [False, True])
def test_vintages_are_their_loans_at_each_age(positions, mart, by_partner):
    key = ("vintage_month", "months_on_book", "currency", *(["partner_id"] if by_partner else []))
    groups = defaultdict(list)
    for position in positions:
        position = position | {"vintage_month": month_of(position["disbursed_date"])}
        groups[tuple(position[column] for column in key)].append(position)
    actual = mart("loan_vintages" + ("_by_partner" if by_partner else ""), *key)
    assert set(actual) == set(groups)
    for place, loans in groups.items():
        lent = sum(p["disbursed_amount"] for p in loans)
        lost = sum((p["outstanding_amount"] for p in loans if p["is_defaulted"]), ZERO)
        late = {days: [p for p in loans if p["days_past_due"] > days] for days in (30, 60, 90)}
        defaulted = sum(p["is_defaulted"] for p in loans)
        assert actual[place] == {
            **dict(zip(key, place, strict=True)),
            "loans": len(loans),
            "disbursed_amount": lent,
            "outstanding_amount": sum(p["outstanding_amount"] for p in loans),
            **{f"loans_late_{days}": len(those) for days, those in late.items()},
            **{
                f"outstanding_late_{days}_amount": sum((p["outstanding_amount"] for p in those), ZERO)
                for days, those in late.items()
            },
            "loans_defaulted": defaulted,
            "loss_amount": lost,
            "default_rate": defaulted / len(loans),
            "loss_rate": float(lost) / float(lent),
        }


@pytest.mark.parametrize("by_partner", [False, True])
def test_the_funnel_counts_each_step_in_its_month(lender, mart, by_partner):
    key = ("month", "product", *(["partner_id"] if by_partner else []))
    steps = defaultdict(lambda: defaultdict(list))
    for order in lender.orders:
        for step, moment in (
            ("requested", order["created_at"]),
            (order["status"], order["decided_at"]),
            ("disbursed", order["disbursed_at"]),
        ):
            if moment:
                place = (month_of(day_of(moment)), *(order[column] for column in key[1:]))
                steps[place][step].append(order)
    actual = mart("approval_funnel" + ("_by_partner" if by_partner else ""), *key)
    assert set(actual) == set(steps)
    for place, orders in steps.items():
        decided = orders["approved"] + orders["rejected"]
        hours = [(o["decided_at"] - o["created_at"]) / timedelta(hours=1) for o in decided]
        row = actual[place]
        assert row["orders_requested"] == len(orders["requested"])
        assert row["orders_approved"] == len(orders["approved"])
        assert row["orders_rejected"] == len(orders["rejected"])
        assert row["orders_disbursed"] == len(orders["disbursed"])
        if not decided:
            assert {row[c] for c in ("approval_rate", "hours_to_decision", "decided_within_a_day_rate")} == {
                None
            }
            continue
        assert row["approval_rate"] == len(orders["approved"]) / len(decided)
        assert row["hours_to_decision"] == pytest.approx(sum(hours) / len(hours), abs=1e-6)
        assert row["decided_within_a_day_rate"] == sum(h <= 24 for h in hours) / len(hours)


def test_repayment_is_what_the_ledger_says(lender, mart):
    actual = mart("credit_decisions", "order_id")
    outcomes = defaultdict(int)
    for order in lender.orders:
        row = actual[order["order_id"]]
        schedule = lender.schedules.get(order["order_id"], [])
        disbursed = order["disbursed_at"] is not None
        assert row["disbursed_amount"] == (order["disbursed_amount"] if disbursed else None)
        assert row["outstanding_amount"] == (
            sum((i.unpaid_principal(lender.as_of) for i in schedule), ZERO) if disbursed else None
        )
        assert row["days_past_due"] == (days_past_due(schedule, lender.as_of) if disbursed else None)
        assert row["repayment_outcome"] == outcome(lender, order)
        # The lender's own word, which the mart uses for nothing but defaults, says the same.
        assert row["repayment_outcome"] == order["repayment_status"]
        outcomes[row["repayment_outcome"]] += 1
    assert set(outcomes) == {None, "current", "late", "paid_off", "defaulted"}


def test_decisions_know_only_what_had_arrived_by_the_request(lender, mart):
    actual = mart("credit_decisions", "order_id")
    assert len(actual) == len(lender.orders)
    cpf_of = {customer["customer_id"]: customer["cpf"] for customer in lender.customers}
    by_customer = by(lender.orders, "customer_id")
    seen = defaultdict(int)
    for order in lender.orders:
        row, asked = actual[order["order_id"]], order["created_at"]
        for name in AS_IN_THE_SOURCE:
            assert row[name] == order[name]

        scores = [s for s in lender.scores[cpf_of[order["customer_id"]]] if s["queried_at"] <= asked]
        score = max(scores, key=lambda s: s["queried_at"])["score"] if scores else None
        assert row["bureau_score_at_request"] == score
        seen["score"] += score is not None

        assert row["prior_orders"] == sum(o["created_at"] < asked for o in by_customer[order["customer_id"]])

        known = [t for t in lender.transactions[order["customer_id"]] if t["created_at"] <= asked]
        window = [t for t in known if asked - timedelta(days=90) < t["booked_at"] <= asked]
        for name, sign in (("bank_inflow_90d_at_request", 1), ("bank_outflow_90d_at_request", -1)):
            amounts = [t for t in window if t["amount"] * sign > 0]
            expected = in_currency(lender, amounts, order["currency"], asked)
            assert row[name] == (expected if known else None), (order["order_id"], name)
        seen["flow"] += bool(window)
        # Booked before the request, arrived after it: what a careless join would count.
        seen["late arrival"] += any(
            t["booked_at"] <= asked < t["created_at"] for t in lender.transactions[order["customer_id"]]
        )

        decided = order["decided_at"] or datetime.max.replace(tzinfo=UTC)
        evaluated = [e for e in lender.evaluations[order["order_id"]] if e["evaluated_at"] <= decided]
        evaluated.sort(key=lambda e: e["evaluated_at"])
        scored = [e["score"] for e in evaluated if e["score"] is not None]
        assert row["risk_score"] == (scored[-1] if scored else None)
        reasons = evaluated[-1]["reason_codes"] if evaluated else []
        assert len((row["reason_codes"] or "").split(", ") if row["reason_codes"] else []) == len(reasons)
        if order["decided_at"]:
            hours = (order["decided_at"] - asked) / timedelta(hours=1)
            assert row["hours_to_decision"] == pytest.approx(hours, abs=1e-9)
        else:
            assert row["hours_to_decision"] is None
    assert all(seen[case] for case in ("score", "flow", "late arrival")), dict(seen)


def in_currency(
    lender: Lender, transactions: list[dict], currency: str, known_by: datetime
) -> Decimal | None:
    """The absolute amounts in another currency at the rates known then; None if a needed one is missing."""
    total = ZERO
    for other, rows in by(transactions, "currency").items():
        amount = sum((abs(t["amount"]) for t in rows), ZERO)
        if other != currency:
            rates = lender.rate(other, known_by), lender.rate(currency, known_by)
            if None in rates:
                return None
            amount = cents(amount * rates[0] / rates[1])
        total += amount
    return total


def test_customer_360_sums_the_customer_up(lender, mart):
    actual = mart("customer_360", "customer_id")
    assert len(actual) == len(lender.customers)
    orders = by(lender.orders, "customer_id")
    quarter = lender.as_of - 90 * DAY
    month = lender.as_of - 30 * DAY
    seen = defaultdict(int)
    for customer in lender.customers:
        row = actual[customer["customer_id"]]
        own = orders[customer["customer_id"]]
        loans = [o for o in own if o["disbursed_at"]]
        assert row["as_of_date"] == lender.as_of
        assert row["customer_since"] == day_of(customer["created_at"])
        assert row["orders_total"] == len(own)
        for status in ("approved", "rejected", "in_review"):
            assert row[f"orders_{status}"] == sum(o["status"] == status for o in own)

        approved = [o for o in own if o["status"] == "approved"]
        assert row["requested_amount_total"] == in_reais(
            lender, [(o["currency"], o["requested_amount"]) for o in own]
        )
        assert row["approved_amount_total"] == in_reais(
            lender, [(o["currency"], o["approved_amount"]) for o in approved]
        )
        assert row["outstanding_amount"] == in_reais(
            lender,
            [
                (o["currency"], i.unpaid_principal(lender.as_of))
                for o in loans
                for i in lender.schedules[o["order_id"]]
            ],
        )
        assert row["days_past_due_max"] == max(
            (days_past_due(lender.schedules[o["order_id"]], lender.as_of) for o in loans), default=0
        )
        seen["foreign"] += any(o["currency"] != "BRL" for o in own)

        booked = [
            (day_of(t["booked_at"]), t["currency"], t["amount"])
            for t in lender.transactions[customer["customer_id"]]
        ]
        lately = [(c, amount) for day, c, amount in booked if day > quarter]
        flows = {
            "bank_balance_latest": [(c, amount) for _, c, amount in booked],
            "bank_inflow_90d": [(c, amount) for c, amount in lately if amount > 0],
            "bank_outflow_90d": [(c, -amount) for c, amount in lately if amount < 0],
        }
        for name, amounts in flows.items():
            assert row[name] == (in_reais(lender, amounts) if booked else None)
        seen["without bank"] += not booked

        scores = sorted((s["queried_at"], s["score"]) for s in lender.scores[customer["cpf"]])
        assert row["bureau_score_latest"] == (scores[-1][1] if scores else None)
        assert row["bureau_score_as_of"] == (scores[-1][0].replace(tzinfo=None) if scores else None)

        events = [e for e in lender.events[customer["customer_id"]] if e["actor"] == "customer"]
        sessions = {e["session_id"] for e in events if day_of(e["occurred_at"]) > month} - {None}
        assert row["sessions_30d"] == len(sessions)
        last = max((e["occurred_at"].replace(tzinfo=None) for e in events), default=None)
        assert row["last_seen_at"] == last
        seen["sessions"] += bool(sessions)

        assert row["age_band"] == age_band(customer["birth_date"], lender.as_of)
        assert row["segment"] == segment(own, [outcome(lender, o) for o in loans])
    assert all(seen[case] for case in ("foreign", "without bank", "sessions")), dict(seen)


def in_reais(lender: Lender, amounts: list[tuple[str, Decimal]]) -> Decimal | None:
    """A sum in the book currency as of the last day; None if a rate that is needed is missing."""
    totals: dict[str, Decimal] = defaultdict(lambda: ZERO)
    for currency, amount in amounts:
        totals[currency] += amount
    converted = [
        None if rate is None else cents(total * rate)
        for total, rate in ((total, lender.rate_on(c, lender.as_of)) for c, total in totals.items() if total)
    ]
    return None if None in converted else sum(converted, ZERO)


def age_band(birth: date | None, day: date) -> str:
    if birth is None:
        return "unknown"
    age = full_years(birth, day)
    if age < 18:
        return "under 18"
    for low, high in ((18, 24), (25, 34), (35, 44), (45, 54), (55, 64)):
        if age <= high:
            return f"{low}-{high}"
    return "65+"


def segment(orders: list[dict], outcomes: list[str]) -> str:
    statuses = [order["status"] for order in orders]
    rules = [
        ("defaulted", "defaulted" in outcomes),
        ("late", "late" in outcomes),
        ("borrower", "current" in outcomes),
        ("applicant", "in_review" in statuses),
        ("repaid", bool(outcomes)),
        ("approved", "approved" in statuses),
        ("declined", bool(orders)),
        ("prospect", True),
    ]
    return next(name for name, holds in rules if holds)


def test_bank_flow_is_what_the_transactions_say(lender, mart):
    actual = mart("customer_monthly_bank_flow", "customer_id", "month", "currency")
    partner_of = {customer["customer_id"]: customer["partner_id"] for customer in lender.customers}
    expected = {}
    for customer_id, transactions in lender.transactions.items():
        for currency, rows in by(transactions, "currency").items():
            by_month = defaultdict(list)
            for row in rows:
                by_month[month_of(day_of(row["booked_at"]))].append(row["amount"])
            balance = ZERO
            for month in months(min(by_month), month_of(lender.as_of)):
                amounts = by_month[month]
                balance += sum(amounts, ZERO)
                expected[customer_id, month, currency] = {
                    "customer_id": customer_id,
                    "partner_id": partner_of[customer_id],
                    "month": month,
                    "currency": currency,
                    "inflow": sum((a for a in amounts if a > 0), ZERO),
                    "outflow": -sum((a for a in amounts if a < 0), ZERO),
                    "net": sum(amounts, ZERO),
                    "closing_balance": balance,
                    "transactions": len(amounts),
                }
    assert actual == expected


def test_marts_hold_no_clear_personal_data(lender, built):
    """No name, CPF, e-mail, phone or birth date of anybody, in any column."""
    secrets = {str(c[k]) for c in lender.customers for k in ("full_name", "cpf", "email", "phone") if c[k]}
    with duckdb.connect(str(built.warehouse), read_only=True) as connection:
        tables = connection.sql(
            "select table_name from information_schema.tables where table_schema = 'marts'"
        ).fetchall()
        assert len(tables) >= 4
        for (table,) in tables:
            rows = connection.sql(f"select * from marts.{table}")
            assert not set(rows.columns) & {"full_name", "cpf", "email", "phone", "birth_date"}
            for name, kind in zip(rows.columns, rows.types, strict=True):
                if str(kind) == "VARCHAR":
                    values = connection.sql(f'select distinct "{name}" from marts.{table}').fetchall()
                    assert not secrets & {value for (value,) in values}, f"{table}.{name}"
