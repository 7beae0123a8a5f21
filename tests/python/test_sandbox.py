"""The sandbox: a generated world that is a function of (seed, scale, day), and processes that never stay behind."""

import gzip
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path

import httpx
import psutil
import psycopg
import pytest
from dotenv import dotenv_values

from sandbox import control, loader, postgres
from sandbox.errors import SandboxError
from sandbox.files import Folder, supervisor_pid
from sandbox.settings import Settings, load
from sandbox.worlds.base import KEYS, TABLES
from sandbox.worlds.dirt import CASES, DirtyWorld
from sandbox.worlds.risk import latent_risk
from sandbox.worlds.synthetic import SyntheticWorld

ROOT = Path(__file__).resolve().parents[2]
SEED, SCALE = 3, 0.05
TINY = ("--scale", "0.01")


def checksums(dsn: str) -> dict[str, str]:
    """SHA-256 of every table's ordered COPY."""
    sums = {}
    with psycopg.connect(dsn) as connection:
        for table in TABLES:
            digest = hashlib.sha256()
            query = f"copy (select * from app.{table} order by {', '.join(KEYS[table])}) to stdout"
            with connection.cursor().copy(query) as rows:
                for block in rows:
                    digest.update(block)
            sums[table] = digest.hexdigest()
    return sums


def new_database(dsn: str) -> str:
    """Makes a database beside another; returns where."""
    database = f"w{time.monotonic_ns()}"
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f"create database {database}")
    return dsn.replace("/postgres?", f"/{database}?")


def load_world(dsn: str, world: SyntheticWorld, day: date | None = None) -> str:
    """Loads a world as of a day into a database of its own; returns where."""
    dsn = new_database(dsn)
    world.first_date = day or world.first_date
    with psycopg.connect(dsn, autocommit=True) as connection:
        loader.create_world(connection, world, "key")
    return dsn


def is_up(folder: Folder) -> bool:
    return bool(supervisor_pid(folder) or postgres.find_postmaster(folder.pgdata))


