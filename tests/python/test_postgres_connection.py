"""The source as it is in production: written to all the time, a replica, behind TLS, with time limits."""

import contextlib
import itertools
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import duckdb
import psycopg
import pyarrow as pa
import pytest

from ingestion import postgres
from ingestion.config import TableConfig
from ingestion.lake import BatchWriter
from ingestion.run import Landed, run
from ingestion.settings import Secret, Settings
from sandbox import postgres as sandbox_postgres
from sandbox.postgres import Postgres

SEED = int(os.environ.get("SEED") or random.randrange(2**32))


def table(name: str) -> TableConfig:
    return TableConfig(
        "app", name, "postgres", ("id",), "updated_at", options={"schema": "app", "overlap_seconds": 3600}
    )


@pytest.fixture(scope="module")
def replicated(new_folder: Callable[[str], Path]) -> Iterator[tuple[str, str]]:
    """The DSNs of a primary and of its streaming replica, which never waits for a query."""
    folder = new_folder("primary")
    folder.chmod(0o755)
    options = {"wal_level": "replica", "max_wal_senders": "4", "max_standby_streaming_delay": "0"}
    options["synchronous_commit"] = "local"  # else the log is sent some time later
    with pytest.MonkeyPatch.context() as patch, (folder / "log").open("wb") as log:
        for name, value in options.items():
            patch.setitem(sandbox_postgres._OPTIONS, name, value)
        primary = Postgres(folder / "pgdata", log)
        with psycopg.connect(primary.dsn, autocommit=True) as connection:
            connection.execute("create schema app")
        standby_folder = new_folder("standby")
        pgdata = standby_folder / "pgdata"
        identity = sandbox_postgres._identity()
        if identity:
            shutil.chown(standby_folder, identity["user"], identity["group"])
        copy = f"{sandbox_postgres._BIN}/pg_basebackup -R -X stream -c fast -d {primary.dsn} -D {pgdata}"
        sandbox_postgres._let_through(pgdata)
        subprocess.run(copy.split(), check=True, cwd="/", **identity)
        for socket in pgdata.glob(".s.PGSQL.*"):
            socket.unlink()
        standby = Postgres(pgdata, log)
        yield primary.dsn, standby.dsn
        standby.stop()
        primary.stop()


@pytest.fixture
def primary(replicated: tuple[str, str]) -> Iterator[psycopg.Connection]:
    with psycopg.connect(replicated[0], autocommit=True) as connection:
        connection.execute("drop schema if exists app cascade; create schema app")
        yield connection


@pytest.fixture
def settings(replicated: tuple[str, str], tmp_path: Path) -> Settings:
    return Settings(
        lake=str(tmp_path / "lake"),
        source_dsn=replicated[0],
        extract_date=date(2025, 12, 31),
    )


def landed(settings: Settings, name: str, columns: str) -> list[tuple]:
    with duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        files = f"{settings.lake}/raw/app/{name}/*/*.parquet"
        return connection.execute(f"select {columns} from read_parquet('{files}') order by all").fetchall()


def replayed(primary: psycopg.Connection, standby: psycopg.Connection) -> None:
    """Wait until the replica has what the primary has."""
    primary.execute("create table if not exists public.progress (number int)")
    primary.execute("insert into public.progress select count(*) from public.progress")
    (wanted,) = primary.execute("select max(number) from public.progress").fetchone()
    for _ in range(600):
        with contextlib.suppress(psycopg.Error):
            if standby.execute("select max(number) from public.progress").fetchone()[0] == wanted:
                return
        time.sleep(0.05)
    pytest.fail("the replica does not follow its primary")


# ---------------------------------------------------------------- a replica


