"""The real bank: the world against its original files, then the warehouse against the same oracle.

A test that needs a warehouse takes it from the fixtures `berka_day1` and `berka_day2`; everything
above those needs neither PostgreSQL nor dbt.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import berka_oracle as oracle
import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from conftest import ROOT

from sandbox.errors import SandboxError
from sandbox.worlds.base import KEYS, SCHEMAS, TABLES
from sandbox.worlds.berka import BerkaWorld
from sandbox.worlds.berka.ledger import Allocation, Payment, allocate

DAY_1 = date(1998, 12, 7)
DAY_2 = date(1998, 12, 8)
CENT = Decimal("0.01")

LOAN = "loan.asc"
TRANSACTIONS = "trans_19930101_19940330.asc"
LATER_TRANSACTIONS = "trans_loan_accounts_1995_1998.csv"

A_LOAN = '5316;1801;930711;165960;36;4610.00;"A"'
A_LOAN_PAYMENT = '527534;1801;930712;"VYDAJ";"PREVOD NA UCET";4610.00;'
A_LATER_CREDIT = "6145;25;960728;credit;credit in cash;900.00;"


@pytest.fixture(scope="session")
def day_1(berka_files: Path) -> dict[str, pa.Table]:
    return dict(BerkaWorld(berka_files).tables(DAY_1))


@pytest.fixture(scope="session")
def day_2(berka_files: Path) -> dict[str, pa.Table]:
    return dict(BerkaWorld(berka_files).tables(DAY_2))


def copy_with_change(berka_dir: Path, target: Path, changes: dict[str, tuple[str, str]]) -> Path:
    """Copies the files and replaces, in each file named by `changes`, one text that occurs once."""
    shutil.copytree(berka_dir, target, copy_function=shutil.copyfile)
    target.chmod(0o755)  # the original may be read-only
    for file, (old, new) in changes.items():
        content = (target / file).read_bytes()
        assert content.count(old.encode()) == 1, f"{old!r} does not occur exactly once in {file}"
        (target / file).write_bytes(content.replace(old.encode(), new.encode()))
    return target


def measures_of_tables(tables: dict[str, pa.Table]) -> SimpleNamespace:
    """The oracle's measures, from the app's tables."""
    app = duckdb.connect()
    app.execute("set timezone = 'UTC'")
    for name, rows in tables.items():
        app.register(name, rows)
    disbursed = app.execute(
        "select date_trunc('month', disbursed_at)::date, sum(disbursed_amount) from credit_orders group by 1"
    )
    disbursed = dict(disbursed.fetchall())
    received = app.execute(
        "select date_trunc('month', paid_at)::date, sum(amount) from loan_payments group by 1"
    )
    received = dict(received.fetchall())
    flow = app.execute(
        """
        with monthly as (
            select
                customer_id, date_trunc('month', booked_at)::date as month, currency,
                sum(greatest(amount, 0)) as inflow, sum(greatest(-amount, 0)) as outflow,
                sum(amount) as net, count(*) as transactions
            from bank_transactions join bank_accounts using (account_id)
            group by all
        )
        select
            customer_id, month, currency, inflow, outflow, net,
            sum(net) over (partition by customer_id, currency order by month), transactions
        from monthly
        """
    )
    return SimpleNamespace(
        disbursed_amount=disbursed,
        received_amount=received,
        customer_monthly_bank_flow={row[:3]: row[3:] for row in flow.fetchall()},
    )


def measures_of_oracle(berka_dir: Path, day: date) -> SimpleNamespace:
    return SimpleNamespace(
        disbursed_amount=oracle.disbursed_amount(berka_dir, day),
        received_amount=oracle.received_amount(berka_dir, day),
        customer_monthly_bank_flow=oracle.customer_monthly_bank_flow(berka_dir, day),
    )


def assert_same(actual: dict, expected: dict) -> None:
    """Equal both ways; on failure a few differences instead of thousands of rows."""
    wrong = {
        key: (actual.get(key), expected.get(key))
        for key in actual.keys() | expected.keys()
        if actual.get(key) != expected.get(key)
    }
    assert not wrong, f"{len(wrong)} differ (actual, expected): {dict(sorted(wrong.items())[:5])}"


# --- the world ------------------------------------------------------------------------------------


def test_tables_have_the_schema_and_every_row_of_the_files(berka_files, day_1, day_2):
    for day, tables in ((DAY_1, day_1), (DAY_2, day_2)):
        assert tuple(tables) == TABLES
        assert {name: rows.schema for name, rows in tables.items()} == SCHEMAS
        assert {name: rows.num_rows for name, rows in tables.items()} == oracle.counts(berka_files, day)
    assert day_2["customers"].num_rows == 5369
    assert day_2["bank_accounts"].num_rows == 4500
    assert day_2["credit_orders"].num_rows == 682
    assert day_2["bank_transactions"].num_rows == 77197


def test_keys_are_unique_and_required_columns_are_filled(day_2):
    required = {
        "customers": ("partner_id", "full_name", "cpf", "email", "birth_date", "gender", "city", "state"),
        "credit_orders": ("customer_id", "product", "approved_amount", "disbursed_at", "repayment_status"),
        "installments": ("due_date", "due_amount", "status", "updated_at"),
        "loan_payments": ("order_id", "installment_no", "paid_at", "amount"),
        "bank_accounts": ("customer_id", "bank_code", "opened_at"),
        "bank_transactions": ("account_id", "amount", "kind", "balance_after", "created_at"),
    }
    for name, rows in day_2.items():
        keys = rows.select(KEYS[name])
        assert keys.group_by(keys.column_names).aggregate([]).num_rows == rows.num_rows
        assert {column: rows[column].null_count for column in required.get(name, ())} == dict.fromkeys(
            required.get(name, ()), 0
        )


def test_every_reference_finds_its_row(day_2):
    def ids(table: str, column: str) -> set:
        return set(day_2[table][column].to_pylist())

    for table in ("credit_orders", "bank_accounts"):
        assert ids(table, "customer_id") <= ids("customers", "customer_id")
    for table in ("credit_order_events", "installments", "loan_payments"):
        assert ids(table, "order_id") <= ids("credit_orders", "order_id")
    assert ids("bank_transactions", "account_id") <= ids("bank_accounts", "account_id")


def test_people_have_what_the_files_say(day_2):
    people = {row["customer_id"]: row for row in day_2["customers"].to_pylist()}
    # client 1;"706213";18 and client 2;"450204";1
    assert (people[1]["gender"], people[1]["birth_date"], people[1]["city"], people[1]["state"]) == (
        "F",
        date(1970, 12, 13),
        "Pisek",
        "south Bohemia",
    )
    assert (people[2]["gender"], people[2]["birth_date"]) == ("M", date(1945, 2, 4))
    genders = day_2["customers"]["gender"].to_pylist()
    assert (genders.count("F"), genders.count("M")) == (2645, 2724)


def test_generated_identities_are_valid_and_unique(day_2):
    cpfs = day_2["customers"]["cpf"].to_pylist()
    emails = day_2["customers"]["email"].to_pylist()
    assert len(set(cpfs)) == len(set(emails)) == len(cpfs)
    assert all(email.endswith("@generated.invalid") and email.isascii() for email in emails)
    for cpf in cpfs:
        assert len(cpf) == 11
        assert len(set(cpf)) > 1
        digits = [int(digit) for digit in cpf]
        for length in (9, 10):
            weights = range(length + 1, 1, -1)
            check = sum(digit * weight for digit, weight in zip(digits, weights, strict=False))
            assert digits[length] == check * 10 % 11 % 10


def test_amounts_equal_the_files_to_the_cent(berka_files, day_1, day_2):
    for day, tables in ((DAY_1, day_1), (DAY_2, day_2)):
        actual, expected = measures_of_tables(tables), measures_of_oracle(berka_files, day)
        for measure in vars(expected):
            assert_same(getattr(actual, measure), getattr(expected, measure))


def test_balances_and_signs_keep_the_files_values(day_2):
    rows = day_2["bank_transactions"]
    assert rows.filter(pc.equal(rows["transaction_id"], 527534)).drop_columns("created_at").to_pylist() == [
        {
            "transaction_id": 527534,
            "account_id": 1801,
            "booked_at": datetime(1993, 7, 12, 12, tzinfo=UTC),
            "amount": Decimal("-4610.00"),
            "currency": "CZK",
            "kind": "loan_payment",
            "counterparty_bank": "OP",
            "description": "PREVOD NA UCET / UVER",
            "balance_after": Decimal("43431.90"),
        }
    ]
    credit = rows.filter(pc.equal(rows["transaction_id"], 6145))
    assert credit["amount"].to_pylist() == [Decimal("900.00")]
    assert rows["booked_at"].equals(rows["created_at"])
    assert pc.unique(pc.hour(rows["booked_at"])).to_pylist() == [12]


def test_both_files_speak_one_vocabulary_of_kinds(day_2):
    assert set(day_2["bank_transactions"]["kind"].to_pylist()) == {
        "card_withdrawal",
        "cash_deposit",
        "cash_withdrawal",
        "household_payment",
        "insurance_payment",
        "interest",
        "loan_payment",
        "penalty_interest",
        "pension",
        "statement_fee",
        "transfer_in",
        "transfer_out",
    }


def test_loan_payments_go_to_the_earliest_unpaid_instalment(day_2):
    orders = {row["order_id"]: row for row in day_2["credit_orders"].to_pylist()}
    paid: dict[str, list[int]] = {}
    for payment in sorted(day_2["loan_payments"].to_pylist(), key=lambda row: row["paid_at"]):
        assert payment["paid_at"] > orders[payment["order_id"]]["disbursed_at"]
        paid.setdefault(payment["order_id"], []).append(payment["installment_no"])
    assert sum(map(len, paid.values())) == 123
    # Every payment in the files is a whole instalment, so the n-th one pays the n-th instalment.
    assert all(numbers == list(range(1, len(numbers) + 1)) for numbers in paid.values())
    statuses = {
        (row["order_id"], row["installment_no"]): row["status"] for row in day_2["installments"].to_pylist()
    }
    assert {key for key, status in statuses.items() if status == "paid"} == {
        (order, number) for order, numbers in paid.items() for number in numbers
    }
    assert set(statuses.values()) == {"paid", "unknown"}


def test_allocation_handles_part_payments_and_payments_too_many():
    def payment(payment_id: int, amount: str) -> Payment:
        return Payment(payment_id, 1, Decimal(amount), Decimal("100.00"), 2)

    parts = [payment(1, "40"), payment(2, "59.30"), payment(3, "100.40"), payment(4, "5")]
    assert allocate(parts) == [
        Allocation(1, 1, False),
        Allocation(2, 1, True),
        Allocation(3, 2, True),
        Allocation(4, None, False),
    ]


def test_schedules_keep_the_day_of_the_loan(day_2):
    by_order: dict[str, list[dict]] = {}
    for row in day_2["installments"].to_pylist():
        by_order.setdefault(row["order_id"], []).append(row)
    for order in day_2["credit_orders"].to_pylist():
        schedule = sorted(by_order[order["order_id"]], key=lambda row: row["installment_no"])
        assert len(schedule) == order["term_months"]
        assert sum(row["due_amount"] for row in schedule) == order["disbursed_amount"]
        start = order["disbursed_at"].date()
        for row in schedule:
            months = start.year * 12 + start.month - 1 + row["installment_no"]
            assert (row["due_date"].year, row["due_date"].month) == (months // 12, months % 12 + 1)
            last_of_month = (row["due_date"] + timedelta(days=1)).day == 1
            assert row["due_date"].day == start.day or (row["due_date"].day < start.day and last_of_month)


def test_the_second_day_is_the_first_plus_its_changes(berka_files, day_1, day_2):
    changes = list(BerkaWorld(berka_files).changes(DAY_2))
    assert [(change.kind, change.table, change.rows.num_rows) for change in changes] == [
        ("insert", "credit_orders", 1),
        ("insert", "installments", 60),
    ]
    inserted = {change.table: change.rows for change in changes}
    for name in TABLES:
        if name == "credit_order_events":  # written by the trigger
            continue
        rows = pa.concat_tables([day_1[name], inserted.get(name, SCHEMAS[name].empty_table())])
        order = [(key, "ascending") for key in KEYS[name]]
        assert rows.sort_by(order).equals(day_2[name].sort_by(order))


def test_order_events_are_what_the_trigger_writes_for_an_insert(day_2):
    orders = {row["order_id"]: row for row in day_2["credit_orders"].to_pylist()}
    for event in day_2["credit_order_events"].to_pylist():
        order = orders.pop(event["order_id"])
        assert event == {
            "order_id": order["order_id"],
            "seq": 1,
            "event_type": "created",
            "from_status": None,
            "to_status": "approved",
            "actor": "customer",
            "payload": "{}",
            "occurred_at": order["created_at"],
        }
    assert not orders


def test_there_is_no_day_beyond_the_last_and_no_event(berka_files):
    world = BerkaWorld(berka_files)
    with pytest.raises(SandboxError, match="1998-12-07 to 1998-12-08, and not 1998-12-09"):
        next(world.changes(DAY_2 + timedelta(days=1)))
    assert list(world.events(DAY_1, DAY_2)) == []


def test_missing_folder_file_or_column_is_one_line_naming_the_folder(berka_files, tmp_path):
    incomplete = copy_with_change(berka_files, tmp_path / "incomplete", {})
    (incomplete / "disp.asc").unlink()
    renamed = copy_with_change(berka_files, tmp_path / "renamed", {LOAN: ('"payments"', '"other"')})
    broken = copy_with_change(
        berka_files, tmp_path / "broken", {LOAN: (A_LOAN, A_LOAN.replace("165960", "many"))}
    )
    strange = copy_with_change(berka_files, tmp_path / "strange", {LOAN: (A_LOAN, A_LOAN.replace("A", "X"))})
    for folder in (tmp_path / "absent", incomplete, renamed, broken, strange):
        with pytest.raises(SandboxError) as error:
            dict(BerkaWorld(folder).tables(DAY_1))
        message = str(error.value)
        assert str(folder) in message
        assert "BERKA_DIR" in message
        assert "\n" not in message


def changed_copies(berka_dir: Path, folder: Path) -> Iterator[tuple[str, Path, set[str]]]:
    """Copies with one amount a cent higher, and the measures that this moves."""
    cases = {
        "a loan": (LOAN, A_LOAN, A_LOAN.replace("165960", "165960.01"), {"disbursed_amount"}),
        "a loan payment": (
            TRANSACTIONS,
            A_LOAN_PAYMENT,
            A_LOAN_PAYMENT.replace("4610.00", "4610.01"),
            {"received_amount", "customer_monthly_bank_flow"},
        ),
        "a later credit": (
            LATER_TRANSACTIONS,
            A_LATER_CREDIT,
            A_LATER_CREDIT.replace("900.00", "900.01"),
            {"customer_monthly_bank_flow"},
        ),
    }
    for number, (case, (file, old, new, moved)) in enumerate(cases.items()):
        yield case, copy_with_change(berka_dir, folder / str(number), {file: (old, new)}), moved


def test_a_cent_in_the_files_moves_oracle_and_world(berka_files, tmp_path):
    before = measures_of_oracle(berka_files, DAY_1)
    for case, copy, moved in changed_copies(berka_files, tmp_path):
        expected = measures_of_oracle(copy, DAY_1)
        actual = measures_of_tables(dict(BerkaWorld(copy).tables(DAY_1)))
        for measure in vars(expected):
            assert (getattr(expected, measure) != getattr(before, measure)) == (measure in moved), case
            assert_same(getattr(actual, measure), getattr(expected, measure))


# --- the warehouse --------------------------------------------------------------------------------


def assert_marts_match(berka_dir: Path, warehouse: Path, day: date) -> None:
    """The marts equal the oracle, no row missing and none too many."""
    expected = measures_of_oracle(berka_dir, day)
    with duckdb.connect(warehouse, read_only=True) as marts:
        cash = marts.execute(
            "select month, currency, orders_disbursed, disbursed_amount, coalesce(received_amount, 0)"
            " from marts.monthly_cash_flow"
        ).fetchall()
        flow = marts.execute(
            "select customer_id, month, currency, inflow, outflow, net, closing_balance, transactions"
            " from marts.customer_monthly_bank_flow"
        ).fetchall()

    assert {row[1] for row in cash} == {"CZK"}
    assert len({row[0] for row in cash}) == len(cash)
    assert_same({row[0]: row[2] for row in cash if row[2]}, oracle.orders_disbursed(berka_dir, day))
    assert_same({row[0]: row[3] for row in cash if row[3]}, expected.disbursed_amount)
    assert_same({row[0]: row[4] for row in cash if row[4]}, expected.received_amount)

    assert len({row[:3] for row in flow}) == len(flow)
    assert_same({row[:3]: row[3:] for row in flow if row[7]}, expected.customer_monthly_bank_flow)
    # A month without movement carries the balance of the month before.
    carried: dict[int, Decimal] = {}
    for customer_id, month, _, inflow, outflow, net, closing_balance, transactions in sorted(flow):
        if not transactions:
            assert (inflow, outflow, net) == (0, 0, 0), (customer_id, month)
            assert closing_balance == carried[customer_id], (customer_id, month)
        carried[customer_id] = closing_balance


def assert_layers_match(berka_dir: Path, built: Any, day: date) -> None:
    """Every row of the files is in PostgreSQL, in the lake and in staging, once."""
    expected = oracle.counts(berka_dir, day)
    assert_same({name: built.rows[name] for name in TABLES}, expected)
    with duckdb.connect(built.warehouse, read_only=True) as warehouse:
        for name in TABLES:
            landed = warehouse.execute(
                f"select count(*) from read_parquet('{built.lake}/raw/app/{name}/*/*.parquet',"
                f" hive_partitioning = true) where extract_date <= date '{day}'"
            )
            assert (name, landed.fetchone()[0]) == (name, expected[name])
            staged = warehouse.execute(f"select count(*) from staging.stg_app__{name}")
            assert (name, staged.fetchone()[0]) == (name, expected[name])


def test_marts_equal_the_files_on_the_first_day(berka_files, berka_day1):
    assert_marts_match(berka_files, berka_day1.warehouse, DAY_1)


def test_marts_equal_the_files_on_the_second_day(berka_files, berka_day2):
    assert_marts_match(berka_files, berka_day2.warehouse, DAY_2)


def test_default_rates_by_region_and_year_equal_the_files(berka_files, berka_day2):
    with duckdb.connect(berka_day2.warehouse, read_only=True) as marts:
        rows = marts.execute(
            "select state, year(disbursed_at), count(*), count(*) filter (repayment_outcome = 'defaulted')"
            " from marts.credit_decisions join marts.customer_360 using (customer_id) group by all"
        ).fetchall()
    expected = oracle.default_rates(berka_files, DAY_2)
    assert sum(loans for loans, _ in expected.values()) == 682
    assert sum(defaults for _, defaults in expected.values()) == 31
    assert_same({row[:2]: row[2:] for row in rows}, expected)


def test_vintages_by_year_equal_the_files_as_long_as_the_ledger_is_complete(berka_files, berka_day2):
    with duckdb.connect(berka_day2.warehouse, read_only=True) as marts:
        rows = marts.execute(
            "select year(vintage_month), sum(loans), sum(disbursed_amount) from marts.loan_vintages"
            " where months_on_book = 0 group by 1"
        ).fetchall()
    # the last month-end of the complete ledger is that of February 1994
    loans, amounts = oracle.orders_disbursed(berka_files, DAY_2), oracle.disbursed_amount(berka_files, DAY_2)
    covered = [month for month in loans if month <= date(1994, 2, 1)]
    expected = {
        year: (
            sum(loans[month] for month in covered if month.year == year),
            sum(amounts[month] for month in covered if month.year == year),
        )
        for year in (1993, 1994)
    }
    assert all(count > 5 for count, _ in expected.values()), expected
    assert {row[0]: row[1:] for row in rows} == expected


def test_a_scorecard_says_what_so_few_loans_allow(berka_files, berka_day2):
    """By the lender's word 31 of 234 finished loans defaulted: too few to show that anything tells them apart."""

    def train(*options: str) -> subprocess.CompletedProcess:
        command = (
            sys.executable,
            "-m",
            "ml.scorecard",
            "train",
            "--version",
            "b",
            "--dry-run",
            "--allow-backfilled",
        )
        return subprocess.run(
            (*command, "--warehouse", str(berka_day2.warehouse), *options),
            cwd=ROOT, env=os.environ | {"COLUMNS": "200"}, capture_output=True, text=True, check=False,
        )  # fmt: skip

    said = train("--label", "outcome").stdout
    finished, defaulted = map(
        int, re.search(r"trained on (\d+) orders .* of which (\d+) defaulted", said).groups()
    )
    bank = oracle.outcomes(berka_files, DAY_2)
    assert (finished, defaulted) == (bank["A"] + bank["B"], bank["B"]) == (234, 31)
    gini, low, high = map(float, re.search(r"Gini (\S+) \(95 %: (\S+) to (\S+)\)", said).groups())
    assert low < gini < high
    assert high - low > 0.3
    assert ("the interval holds 0" in said) == (low <= 0)
    # where the ledger is complete no loan is a year old: nothing can be learned of the first twelve months
    refused = train()
    assert refused.returncode == 1
    assert "0 of 0 labelled orders defaulted; a scorecard needs at least 20" in refused.stderr