def wait_for(condition: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


class Home:
    """A SANDBOX_DIR, used by the command line."""

    def __init__(self, path: Path) -> None:
        self.settings = Settings(world="synthetic", sandbox_dir=path, _env_file=None)
        self.folder = Folder(self.settings.folder)
        names = {"WORLD", "SANDBOX_DIR", "SANDBOX_PORT", "SANDBOX_DIRT", "SANDBOX_DELETES"}
        self.env = {k: v for k, v in os.environ.items() if k not in names} | {"SANDBOX_DIR": str(path)}

    def start(self, *arguments: str, **env: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "sandbox", *arguments]
        return subprocess.Popen(
            command, cwd=ROOT, env=self.env | env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def run(self, *arguments: str, **env: str) -> str:
        process = self.start(*arguments, **env)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        return out

    def fail(self, *arguments: str, **env: str) -> str:
        """Runs a command that must fail with one line, which it returns."""
        process = self.start(*arguments, **env)
        out, err = process.communicate(timeout=120)
        assert (process.returncode, out) == (1, ""), err
        assert err.startswith("error: "), err
        assert len(err.splitlines()) == 1, err
        return err


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path / "sandbox")
    yield home
    control.down(home.settings)


@pytest.fixture(scope="module")
def two_days(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict]:
    """A world made by the command line, then advanced two days; checksums of both ends."""
    home = Home(tmp_path_factory.mktemp("sandbox"))
    home.run("up", "--seed", str(SEED), "--scale", str(SCALE))
    dsn = control.status(home.settings).dsn
    seen = {"home": home, "dsn": dsn, "first": checksums(dsn)}
    home.run("advance")
    home.run("advance")
    seen["last"] = checksums(dsn)
    yield seen
    control.down(home.settings)


@pytest.fixture(scope="module")
def rows(two_days: dict) -> Callable[[str], list[tuple]]:
    """Runs SQL on the advanced world."""

    def run(query: str) -> list[tuple]:
        with psycopg.connect(two_days["dsn"]) as connection:
            return connection.execute(query).fetchall()

    return run


# --- the world ---------------------------------------------------------------------------------------


def test_a_seed_makes_one_world(two_days):
    again = load_world(two_days["dsn"], SyntheticWorld(SEED, SCALE))
    other = load_world(two_days["dsn"], SyntheticWorld(SEED + 1, SCALE))
    assert checksums(again) == two_days["first"]
    different = checksums(other)
    assert [table for table in TABLES if different[table] == two_days["first"][table]] == []


def test_two_days_lived_equal_two_days_loaded(two_days):
    last = SyntheticWorld.first_date + timedelta(days=2)
    loaded = load_world(two_days["dsn"], SyntheticWorld(SEED, SCALE), last)
    assert two_days["last"] != two_days["first"]
    assert checksums(loaded) == two_days["last"]


def test_a_month_lived_equals_a_month_loaded(two_days):
    # GIVEN a world old enough for renegotiations, write-offs and renewals to happen every few days
    world = SyntheticWorld(SEED, 0.1)
    lived = load_world(two_days["dsn"], world)
    last = world.first_date + timedelta(days=30)
    with psycopg.connect(lived, autocommit=True) as connection:
        for day in range(1, 31):
            loader.apply_day(connection, world, SyntheticWorld.first_date + timedelta(days=day))
    assert checksums(lived) == checksums(load_world(two_days["dsn"], SyntheticWorld(SEED, 0.1), last))


def test_the_event_log_lived_equals_the_event_log_written_at_once(two_days):
    folder = two_days["home"].folder
    last = SyntheticWorld.first_date + timedelta(days=2)
    expected = dict(SyntheticWorld(SEED, SCALE).events(date.min, last))
    found = {
        str(path.relative_to(folder.events)): gzip.decompress(path.read_bytes())
        for path in folder.events.rglob("*.gz")
    }
    assert found == expected


def test_event_log_contents(two_days, rows):
    lines, by_file = [], {}
    for path in sorted(two_days["home"].folder.events.rglob("*.gz")):
        parsed = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
        by_file[path] = parsed
        lines += parsed
        hour = f"{path.parent.name}T{path.name[:2]}"
        assert all(line["received_at"].startswith(hour) for line in parsed)
    ids = [line["event_id"] for line in lines]
    assert 0 < len(ids) - len(set(ids)) < 0.02 * len(ids)  # webhook duplicates
    assert any("-late" in path.name for path in by_file)
    assert {line["actor"] for line in lines} == {"customer", "staff", "system"}
    assert all((line["session_id"] is not None) == (line["actor"] == "customer") for line in lines)
    assert all(line["occurred_at"] < line["received_at"] for line in lines)
    customers = rows("select max(customer_id) from app.customers")[0][0]
    assert max(line["customer_id"] for line in lines) <= customers
    # Nothing received after the world's present day is there yet.
    assert max(line["received_at"] for line in lines) < "2026-01-03T03:00:00Z"


def test_sizes_at_full_scale():
    counts = {name: rows.num_rows for name, rows in SyntheticWorld(1, 1.0).tables(SyntheticWorld.first_date)}
    for table, wanted in {"customers": 5_000, "credit_orders": 20_000, "bank_transactions": 600_000}.items():
        assert counts[table] == pytest.approx(wanted, rel=0.05)


VIOLATIONS = {
    "principal repaid is principal disbursed": """
        select order_id from app.installments join app.credit_orders using (order_id)
        group by order_id, schedule_version, disbursed_amount having sum(principal_due) <> disbursed_amount""",
    "an instalment is principal and interest": """
        select * from app.installments where due_amount <> principal_due + interest_due or due_amount <= 0""",
    "every disbursed order has a schedule, no other has": """
        select * from app.credit_orders as o
        where (disbursed_at is not null) <> exists (select from app.installments as i where i.order_id = o.order_id)""",
    "a payment is its parts": """
        select * from app.loan_payments where amount <> principal + interest + penalty or amount = 0""",
    "a paid instalment is paid to the cent, an unpaid one is not": """
        with paid as (
            select order_id, installment_no, sum(principal + interest) as amount,
                -- a payment that bounces does so within 21 hours
                coalesce(sum(principal + interest) filter (
                    where coalesce((select p.paid_at from app.loan_payments as p where p.payment_id = l.reversal_of),
                        paid_at) < '2026-01-02 06:00Z'), 0) as settled
            from app.loan_payments as l group by 1, 2
        )
        select * from app.installments as i left join paid using (order_id, installment_no)
        where schedule_version = (select max(schedule_version) from app.installments as j where j.order_id = i.order_id)
        and (status = 'paid' and paid.amount is distinct from due_amount
             or status = 'partially_paid' and not (settled > 0 and settled < due_amount)
             or status = 'open' and settled <> 0)""",
    "a reversal negates its payment": """
        select * from app.loan_payments as r left join app.loan_payments as p on p.payment_id = r.reversal_of
        where r.reversal_of is not null and (p.amount is distinct from -r.amount or p.paid_at > r.paid_at
            or p.order_id <> r.order_id or p.installment_no <> r.installment_no)""",
    "balances run": """
        select * from (
            select balance_after - amount as before,
                lag(balance_after) over (partition by account_id order by booked_at, transaction_id) as previous
            from app.bank_transactions) as t
        where before <> previous""",
    "one currency per account": """
        select account_id from app.bank_transactions group by 1 having count(distinct currency) > 1""",
    "nothing is known before it happens": """
        select 1 from app.bank_transactions where created_at < booked_at
        union all select 1 from app.loan_payments where created_at < paid_at
        union all select 1 from app.loan_events where created_at < occurred_at
        union all select 1 from app.risk_evaluations where created_at < evaluated_at""",
    "updates follow creation, and the day ends at São Paulo's midnight": """
        select 1 from app.customers where not (created_at <= updated_at and updated_at < '2026-01-03 03:00Z')
        union all
        select 1 from app.credit_orders where not (created_at <= updated_at and updated_at < '2026-01-03 03:00Z')
        union all select 1 from app.consents where not (granted_at <= updated_at and updated_at < '2026-01-03 03:00Z')
        union all select 1 from app.bank_transactions where created_at >= '2026-01-03 03:00Z'""",
    "decided means approved or rejected": """
        select * from app.credit_orders
        where (decided_at is not null) <> (status in ('approved', 'rejected'))
        or (approved_amount is not null) <> (status = 'approved')
        or disbursed_at < decided_at or decided_at < created_at or approved_amount > requested_amount""",
    "disbursed means repaid somehow": """
        select * from app.credit_orders where (disbursed_at is not null) <> (repayment_status is not null)
        or (disbursed_at is not null) <> (disbursed_amount is not null)""",
    "late means an overdue instalment": """
        with force as (
            select order_id, bool_or(status in ('overdue', 'partially_paid') and due_date < '2026-01-02') as behind,
                bool_and(status = 'paid') as done
            from app.installments as i
            where schedule_version =
                (select max(schedule_version) from app.installments as j where j.order_id = i.order_id)
            group by 1)
        select * from app.credit_orders join force using (order_id)
        where repayment_status <> 'defaulted' and repayment_status <>
            case when done then 'paid_off' when behind then 'late' else 'current' end""",
    "defaulted means more than 90 days": """
        select * from app.credit_orders as o where repayment_status = 'defaulted' and not exists (
            select from app.installments as i where i.order_id = o.order_id and due_date < '2025-10-04')""",
    "a second schedule repeats what was paid": """
        select * from app.installments as a join app.installments as b using (order_id, installment_no)
        where a.schedule_version = 1 and b.schedule_version = 2 and a.status = 'paid'
        and (a.due_date, a.due_amount) <> (b.due_date, b.due_amount)""",
    "the first schedule ends where the second begins": """
        select * from app.installments as a where status not in ('paid', 'replaced') and exists (
            select from app.installments as b where b.order_id = a.order_id and b.schedule_version > a.schedule_version)""",
    "evaluations come after their order": """
        select * from app.risk_evaluations as e join app.credit_orders as o using (order_id)
        where e.evaluated_at < o.created_at""",
    "events are numbered from 1 and end in the order's state": """
        select order_id from app.credit_order_events join app.credit_orders using (order_id)
        group by order_id, status having max(seq) <> count(*) or min(seq) <> 1
        or (array_agg(to_status order by seq desc))[1] <> status""",
}


@pytest.mark.parametrize("rule", VIOLATIONS)
def test_invariant(rows, rule):
    assert rows(VIOLATIONS[rule]) == []


def test_foreign_keys_hold_though_the_load_does_not_check_them(rows):
    keys = rows("""
        select conrelid::regclass::text, a.attname, confrelid::regclass::text, b.attname
        from pg_constraint
        join pg_attribute as a on a.attrelid = conrelid and a.attnum = conkey[1]
        join pg_attribute as b on b.attrelid = confrelid and b.attnum = confkey[1]
        where contype = 'f'""")
    assert len(keys) >= 9
    for child, column, parent, key in keys:
        assert rows(f"select {column} from {child} where {column} not in (select {key} from {parent})") == []


def test_everything_that_can_happen_happens(rows):
    def values(query: str) -> set:
        return {row[0] for row in rows(query)}

    assert values("select distinct status from app.credit_orders") == {
        "in_review",
        "approved",
        "rejected",
        "cancelled",
    }
    assert values("select distinct repayment_status from app.credit_orders") == {
        None,
        "current",
        "late",
        "paid_off",
        "defaulted",
    }
    statuses = values("select distinct status from app.installments")
    assert statuses >= {"open", "paid", "overdue", "replaced"}
    assert values("select distinct kind from app.loan_events") >= {"renegotiated", "written_off"}
    assert values("select distinct currency from app.credit_orders") == {"BRL", "USD", "EUR"}
    assert rows("select count(*) > 0 from app.loan_payments where reversal_of is not null") == [(True,)]
    assert rows("select count(*) > 0 from app.customers where updated_at > created_at") == [(True,)]


def test_cpfs_have_valid_check_digits(rows):
    for (cpf,) in rows("select cpf from app.customers"):
        digits = [int(digit) for digit in cpf]
        assert len(digits) == 11
        for place in (9, 10):
            total = sum(digit * (place + 1 - i) for i, digit in enumerate(digits[:place]))
            assert digits[place] == total * 10 % 11 % 10


def test_risk_drives_score_decision_and_repayment():
    world = SyntheticWorld(1, 0.5)
    tables = dict(world.tables(world.first_date))
    cpfs = tables["customers"]["cpf"].to_pylist()
    risk = latent_risk(1, cpfs)
    orders = tables["credit_orders"].select(["customer_id", "status", "repayment_status"]).to_pylist()

    def share(wanted: Callable[[dict], bool], among: Callable[[dict], bool], risky: bool) -> float:
        chosen = [o for o in orders if among(o) and (risk[o["customer_id"] - 1] > 0) == risky]
        return sum(map(wanted, chosen)) / len(chosen)

    decided = [lambda o: o["status"] == "approved", lambda o: o["status"] in ("approved", "rejected")]
    assert share(*decided, risky=True) < 0.6 < share(*decided, risky=False)
    lost = [lambda o: o["repayment_status"] == "defaulted", lambda o: o["repayment_status"] is not None]
    assert share(*lost, risky=True) > 1.5 * share(*lost, risky=False)


# --- dirt and deletions ------------------------------------------------------------------------------


def dirty() -> DirtyWorld:
    world = SyntheticWorld(SEED, SCALE)
    return DirtyWorld(world, 0.05, deletes=True, since=world.first_date)


def live(dsn: str, world: DirtyWorld, days: int) -> str:
    """A database that saw the dirty world's first day and `days` more."""
    dsn = new_database(dsn)
    with psycopg.connect(dsn, autocommit=True) as connection:
        loader.create_world(connection, world, "key", then=world.dirt_of(world.first_date))
        for day in range(1, days + 1):
            loader.apply_day(connection, world, world.first_date + timedelta(days=day))
    return dsn


def test_dirt_is_the_same_every_time_and_leaves_the_world_as_it_is(two_days):
    lived = live(two_days["dsn"], dirty(), 2)
    assert checksums(lived) == checksums(live(two_days["dsn"], dirty(), 2))
    with psycopg.connect(lived, autocommit=True) as connection:
        # all of the dirt hangs on customers of its own
        for table in (
            "credit_order_events",
            "risk_evaluations",
            "installments",
            "loan_payments",
            "loan_events",
        ):
            connection.execute(
                f"delete from app.{table} where order_id in"
                " (select order_id from app.credit_orders where customer_id >= 899999999)"
            )
        connection.execute("delete from app.bank_transactions where account_id >= 899999999")
        for table in ("bank_accounts", "consents", "credit_orders", "customers"):
            connection.execute(f"delete from app.{table} where customer_id >= 899999999")
        connection.execute("alter table app.customers drop column preferred_channel")
    assert checksums(lived) == two_days["last"]


def test_the_truth_is_what_the_database_holds(two_days):
    lived = live(two_days["dsn"], dirty(), 4)
    truth = list(dirty().truth(SyntheticWorld.first_date + timedelta(days=4)))
    bad = [fact for fact in truth if fact["fate"] == "quarantined"]
    gone = {(fact["table"], *fact["key"]) for fact in truth if fact["fate"] == "deleted"}
    assert {fact["table"] for fact in bad} == {*TABLES, "events"}
    cases = {(table, case.reasons) for table, cases in CASES.items() for case in cases}
    assert cases == {(fact["table"], tuple(fact["reasons"])) for fact in bad}
    assert {bool(fact["resolved"]) for fact in bad} == {True, False}
    assert gone
    with psycopg.connect(lived) as connection:
        for fact in truth:
            if fact["table"] == "events":
                continue
            where = " and ".join(f"{column}::text = %s" for column in KEYS[fact["table"]])
            query = f"select count(*) from app.{fact['table']} where {where}"
            there = connection.execute(query, fact["key"]).fetchone()[0]
            assert there == ((fact["table"], *fact["key"]) not in gone), fact


def test_dirt_by_the_command_line(home):
    home.run("up", "--seed", "1", "--scale", "0.01")
    home.run("advance", "--dirt", "0.1")
    truth = [json.loads(line) for line in home.folder.truth.read_text().splitlines()]
    assert {fact["fate"] for fact in truth} == {"quarantined"}
    assert {fact["day"] for fact in truth} == {"2026-01-01"}
    assert (home.folder.events / "2026-01-01" / "15-resent.jsonl.gz").exists()
    assert "exists with --dirt 0.1" in home.fail("advance", "--dirt", "0.2")
    assert "takes no --dirt" in home.fail("up", "--world", "berka", "--deletes")


def test_a_failed_day_leaves_the_day_before(two_days):
    class Broken(SyntheticWorld):
        def changes(self, day):
            for number, change in enumerate(super().changes(day)):
                if number == 5:
                    raise RuntimeError
                yield change

    dsn = load_world(two_days["dsn"], SyntheticWorld(SEED, SCALE))
    day = SyntheticWorld.first_date + timedelta(days=1)
    with psycopg.connect(dsn, autocommit=True) as connection:
        with pytest.raises(RuntimeError):
            loader.apply_day(connection, Broken(SEED, SCALE), day)
        assert loader.read_world(connection).world_date == SyntheticWorld.first_date
        assert checksums(dsn) == two_days["first"]
        loader.apply_day(connection, SyntheticWorld(SEED, SCALE), day)
        assert loader.read_world(connection).world_date == day


# --- the processes -----------------------------------------------------------------------------------


def test_up_twice_down_and_up_again(home):
    assert "created and started" in home.run("up", *TINY)
    first = control.status(home.settings)
    endpoints = dotenv_values(home.folder.endpoints)
    assert home.folder.endpoints.stat().st_mode & 0o777 == 0o600
    assert endpoints["EXTRACT_DATE"] == "2025-12-31"
    assert "already up" in home.run("up")
    assert control.status(home.settings) == first
    assert home.run("status").split("customers")[1].split()[0] == "50"
    home.run("down")
    assert not is_up(home.folder)
    assert "not running" in home.run("down")
    # WHEN it starts again THEN it is the same world with the same key
    assert "started" in home.run("up")
    assert dotenv_values(home.folder.endpoints)["BUREAU_API_KEY"] == endpoints["BUREAU_API_KEY"]
    assert "exists with --seed 1" in home.fail("up", "--seed", "2")
    home.run("down", "--wipe")
    assert not home.folder.path.exists()
    assert not is_up(home.folder)


def test_the_third_parties_follow_the_day(home):
    home.run("up", *TINY)

    def quoted_days() -> set[str]:
        url = dotenv_values(home.folder.endpoints)["FX_URL"]
        answer = httpx.get(
            f"{url}/olinda/servico/PTAX/versao/v1/odata/CotacaoMoedaPeriodo"
            "(moeda=@moeda,dataInicial=@dataInicial,dataFinalCotacao=@dataFinalCotacao)"
            "?@moeda='USD'&@dataInicial='12-31-2025'&@dataFinalCotacao='01-05-2026'&$format=json"
        )
        return {quote["dataHoraCotacao"][:10] for quote in answer.json()["value"]}

    before = quoted_days()
    home.run("advance", "--days", "2")
    assert "2026-01-02" in quoted_days() - before
    assert dotenv_values(home.folder.endpoints)["EXTRACT_DATE"] == "2026-01-02"


@pytest.mark.parametrize("command", ["up", "down"])
def test_a_killed_supervisor_is_no_obstacle(home, command):
    home.run("up", *TINY)
    before = checksums(control.status(home.settings).dsn)
    os.kill(supervisor_pid(home.folder), signal.SIGKILL)
    home.run(command)
    assert is_up(home.folder) == (command == "up")
    home.run("up")
    assert checksums(control.status(home.settings).dsn) == before


def test_a_stale_pid_file_names_nobody(home):
    home.run("up", *TINY)
    home.run("down")
    home.folder.pid.write_text(str(os.getpid()))
    home.run("down")
    home.run("up")
    assert supervisor_pid(home.folder) != os.getpid()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_stop_everything(home, number):
    home.run("up", *TINY)
    os.kill(supervisor_pid(home.folder), number)
    wait_for(lambda: not is_up(home.folder))


def test_the_end_of_the_lifeline_stops_everything(home):
    program = (
        "import os, time; from sandbox import control; reading, writing = os.pipe();"
        "control.up(scale=0.01, lifeline=reading); print('up', flush=True); time.sleep(600)"
    )
    owner = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, env=home.env, stdout=subprocess.PIPE)
    assert owner.stdout.readline() == b"up\n"
    assert is_up(home.folder)
    processes = psutil.Process(supervisor_pid(home.folder)).children(recursive=True)
    owner.kill()
    owner.communicate()
    wait_for(lambda: not is_up(home.folder))
    assert psutil.wait_procs(processes, timeout=5)[1] == []