def test_a_recovery_conflict_is_retried_and_publishes_no_half_table(
    primary: psycopg.Connection,
    replicated: tuple[str, str],
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # GIVEN two tables on a replica
    for name, rows in (("small", 10), ("large", 800_000)):
        primary.execute(f"create table app.{name} (id int primary key, body text, updated_at timestamptz)")
        primary.execute(
            f"insert into app.{name} select i, repeat('x', 100), timestamptz '2025-01-01' from generate_series(1, {rows}) i"
        )
    settings.source_dsn = Secret(replicated[1])
    snapshots: list[str] = []
    attempts: list[str] = []

    def write(writer: BatchWriter, rows: pa.Table) -> None:
        attempts.append(writer.table.table)
        if writer.table.table == "large" and len(snapshots) == 1:
            if attempts.count("large") == 1:
                # WHEN, in the middle of the second, rows that its snapshot needs are removed for good
                primary.execute("delete from app.large where id % 2 = 0; delete from app.small where id > 5")
                primary.execute("vacuum app.large")
            # The replica ends the query while it still has rows to send; how soon depends on the machine.
            time.sleep(1)
        original_write(writer, rows)

    def connect(*arguments: str):
        snapshots.append("taken")
        return original_connect(*arguments)

    original_write, original_connect = BatchWriter.write, postgres.connect
    monkeypatch.setattr(BatchWriter, "write", write)
    monkeypatch.setattr(postgres, "connect", connect)
    with psycopg.connect(replicated[1], autocommit=True) as standby:
        replayed(primary, standby)
    results = run(settings, [table("small"), table("large")])
    # THEN the second is read again, whole, from a fresh snapshot; the first, published by then, is not
    assert [(r.error, r.rows) for r in results] == [(None, 10), (None, 400_000)]
    assert len(snapshots) == 2, "the replica ended no query: the test proved nothing"
    assert attempts.count("small") == 1
    assert len(list(Path(settings.lake).glob("raw/app/large/*/*.parquet"))) == 1
    assert landed(settings, "large", "count(*), count(distinct id), max(id % 2), min(id % 2)") == [
        (400_000, 400_000, 1, 1)
    ]


def test_a_replica_that_ends_every_attempt_is_named(
    primary: psycopg.Connection,
    replicated: tuple[str, str],
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The query ends its own session: a replica's own conflicts cannot be had at every attempt."""
    primary.execute(
        "create view app.slow as select i as id, now() as updated_at,"
        " case when i = 200000 then pg_terminate_backend(pg_backend_pid()) end as ended"
        " from generate_series(1, 400000) as i"
    )
    settings.source_dsn = Secret(replicated[1])
    monkeypatch.setattr(postgres, "ATTEMPTS_ON_A_REPLICA", 2)
    with psycopg.connect(replicated[1], autocommit=True) as standby:
        replayed(primary, standby)
    with pytest.raises(postgres.IngestionError, match="the replica ended 2 attempts to read it"):
        run(settings, [table("slow")])
    assert not list(Path(settings.lake).glob("raw/**/*.parquet"))


# ---------------------------------------------------------------- limits and locks


def test_a_session_says_who_it_is_and_locks_nobody_out(
    primary: psycopg.Connection, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    # GIVEN two tables, the second being read
    for name in ("first", "second"):
        primary.execute(f"create table app.{name} (id int primary key, updated_at timestamptz not null)")
        primary.execute(f"insert into app.{name} select i, now() from generate_series(1, 300000) i")
    seen: dict[str, list] = {}

    def write(writer: BatchWriter, rows: pa.Table) -> None:
        if writer.table.table == "second" and not seen:
            seen["sessions"] = primary.execute(
                "select count(*), count(distinct application_name), min(application_name) from pg_stat_activity"
                " where pid <> pg_backend_pid() and backend_type = 'client backend'"
            ).fetchall()
            seen["locks"] = primary.execute(
                "select distinct relation::regclass::text, mode from pg_locks join pg_class c on c.oid = relation"
                " where relnamespace = 'app'::regnamespace and relkind = 'r'"
            ).fetchall()
            # writers and DDL on the other table go through at once
            primary.execute("set lock_timeout = '2s'")
            primary.execute("update app.second set updated_at = now() where id = 1")
            primary.execute("alter table app.first add column more text")
        original(writer, rows)

    original = BatchWriter.write
    monkeypatch.setattr(BatchWriter, "write", write)
    results = run(settings, [table("first"), table("second")])
    assert [r.error for r in results] == [None, None]
    assert seen["sessions"] == [(2, 1, "credit-lakehouse ingestion")]
    assert seen["locks"] == [("app.second", "AccessShareLock")]


@pytest.mark.parametrize("reconcile", [False, True])
def test_a_statement_that_takes_too_long_fails_its_table_alone(
    primary: psycopg.Connection, settings: Settings, reconcile: bool
) -> None:
    primary.execute("create table app.fine (id int primary key, updated_at timestamptz)")
    primary.execute("insert into app.fine values (1, now())")
    # With `reconcile` the look at the key takes too long, else the rows do.
    key = "(select 1 from pg_sleep(20))" if reconcile else "1"
    primary.execute(
        f"create view app.slow as select {key} as id, now() as updated_at, pg_sleep(20)::text as nap"
    )
    settings.source_timeout = "400ms"
    slow, fine = run(settings, [table("slow"), table("fine")], reconcile=reconcile)
    assert slow.error == "app.slow: PostgreSQL refused: canceling statement due to statement timeout"
    assert (fine.error, fine.rows) == (None, 1)


KILLS = """
import random, sys, time
import psutil, psycopg
from ingestion.config import TableConfig
from ingestion.lake import BatchWriter
from ingestion.run import run
from ingestion.settings import Settings

dsn, folder, postmaster = sys.argv[1], sys.argv[2], psutil.Process(int(sys.argv[3]))
write, killed = BatchWriter.write, []

def and_kill(writer, rows):
    if killed and killed[-1] is None and random.random() < 0.5:
        sessions = [p for p in postmaster.children() if " postgres postgres " in p.cmdline()[0]]
        killed[-1] = len(sessions)
        for session in sessions:
            session.kill()
    write(writer, rows)

BatchWriter.write = and_kill
tables = [
    TableConfig("app", name, "postgres", ("id",), "updated_at", options={"schema": "app"})
    for name in ("large", "small", "small_2")
]
for number in range(8):
    killed.append(None)
    try:
        results = run(Settings(lake=f"{folder}/{number}", source_dsn=dsn, extract_date="2025-12-31"), tables)
        print("|".join(r.error or "landed" for r in results), flush=True)
    except Exception as error:
        print(f"whole run: {error}", flush=True)
    while True:
        try:
            psycopg.connect(dsn).close()
            break
        except psycopg.Error:
            time.sleep(0.02)
print("killed", sum(map(bool, killed)))
"""


def test_a_postgresql_that_is_killed_under_a_copy_is_one_line(new_folder: Callable[[str], Path]) -> None:
    """In a process of its own, which the driver could end; the kills hit COPYs under way and just ended."""
    folder = new_folder("killed")
    folder.chmod(0o755)
    with (folder / "log").open("wb") as log:
        server = Postgres(folder / "pgdata", log)
        with psycopg.connect(server.dsn, autocommit=True) as connection:
            connection.execute("set synchronous_commit = on; create schema app")
            for name, rows in (("large", 300_000), ("small", 1000), ("small_2", 1000)):
                connection.execute(
                    f"create table app.{name} as select i as id, repeat('x', 80) as body,"
                    f" now() as updated_at from generate_series(1, {rows}) as i"
                )
        postmaster = sandbox_postgres.find_postmaster(folder / "pgdata")
        arguments = [sys.executable, "-c", KILLS, server.dsn, str(folder / "lake"), str(postmaster.pid)]
        (folder / "lake").mkdir()
        done = subprocess.run(arguments, capture_output=True, text=True, check=False)
        server.stop()
    assert (done.returncode, done.stderr) == (0, "")
    *runs, killed = done.stdout.splitlines()
    assert int(killed.split()[1]) >= 5
    assert sum("went away" in line for line in runs) >= 4


def test_nothing_can_be_written_through_any_connection(replicated: tuple[str, str]) -> None:
    refused = pytest.raises(postgres.IngestionError, match="in a read-only transaction")
    with psycopg.connect(replicated[0], autocommit=True) as database:
        database.execute("drop sequence if exists public.numbers; create sequence public.numbers")
    with postgres.connect(replicated[0]) as snapshot:
        with refused:
            snapshot.query("select nextval('public.numbers')")
        with refused, snapshot.psycopg() as connection:
            connection.execute("create table app.mine (id int)")


# ---------------------------------------------------------------- TLS


@pytest.fixture(scope="module")
def tls(new_folder: Callable[[str], Path]) -> Iterator[tuple[str, Path]]:
    """A PostgreSQL that speaks TLS only, and the CA of its certificate: (DSN without TLS options, CA file)."""
    binaries = [p.parent for p in sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))]
    if not binaries or not shutil.which("openssl"):
        reason = (
            "no PostgreSQL with OpenSSL on this machine (the sandbox's own has none): apt install postgresql"
        )
        pytest.skip(reason)
    folder = new_folder("tls")
    make = [
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test-ca -keyout ca.key -out ca.pem",
        "openssl req -newkey rsa:2048 -nodes -subj /CN=localhost -addext subjectAltName=DNS:localhost"
        " -keyout server.key -out server.csr",
        "openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -copy_extensions copy"
        " -out server.pem",
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test-ca -keyout other.key -out other.pem",
    ]
    for command in make:
        subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    with pytest.MonkeyPatch.context() as patch, (folder / "log").open("wb") as log:
        patch.setattr(sandbox_postgres, "_BIN", binaries[-1])
        identity = sandbox_postgres._identity()
        if identity:
            shutil.chown(folder / "server.key", identity["user"], identity["group"])
        options = {
            "ssl": "on",
            "ssl_cert_file": str(folder / "server.pem"),
            "ssl_key_file": str(folder / "server.key"),
            "listen_addresses": "localhost",
            "port": str(random.Random().randrange(20000, 40000)),
        }
        for name, value in options.items():
            patch.setitem(sandbox_postgres._OPTIONS, name, value)
        patch.setattr(
            sandbox_postgres,
            "dsn",
            lambda folder: f"postgresql://postgres@localhost:{options['port']}/postgres",
        )
        pgdata = folder / "pgdata"
        # The PostgreSQL of a distribution may be too old for the built-in locale.
        command = [
            str(binaries[-1] / "initdb"),
            "-D",
            str(pgdata),
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
        ]
        pgdata.mkdir(mode=0o700)
        if identity:
            shutil.chown(pgdata, identity["user"], identity["group"])
        sandbox_postgres._let_through(pgdata)
        subprocess.run([*command, "--locale=C"], check=True, capture_output=True, cwd="/", **identity)
        hba = "local all all trust\nhostssl all all localhost trust\n"
        (pgdata / "pg_hba.conf").write_text(hba)
        server = Postgres(pgdata, log)
        yield server.dsn, folder / "ca.pem"
        server.stop()


def test_tls_as_the_connection_string_says(
    tls: tuple[str, Path], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    dsn, authority = tls
    with psycopg.connect(dsn, autocommit=True) as database:
        database.execute("create schema app; create table app.things (id int, updated_at timestamptz)")
        database.execute("insert into app.things values (1, now())")
        seen = []

        def write(writer: BatchWriter, rows: pa.Table) -> None:
            seen.extend(
                database.execute(
                    "select ssl from pg_stat_ssl join pg_stat_activity using (pid)"
                    " where application_name = 'credit-lakehouse ingestion'"
                ).fetchall()
            )
            original(writer, rows)

        original = BatchWriter.write
        monkeypatch.setattr(BatchWriter, "write", write)
        # both our connections are encrypted, and the server has to be the one that the CA vouches for
        settings.source_dsn = Secret(f"{dsn}?sslmode=verify-full&sslrootcert={authority}")
        (result,) = run(settings, [table("things")])
        assert (result.error, result.rows) == (None, 1)
        assert seen == [(True,), (True,)]
    for wrong in (f"sslmode=verify-full&sslrootcert={authority.with_name('other.pem')}", "sslmode=disable"):
        settings.source_dsn = Secret(f"{dsn}?{wrong}")
        with pytest.raises(postgres.IngestionError, match="PostgreSQL cannot be reached"):
            run(settings, [table("things")])


# ---------------------------------------------------------------- concurrent writers


def test_with_writers_at_work_no_version_is_lost_or_doubled(
    primary: psycopg.Connection, replicated: tuple[str, str], settings: Settings
) -> None:
    """Writers hold transactions open across runs, share timestamps, and write while rows are read.

    Every run has to land exactly the versions that its snapshot saw and that had not landed. A trigger keeps
    them all, so afterwards the lake is compared with each committed version that some run could see.
    """
    print(f"SEED={SEED}")
    primary.execute(
        """
        create table app.things (id int primary key, body text not null, updated_at timestamptz not null);
        create table app.runs (run int, id int, body text, updated_at timestamptz);
        """
    )
    dsn = replicated[0]
    stop = threading.Event()
    failures: list[BaseException] = []
    committed = itertools.count()

    def write(number: int) -> None:
        chance = random.Random(SEED + number)
        try:
            with psycopg.connect(dsn, autocommit=True) as connection:
                while not stop.is_set():
                    with connection.transaction():
                        for _ in range(chance.randrange(1, 6)):
                            # Stamped now, in whole seconds so that many are equal; committed some time later.
                            at = datetime.now(UTC).replace(microsecond=0) - timedelta(
                                seconds=chance.randrange(3)
                            )
                            connection.execute(
                                "insert into app.things values (%s, %s, %s) on conflict (id) do update set"
                                " body = excluded.body, updated_at = excluded.updated_at",
                                (chance.randrange(60) * 4 + number, f"{number}-{next(committed)}", at),
                            )
                        time.sleep(chance.choice((0, 0, 0.01, 0.3)))
        except BaseException as error:
            failures.append(error)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    runs: list[Landed] = []
    snapshots = 0

    def run_once() -> None:
        nonlocal snapshots

        # Under the run's own snapshot, keep what it sees: the oracle.
        def connect(*arguments: str):
            manager = original(*arguments)

            class Watched:
                def __enter__(self):
                    snapshot = manager.__enter__()
                    rows = snapshot.query("select id, body, updated_at from app.things")
                    with primary.cursor() as cursor:
                        cursor.executemany(f"insert into app.runs values ({snapshots}, %s, %s, %s)", rows)
                    return snapshot

                def __exit__(self, *error):
                    return manager.__exit__(*error)

            return Watched()

        original = postgres.connect
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(postgres, "connect", connect)
            runs.extend(run(settings, [table("things")]))
        snapshots += 1

    primary.execute("insert into app.things select i, 'first', now() from generate_series(1000, 1010) i")
    for writer in writers:
        writer.start()
    try:
        for _ in range(8):
            run_once()
            time.sleep(0.2)
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    run_once()
    assert not failures
    assert all(r.error is None for r in runs)
    expected = primary.execute(
        "select distinct id, body, updated_at from app.runs order by 1, 2, 3"
    ).fetchall()
    lake = landed(settings, "things", "id, body, updated_at")
    assert len(expected) > 100, "hardly anything was written: the test proved nothing"
    assert sorted(lake) == sorted(expected)
    # and the latest version of every row is what PostgreSQL holds
    latest = {}
    with duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        files = f"{settings.lake}/raw/app/things/*/*.parquet"
        for id_, body in connection.execute(
            f"select id, body from read_parquet('{files}') order by _batch_id"
        ).fetchall():
            latest[id_] = body
    assert latest == dict(primary.execute("select id, body from app.things").fetchall())