def test_due_and_overdue_equal_the_files_as_long_as_the_ledger_is_complete(berka_files, berka_day2):
    with duckdb.connect(berka_day2.warehouse, read_only=True) as marts:
        rows = marts.execute(
            "select month, due_amount, overdue_amount from marts.monthly_cash_flow where due_amount is not null"
        ).fetchall()
        known = marts.execute("select count(outstanding_amount) from marts.credit_decisions").fetchone()[0]
    expected = oracle.instalments(berka_files)
    assert sum(overdue > 0 for _, overdue in expected.values()) > 3
    assert_same({row[0]: row[1:] for row in rows if row[0] in expected or any(row[1:])}, expected)
    # After that nobody can tell a missed payment from a missing record.
    assert known == 0


def test_every_row_passes_through_the_layers_on_the_first_day(berka_files, berka_day1):
    assert_layers_match(berka_files, berka_day1, DAY_1)


def test_every_row_passes_through_the_layers_on_the_second_day(berka_files, berka_day2):
    assert_layers_match(berka_files, berka_day2, DAY_2)


def test_a_cent_in_the_files_moves_the_marts(berka_files, run_pipeline, tmp_path):
    changes = {
        LOAN: (A_LOAN, A_LOAN.replace("165960", "165960.01")),
        TRANSACTIONS: (A_LOAN_PAYMENT, A_LOAN_PAYMENT.replace("4610.00", "4610.01")),
    }
    copy = copy_with_change(berka_files, tmp_path / "files", changes)
    month = date(1993, 7, 1)
    for measure in (oracle.disbursed_amount, oracle.received_amount):
        assert measure(copy, DAY_1)[month] - measure(berka_files, DAY_1)[month] == CENT
    assert_marts_match(copy, run_pipeline("berka", copy).warehouse, DAY_1)