def test_an_occupied_port(home):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        error = home.fail("up", *TINY, SANDBOX_PORT=port)
    assert port in error
    assert "SANDBOX_PORT" in error
    assert not is_up(home.folder)
    home.run("up", *TINY, SANDBOX_PORT=port)
    assert control.status(home.settings).port == int(port)


@pytest.mark.parametrize("moment", ["ready to accept connections", "pgdata.new"])
def test_a_killed_up_leaves_nothing_and_the_next_one_works(home, moment):
    first = home.start("up", "--scale", "0.3")
    wait_for(lambda: home.folder.log.exists() and moment in home.folder.log.read_text())
    first.kill()
    first.communicate()
    wait_for(lambda: not is_up(home.folder))
    # THEN no world was made, so another scale is no contradiction
    home.run("up", *TINY)
    dsn = control.status(home.settings).dsn
    assert checksums(dsn) == checksums(load_world(dsn, SyntheticWorld(1, 0.01)))


def test_two_at_once(home):
    both = [home.start("up", *TINY) for _ in range(2)]
    said = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted("created" in text for text in said) == [False, True]


def test_missing_event_files_come_back(home):
    home.run("up", *TINY)
    files = sorted(home.folder.events.rglob("*.gz"))
    content = files[0].read_bytes()
    files[0].unlink()
    (home.folder.events / ".complete_until").unlink()  # as a command killed half-way leaves it
    home.run("up")
    assert sorted(home.folder.events.rglob("*.gz")) == files
    assert files[0].read_bytes() == content


