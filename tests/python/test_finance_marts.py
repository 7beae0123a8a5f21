"""Forecast, exposure, engagement and segments against a second opinion: plain Python over the raw files, two seeds.

As in test_marts.py, nothing here knows the models. Money is compared to the cent.
"""

import csv
import math
import statistics
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

import duckdb
import pytest
from conftest import ROOT, Day
from test_marts import DAY, ZERO, Instalment, by, cents, day_of, latest, month_of, months, next_month

A_CENT = 0.0101  # two ways to round the same double


def after(month: date, count: int) -> date:
    """The month so many months later, or earlier."""
    number = month.year * 12 + month.month - 1 + count
    return date(number // 12, number % 12 + 1, 1)


@dataclass
class Version:
    """A version of a loan's schedule and the days between which it held."""

    began: date
    replaced: date | None
    due: list[tuple[date, Decimal]]

    def known_in(self, month: date) -> bool:
        """Did it hold at the month's end?"""
        return month_of(self.began) <= month and (self.replaced is None or month_of(self.replaced) > month)


@dataclass
class Books:
    """What the lake holds of loans, rates and visits, and the marts beside it."""

    lake: Path
    warehouse: Path
    as_of: date = date.min
    customers: dict[int, dict] = field(default_factory=dict)
    orders: dict[str, dict] = field(default_factory=dict)
    versions: dict[str, list[Version]] = field(default_factory=dict)
    schedules: dict[str, list[Instalment]] = field(default_factory=dict)
    received: dict[tuple[str, date], Decimal] = field(default_factory=dict)
    closings: dict[str, list[tuple[date, Decimal]]] = field(default_factory=dict)
    events: list[dict] = field(default_factory=list)

    def __post_init__(self) -> None:
        landed = (self.lake / "raw/app/customers").glob("extract_date=*")
        self.as_of = max(date.fromisoformat(p.name.split("=")[1]) for p in landed)
        rows = latest(self.lake, "app/customers", ("customer_id",), changes=True)
        self.customers = {row["customer_id"]: row for row in rows}
        rows = latest(self.lake, "app/credit_orders", ("order_id",), changes=True)
        self.orders = {row["order_id"]: row for row in rows}
        self._read_loans()
        closings = defaultdict(dict)
        for row in latest(self.lake, "central_bank/fx_rates", ("currency", "quoted_at", "bulletin")):
            if row["bulletin"].startswith("Fechamento"):
                closings[row["currency"]][day_of(row["quoted_at"])] = row["sell"]
        self.closings = {currency: sorted(quotes.items()) for currency, quotes in closings.items()}
        columns = "event_id customer_id actor session_id event_type occurred_at"
        self.events = latest(self.lake, "app_log/events", ("event_id",), columns=columns)

    def _read_loans(self) -> None:
        key = ("order_id", "schedule_version", "installment_no")
        installments = by(latest(self.lake, "app/installments", key, changes=True), "order_id")
        events = by(latest(self.lake, "app/loan_events", ("event_id",)), "order_id")
        ledger = latest(self.lake, "app/loan_payments", ("payment_id",))
        received: dict[tuple[str, date], Decimal] = defaultdict(lambda: ZERO)
        for row in ledger:
            sign = -1 if row["reversal_of"] is not None else 1
            for part in ("amount", "principal", "penalty"):
                row[part] = sign * abs(row[part])
            currency = self.orders[row["order_id"]]["currency"]
            received[currency, month_of(day_of(row["paid_at"]))] += row["amount"]
        self.received = received
        payments = by(ledger, "order_id")
        for order_id, rows in installments.items():
            renegotiated = [e["occurred_at"] for e in events[order_id] if e["kind"] == "renegotiated"]
            versions = by(rows, "schedule_version")
            began = {n: min(day_of(r["updated_at"]) for r in rows) for n, rows in versions.items()}
            began |= dict(enumerate(map(day_of, sorted(renegotiated)), start=2))
            began[min(versions)] = day_of(self.orders[order_id]["disbursed_at"])
            numbers = sorted(versions)
            self.versions[order_id] = [
                Version(began[n], began.get(n + 1), [(r["due_date"], r["due_amount"]) for r in versions[n]])
                for n in numbers
            ]
            in_force = {
                r["installment_no"]: Instalment(r["due_date"], r["due_amount"], r["principal_due"])
                for r in versions[numbers[-1]]
            }
            for row in payments[order_id]:
                if row["installment_no"] in in_force:
                    in_force[row["installment_no"]].payments.append(
                        (day_of(row["paid_at"]), row["amount"] - row["penalty"], row["principal"])
                    )
            self.schedules[order_id] = list(in_force.values())

    def rate_on(self, currency: str, day: date) -> Decimal | None:
        """The closing of the last business day on or before a day, a week old at most."""
        if currency == "BRL":
            return Decimal(1)
        quotes = [(quoted, sell) for quoted, sell in self.closings.get(currency, []) if quoted <= day]
        return quotes[-1][1] if quotes and (day - quotes[-1][0]).days <= 7 else None

    def mart(self, name: str, *key: str) -> dict[tuple, dict]:
        """The rows of a mart by their key."""
        with duckdb.connect(str(self.warehouse), read_only=True) as connection:
            rows = connection.sql(f"select * from marts.{name}")
            records = [dict(zip(rows.columns, row, strict=True)) for row in rows.fetchall()]
        keyed = {tuple(record[column] for column in key): record for record in records}
        assert len(keyed) == len(records) > 0
        return keyed


@pytest.fixture(scope="module", params=["synthetic_day2", "another_seed"])
def books(request: pytest.FixtureRequest) -> Books:
    day: Day = request.getfixturevalue(request.param)
    return Books(day.lake, day.warehouse)


# ------------------------------------------------------------------ forecast


class Forecaster:
    """The forecast of one currency, made again from what was known, one number at a time."""

    def __init__(self, books: Books, currency: str, first: date) -> None:
        self.currency = currency
        self.loans = [
            v for o, vs in books.versions.items() if books.orders[o]["currency"] == currency for v in vs
        ]
        self.ended = [
            month for month in months(first, month_of(books.as_of)) if next_month(month) - DAY <= books.as_of
        ]
        self.received = {month: books.received[currency, month] for month in self.ended}
        self.disbursed = dict.fromkeys(self.ended, ZERO)
        for order in books.orders.values():
            if order["currency"] == currency and order["disbursed_at"]:
                month = month_of(day_of(order["disbursed_at"]))
                if month in self.disbursed:
                    self.disbursed[month] += order["disbursed_amount"]
        self.net = {month: self.received[month] - self.disbursed[month] for month in self.ended}
        self.known: dict[tuple[date, date], Decimal] = {}

    def scheduled(self, month: date, made: date) -> Decimal:
        if (month, made) not in self.known:
            self.known[month, made] = sum(
                (
                    amount
                    for version in self.loans
                    if version.known_in(made)
                    for due, amount in version.due
                    if month_of(due) == month
                ),
                ZERO,
            )
        return self.known[month, made]

    def parts(self, made: date, horizon: int) -> tuple[Decimal, float, float] | None:
        """(scheduled, collection rate, disbursed) as forecast at a month's end; None where it cannot be."""
        past = [month for month in self.ended if month <= made][-12:]
        if made not in self.ended or len(past) < horizon + 5:
            return None
        quarter = [m for m in past[-3:] if after(m, -horizon) >= self.ended[0]]
        scheduled = sum(self.scheduled(m, after(m, -horizon)) for m in quarter)
        if not scheduled:
            return None
        rate = float(sum(self.received[m] for m in quarter)) / float(scheduled)
        line = statistics.linear_regression(range(len(past)), [float(self.disbursed[m]) for m in past])
        disbursed = max(line.intercept + line.slope * (len(past) - 1 + horizon), 0)
        return self.scheduled(after(made, horizon), made), rate, disbursed

    def net_forecast(self, made: date, horizon: int) -> tuple[float, float] | None:
        """(net cash flow, all that is moved) as forecast."""
        parts = self.parts(made, horizon)
        if parts is None:
            return None
        received, disbursed = float(parts[0]) * parts[1], parts[2]
        return received - disbursed, received + disbursed

    def margin(self, made: date, horizon: int) -> tuple[float, float] | None:
        """Half the interval, from the errors of the last 12 months that were known by then, and how near to it.

        The mart's errors are of forecasts in whole cents, and in millionths of these.
        """
        squares, unsure = [], []
        for month in self.ended:
            if after(made, -12) < month <= made:
                past = self.net_forecast(after(month, -horizon), horizon)
                if past and past[1] > 0:
                    squares.append(((past[0] - float(self.net[month])) / past[1]) ** 2)
                    unsure.append(1e-6 + 2 * A_CENT / past[1])
        if len(squares) < 3:
            return None
        amount = 1.2816 * self.net_forecast(made, horizon)[1]
        return amount * math.sqrt(statistics.fmean(squares)), amount * max(unsure) + 2 * A_CENT


def test_a_forecast_is_what_the_schedules_known_then_promise(books: Books) -> None:
    actual = books.mart("ml_cash_flow_forecast", "month", "currency")
    cash_flow = books.mart("monthly_cash_flow", "month", "currency")
    seen = defaultdict(int)
    for currency in {currency for _, currency in cash_flow}:
        first = min(month for month, other in cash_flow if other == currency)
        forecaster = Forecaster(books, currency, first)
        last = forecaster.ended[-1]
        rows = {month: row for (month, other), row in actual.items() if other == currency}
        errors = []
        for month in months(first, after(last, 6)):
            ended = month in forecaster.ended
            horizon = 1 if ended else (month.year - last.year) * 12 + month.month - last.month
            made = after(month, -horizon)
            forecast = forecaster.net_forecast(made, horizon)
            if forecast is None and (month, currency) not in cash_flow:
                assert month not in rows
                continue
            row = rows.pop(month)
            assert row["net_cash_flow"] == (forecaster.net[month] if ended else None)
            if ended:
                assert row["received_amount"] == cash_flow[month, currency]["received_amount"]
                assert row["disbursed_amount"] == cash_flow[month, currency]["disbursed_amount"]
            seen["ended" if ended else "to come"] += 1
            if forecast is None:
                assert row["net_cash_flow_forecast"] is None
                assert row["made_on"] is None
                seen["no forecast"] += 1
                continue
            scheduled, rate, disbursed = forecaster.parts(made, horizon)
            assert row["horizon_months"] == horizon
            assert row["made_on"] == next_month(made) - DAY
            assert row["scheduled_amount"] == scheduled
            assert row["collection_rate"] == pytest.approx(rate, rel=1e-9)
            assert float(row["disbursed_forecast"]) == pytest.approx(disbursed, abs=A_CENT)
            assert float(row["net_cash_flow_forecast"]) == pytest.approx(forecast[0], abs=2 * A_CENT)
            found = forecaster.margin(made, horizon)
            if found is None:
                assert row["net_cash_flow_low"] is None
            else:
                margin, near = found
                assert float(row["net_cash_flow_low"]) == pytest.approx(forecast[0] - margin, abs=near)
                assert float(row["net_cash_flow_high"]) == pytest.approx(forecast[0] + margin, abs=near)
                seen["interval"] += 1
            baseline = forecaster.net.get(after(month, -12))
            assert row["net_cash_flow_baseline"] == baseline
            if ended and baseline is not None:
                errors.append((abs(row["forecast_error"]), abs(baseline - forecaster.net[month])))
            sell = books.rate_on(currency, row["made_on"])
            assert row["fx_rate_to_brl"] == sell
            if sell is not None:
                in_reais = row["net_cash_flow_forecast"] * sell
                assert row["net_cash_flow_forecast_brl"] == cents(in_reais)
                effect = ZERO if currency == "BRL" else cents(in_reais / 10)
                assert abs(row["fx_effect_10pct_brl"]) == abs(effect)
        assert rows == {}
        of_currency = [row for (_, other), row in actual.items() if other == currency]
        ours, theirs = (sum(error) for error in zip(*errors, strict=True)) if errors else (None, None)
        for row in of_currency:
            assert row["months_compared"] == len(errors)
            assert row["beats_baseline"] == (ours < theirs if errors else None)
            if errors:
                assert float(row["mean_absolute_error"]) == pytest.approx(
                    float(ours) / len(errors), abs=A_CENT
                )
        seen["beats" if errors and ours < theirs else "does not"] += 1
    assert all(seen[case] for case in ("ended", "to come", "no forecast", "interval", "beats")), dict(seen)


def test_receipts_are_forecast_far_better_than_by_last_year(books: Books) -> None:
    """What schedules promise is most of what a lender's cash depends on: within a tenth, where a year ago is half."""
    actual = books.mart("ml_cash_flow_forecast", "month", "currency")
    reais = {month: row for (month, currency), row in actual.items() if currency == "BRL"}
    months_of_last_year = [month for month, row in reais.items() if row["baseline_error"] is not None]
    assert len(months_of_last_year) >= 12
    received = sum(reais[month]["received_amount"] for month in months_of_last_year)
    ours = sum(abs(reais[m]["received_forecast"] - reais[m]["received_amount"]) for m in months_of_last_year)
    theirs = sum(
        abs(reais[after(m, -12)]["received_amount"] - reais[m]["received_amount"])
        for m in months_of_last_year
    )
    assert ours < received / 10 < theirs / 2


# ------------------------------------------------------------------ exposure


def test_exposure_is_what_foreign_loans_still_owe(books: Books) -> None:
    actual = books.mart("fx_exposure", "month", "currency")
    foreign = {
        o: order for o, order in books.orders.items() if order["currency"] != "BRL" and order["disbursed_at"]
    }
    expected_keys = set()
    for currency in {order["currency"] for order in foreign.values()}:
        loans = {o: day_of(x["disbursed_at"]) for o, x in foreign.items() if x["currency"] == currency}
        quotes = books.closings[currency]
        moves = [(day, sell / before - 1) for (_, before), (day, sell) in pairwise(quotes)]
        for month in months(month_of(min(loans.values())), month_of(books.as_of)):
            day = min(next_month(month) - DAY, books.as_of)
            schedules = [books.schedules[o] for o, began in loans.items() if began <= day]
            owed = [sum((i.unpaid_principal(day) for i in schedule), ZERO) for schedule in schedules]
            overdue = sum((i.unpaid(day) for s in schedules for i in s if i.due_date <= day), ZERO)
            row = actual[month, currency]
            expected_keys.add((month, currency))
            assert row["measured_on"] == day
            assert row["outstanding_amount"] == sum(owed, ZERO)
            assert row["overdue_amount"] == overdue
            assert row["open_loans"] == sum(amount > 0 for amount in owed)
            in_a_month = day + timedelta(days=30)
            assert row["due_1_30_amount"] == sum(
                (i.unpaid(day) for s in schedules for i in s if day < i.due_date <= in_a_month), ZERO
            )
            value = cents(sum(owed, ZERO) * books.rate_on(currency, day))
            assert row["exposure_amount"] == value
            assert row["effect_10pct_amount"] == cents(value / 10)
            assert row["exposure_up_10pct_amount"] == cents(value + value / 10)
            assert row["exposure_down_10pct_amount"] == cents(value - value / 10)
            known = [float(move) for quoted, move in moves if quoted <= day]
            lately = known[-63:]
            if len(known) < 20:
                assert row["volatility"] is None
            else:
                volatility = math.sqrt(statistics.fmean(move**2 for move in lately) * 252)
                assert row["volatility"] == pytest.approx(volatility, abs=2e-5)
                usual = float(value) * volatility / math.sqrt(12)
                assert float(row["usual_monthly_move_amount"]) == pytest.approx(usual, rel=2e-3, abs=0.01)
    assert set(actual) == expected_keys


# ------------------------------------------------------------------ engagement


def test_engagement_is_what_customers_did_themselves(books: Books) -> None:
    steps = ["simulation_run", "order_started", "order_submitted"]
    sessions: dict[tuple[int, str], list[dict]] = defaultdict(list)
    for event in books.events:
        if event["actor"] == "customer" and event["session_id"]:
            sessions[event["customer_id"], event["session_id"]].append(event)
    visits: dict[tuple[int, date], list[tuple[date, int, int]]] = defaultdict(list)
    for (customer, _), events in sessions.items():
        day = day_of(min(event["occurred_at"] for event in events))
        kinds = [event["event_type"] for event in events]
        step = max((place for place, kind in enumerate(steps, start=1) if kind in kinds), default=0)
        visits[customer, month_of(day)].append((day, kinds.count("page_view"), step))
    orders: dict[tuple[int, date], int] = defaultdict(int)
    for order in books.orders.values():
        orders[order["customer_id"], month_of(day_of(order["created_at"]))] += 1

    log_begins = min(month for _, month in visits)
    expected = {}
    for customer_id, customer in books.customers.items():
        own = [month for who, month in visits if who == customer_id]
        cohort = min([month_of(day_of(customer["created_at"])), *own])
        for month in months(max(cohort, log_begins), month_of(books.as_of)):
            seen = visits.get((customer_id, month), [])
            expected[customer_id, month] = {
                "customer_id": customer_id,
                "partner_id": customer["partner_id"],
                "month": month,
                "cohort_month": cohort,
                "months_since_joining": (month.year - cohort.year) * 12 + month.month - cohort.month,
                "is_active": bool(seen),
                "sessions": len(seen),
                "active_days": len({day for day, _, _ in seen}),
                "page_views": sum(pages for _, pages, _ in seen),
                "sessions_with_simulation": sum(step >= 1 for _, _, step in seen),
                "sessions_with_order_started": sum(step >= 2 for _, _, step in seen),
                "sessions_with_order_submitted": sum(step >= 3 for _, _, step in seen),
                "orders_requested": orders[customer_id, month],
            }
    assert books.mart("customer_engagement_monthly", "customer_id", "month") == expected
    rows = expected.values()
    assert sum(row["sessions_with_order_submitted"] for row in rows) > 0
    assert any(not row["is_active"] for row in rows)

    for name, keys in (
        ("engagement_monthly", ("month",)),
        ("engagement_monthly_by_partner", ("month", "partner_id")),
    ):
        actual = books.mart(name, *keys)
        groups = defaultdict(list)
        for row in rows:
            groups[tuple(row[key] for key in keys)].append(row)
        assert set(actual) == set(groups)
        for key, group in groups.items():
            assert actual[key]["customers"] == len(group)
            active = sum(row["is_active"] for row in group)
            assert actual[key]["customers_active"] == active
            assert actual[key]["active_rate"] == pytest.approx(active / len(group))
            for column in ("sessions", "page_views", "sessions_with_order_submitted", "orders_requested"):
                assert actual[key][column] == sum(row[column] for row in group)

    for name, keys in (
        ("engagement_cohorts", ("cohort_month", "months_since_joining")),
        ("engagement_cohorts_by_partner", ("cohort_month", "months_since_joining", "partner_id")),
    ):
        actual = books.mart(name, *keys)
        groups = defaultdict(list)
        for row in rows:
            groups[tuple(row[key] for key in keys)].append(row)
        assert set(actual) == set(groups)
        for key, group in groups.items():
            active = sum(row["is_active"] for row in group)
            assert (actual[key]["customers"], actual[key]["customers_active"]) == (len(group), active)
            assert actual[key]["return_rate"] == pytest.approx(active / len(group))
            assert actual[key]["customers_with_order"] == sum(row["orders_requested"] > 0 for row in group)
            assert actual[key]["month"] == after(key[0], key[1])


# ------------------------------------------------------------------ segments


def test_segments_are_what_the_seeds_say(books: Books) -> None:
    def seed(name: str) -> list[dict]:
        with (ROOT / "seeds" / f"{name}.csv").open(encoding="utf-8") as file:
            return list(csv.DictReader(file))

    bands, rules = seed("segment_bands"), seed("segment_rules")

    def score(measure: str, value: Decimal | int) -> int:
        (found,) = [
            int(band["score"])
            for band in bands
            if band["measure"] == measure
            and band["currency"] in ("", "BRL")
            and Decimal(band["from_value"]) <= value
            and (not band["to_value"] or value < Decimal(band["to_value"]))
        ]
        return found

    actual = books.mart("customer_segments", "customer_id")
    customers = books.mart("customer_360", "customer_id")
    assert set(actual) == set(customers) == {(customer_id,) for customer_id in books.customers}
    consents = by(latest(books.lake, "app/consents", ("consent_id",), changes=True), "customer_id")
    orders = by(list(books.orders.values()), "customer_id")
    segments: dict[str, int] = defaultdict(int)
    for customer_id in books.customers:
        row, own = actual[customer_id,], orders[customer_id]
        assert row["orders_total"] == len(own)
        if own:
            recency = (books.as_of - max(day_of(order["created_at"]) for order in own)).days
            amounts: dict[str, Decimal] = defaultdict(lambda: ZERO)
            for order in own:
                amounts[order["currency"]] += order["disbursed_amount"] or ZERO
            total = sum((cents(a * books.rate_on(c, books.as_of)) for c, a in amounts.items() if a), ZERO)
            scores = [score("recency", recency), score("frequency", len(own)), score("amount", total)]
        else:
            recency, total, scores = None, ZERO, [0, 0, 0]
        assert row["recency_days"] == recency
        assert row["disbursed_amount_total"] == total
        assert [row["recency_score"], row["frequency_score"], row["amount_score"]] == scores
        fitting = [
            rule
            for rule in rules
            if all(
                int(rule[f"{name}_from"]) <= value <= int(rule[f"{name}_to"])
                for name, value in zip(("recency", "frequency", "amount"), scores, strict=True)
            )
        ]
        assert row["segment"] == min(fitting, key=lambda rule: int(rule["priority"]))["segment"]
        segments[row["segment"]] += 1

        customer = customers[customer_id,]
        bureau = customer["bureau_score_latest"]
        if customer["segment"] in ("defaulted", "late"):
            risk = customer["segment"]
        elif bureau is None:
            risk = "unknown"
        else:
            risk = {1: "high", 2: "medium", 3: "low"}[score("bureau_score", bureau)]
        assert row["risk_segment"] == risk
        assert row["has_marketing_consent"] == any(
            consent["scope"] == "marketing"
            and day_of(consent["granted_at"]) <= books.as_of
            and all(
                consent[end] is None or day_of(consent[end]) > books.as_of
                for end in ("expires_at", "revoked_at")
            )
            for consent in consents[customer_id]
        )
    assert set(segments) == {rule["segment"] for rule in rules}