def test_long_paths(tmp_path):
    home = Home(tmp_path / ("long" * 30))
    home.run("up", *TINY)
    assert control.row_counts(dotenv_values(home.folder.endpoints)["SOURCE_DSN"])["customers"] == 50
    home.run("down")


def test_one_line_errors(home, tmp_path):
    assert "python -m sandbox up" in home.fail("advance")
    assert "synthetic or berka" in home.fail("up", "--world", "nowhere")
    assert not is_up(home.folder)
    assert "BERKA_DIR" in home.fail("up", "--world", "berka", BERKA_DIR=str(tmp_path / "absent"))
    assert "SANDBOX_PORT" in home.fail("up", SANDBOX_PORT="many")
    (tmp_path / "file").touch()
    assert "SANDBOX_DIR" in home.fail("up", SANDBOX_DIR=str(tmp_path / "file" / "below"))
    with pytest.raises(SandboxError, match="not up"):
        control.advance(load(sandbox_dir=tmp_path / "other"))


@pytest.mark.parametrize("world", ["../precious", "..", "/precious", "a/b"])
def test_only_worlds_are_deleted(tmp_path: Path, world: str) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "sandbox" / "mine").mkdir(parents=True)
    environment = {**os.environ, "SANDBOX_DIR": str(tmp_path / "sandbox"), "COLUMNS": "200"}
    for name in (world, "mine"):
        done = subprocess.run(
            [sys.executable, "-m", "sandbox", "down", "--world", name, "--wipe"],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        assert "error: " in done.stderr
    assert (tmp_path / "precious").is_dir()
    assert (tmp_path / "sandbox" / "mine").is_dir()
