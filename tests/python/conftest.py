"""Fixtures: whole pipelines (world → lake → warehouse), each built once for the session."""

import hashlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import forked_dbt
import psycopg
import pytest
from xdist.scheduler import LoadScopeScheduling

from sandbox.postgres import Postgres

pytest.register_assert_rewrite("athena_kills", "athena_worlds")
# What a script starts in the background ignores Ctrl-C, and so would all that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parents[2]
DBT = Path(sys.executable).with_name("dbt")
SHARING_PIPELINES = {
    "test_berka.py",
    "test_credit.py",
    "test_dbt_project.py",
    "test_finance_marts.py",
    "test_known_at.py",
    "test_marts.py",
    "test_pipeline.py",
    "test_queries.py",
    "test_reporting.py",
}
# Minutes each: begun last, one of them would run on alone while the other workers have nothing left.
SLOW = (
    *sorted(SHARING_PIPELINES),
    "test_demo.py",
    "test_realtime.py",
    "test_realtime_features.py",
    "test_realtime_aws.py",
    "test_realtime_dashboard.py",
    "test_warehouse_core.py",
    "test_sandbox.py",
    "test_local_athena.py",
)
SETTINGS = (
    "WORLD LAKE WAREHOUSE SOURCE_DSN EVENT_LOG BUREAU_URL BUREAU_API_KEY FX_URL EXTRACT_DATE AS_OF_DATE"
    " BOOK_CURRENCY LEDGER_COMPLETE_UNTIL SANDBOX_DIR SANDBOX_PORT SANDBOX_DIRT SANDBOX_DELETES DOCS_PORT DBT_TARGET"
    " DBT_TARGET_PATH DBT_LOG_PATH SOURCES_FILE LOG_FORMAT LAKE_KMS_KEY_ID LAKE_LEASE_SECONDS"
    " GLUE_DATABASE ATHENA_WORKGROUP"
).split()


def berka_dir() -> Path | None:
    """The folder of the real data, or None where it is absent."""
    folder = Path(os.environ.get("BERKA_DIR") or ROOT / "../shared/data/berka").resolve()
    return folder if (folder / "loan.asc").exists() else None


@pytest.fixture(scope="session")
def berka_files() -> Path:
    """The real files: absent, tests skip and say so; under CI=true absence fails."""
    folder = berka_dir()
    if folder is None:
        reason = "the berka files are absent: set BERKA_DIR to their folder"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return folder


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of a real HTTP server that plays S3, empty at first."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A bucket of this test's own, as `s3://bucket`; the environment says how to reach it."""
    import boto3

    for name in [n for n in os.environ if n.startswith(("AWS_", "LAKE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    name = f"bucket-{uuid.uuid4()}"
    boto3.client("s3").create_bucket(Bucket=name)
    return f"s3://{name}"


@dataclass(frozen=True)
class Day:
    """What a pipeline left at the end of one of its days."""

    warehouse: Path
    lake: Path
    rows: dict[str, int]
    """Rows of each table of the app database."""
    files: dict[str, str]
    """Path below the lake → SHA-256, of every batch."""


@dataclass
class Pipeline:
    """A world, its lake and its warehouse in a folder of their own, driven by the real commands."""

    world: str
    folder: Path
    settings: dict[str, str] = field(default_factory=dict)
    patience: float = 300
    """Seconds after which a command has failed."""

    @property
    def lake(self) -> Path:
        return self.folder / "lake"

    @property
    def warehouse(self) -> Path:
        return self.folder / "warehouse.duckdb"

    @property
    def sandbox_dir(self) -> Path:
        return self.folder / "sandbox"

    @property
    def env(self) -> dict[str, str]:
        inherited = {k: v for k, v in os.environ.items() if k not in SETTINGS}
        return inherited | {
            "WORLD": self.world,
            "LAKE": str(self.lake),
            "WAREHOUSE": str(self.warehouse),
            "SANDBOX_DIR": str(self.sandbox_dir),
            "DBT_PROFILES_DIR": str(ROOT / "profiles"),
            "DBT_TARGET_PATH": str(self.folder / "target"),
            "DBT_LOG_PATH": str(self.folder / "logs"),
            "DO_NOT_TRACK": "1",
            "COLUMNS": "200",
            "LOG_FORMAT": "text",
            **self.settings,
        }

    def try_run(self, *command: str, **more: str) -> subprocess.CompletedProcess:
        """Run a program of the project; never raises."""
        if command[0] == str(DBT):
            return forked_dbt.run(command[1:], ROOT, self.env | more, self.patience)
        return subprocess.run(
            command,
            cwd=ROOT,
            env=self.env | more,
            capture_output=True,
            text=True,
            timeout=self.patience,
            check=False,
        )

    def run(self, *command: str, **more: str) -> str:
        """Run a program of the project that must succeed; returns what it printed."""
        done = self.try_run(*command, **more)
        assert done.returncode == 0, f"{' '.join(command)} failed:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def sandbox(self, *arguments: str) -> str:
        return self.run(sys.executable, "-m", "sandbox", *arguments)

    def ingest(self, *arguments: str) -> str:
        return self.run(sys.executable, "-m", "ingestion", "run", *arguments)

    def dbt(self, *arguments: str) -> str:
        return self.run(str(DBT), *arguments)

    def status(self):
        """The sandbox's own view of the world."""
        from sandbox import control
        from sandbox.settings import load

        return control.status(load(world=self.world, sandbox_dir=self.sandbox_dir))

    def down(self) -> None:
        """Stop the world if it runs, in this process: a command would take longer to start."""
        from sandbox import control
        from sandbox.settings import load

        control.down(load(world=self.world, sandbox_dir=self.sandbox_dir))

    def day(self, name: str) -> Day:
        """Keep what there is now, under `name`."""
        from sandbox import control

        warehouse = self.folder / f"warehouse_{name}.duckdb"
        shutil.copyfile(self.warehouse, warehouse)
        files = {
            str(p.relative_to(self.lake)): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in sorted(self.lake.glob("raw/*/*/*/*.parquet"))
        }
        return Day(warehouse, self.lake, control.row_counts(self.status().dsn), files)


@dataclass(frozen=True)
class TwoDays:
    pipeline: Pipeline
    day1: Day
    day2: Day


@pytest.fixture(scope="session")
def new_folder() -> Iterator[Callable[[str], Path]]:
    """A factory of folders that end with the session.

    Not pytest's own: another session would close those to the user that PostgreSQL runs as under root.
    """
    with tempfile.TemporaryDirectory(prefix="credit-lakehouse-") as root:
        yield lambda name: Path(tempfile.mkdtemp(prefix=f"{name}-", dir=root))


@pytest.fixture(scope="session")
def server(new_folder: Callable[[str], Path]) -> Iterator[str]:
    """The DSN of a PostgreSQL."""
    folder = new_folder("postgres")
    with (folder / "log").open("wb") as log:
        postgres = Postgres(folder / "pgdata", log)
        yield postgres.dsn
        postgres.stop()


@pytest.fixture
def app_schema(server: str) -> Iterator[psycopg.Connection]:
    """A connection to that PostgreSQL, whose schema `app` is empty."""
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute("drop schema if exists app cascade")
        connection.execute("create schema app")
        yield connection


@pytest.fixture(scope="session")
def new_pipeline(new_folder: Callable[[str], Path]) -> Iterator[Callable[..., Pipeline]]:
    """A factory of pipelines in folders of their own, whose sandboxes end with the session."""
    made: list[Pipeline] = []

    def make(world: str, **settings: str) -> Pipeline:
        made.append(Pipeline(world, new_folder(world), settings))
        return made[-1]

    yield make
    for pipeline in made:
        pipeline.down()


def run_first_day(pipeline: Pipeline, *without: str, up: tuple[str, ...] = ()) -> Day:
    """The first day of a world, by the commands a user would type; `without` tests of these kinds."""
    pipeline.sandbox("up", *up)
    pipeline.ingest()
    pipeline.dbt("build", *(("--exclude-resource-type", *without) if without else ()))
    return pipeline.day("day1")


def run_two_days(pipeline: Pipeline, *without: str, up: tuple[str, ...] = ()) -> TwoDays:
    """The first day and the next, by the commands a user would type."""
    day1 = run_first_day(pipeline, *without, up=up)
    pipeline.sandbox("advance")
    pipeline.ingest()
    pipeline.dbt("build", "--exclude-resource-type", "unit_test")
    return TwoDays(pipeline, day1, pipeline.day("day2"))


@pytest.fixture(scope="session")
def synthetic(new_pipeline: Callable[..., Pipeline]) -> TwoDays:
    """A small synthetic world over two days."""
    return run_two_days(new_pipeline("synthetic"), up=("--scale", "0.1", "--seed", "7"))


@pytest.fixture(scope="session")
def synthetic_day1(synthetic: TwoDays) -> Day:
    return synthetic.day1


@pytest.fixture(scope="session")
def synthetic_day2(synthetic: TwoDays) -> Day:
    return synthetic.day2


@pytest.fixture(scope="session")
def another_seed(new_pipeline: Callable[..., Pipeline]) -> Day:
    """The first day of another small synthetic world: what a seed's luck cannot explain."""
    return run_first_day(
        new_pipeline("synthetic"), "test", "unit_test", up=("--scale", "0.05", "--seed", "2026")
    )


@pytest.fixture(scope="session")
def berka(new_pipeline: Callable[..., Pipeline], berka_files: Path) -> TwoDays:
    """The real bank over its two days."""
    # Unit tests know no world.
    return run_two_days(new_pipeline("berka", BERKA_DIR=str(berka_files)), "unit_test")


@pytest.fixture(scope="session")
def berka_day1(berka: TwoDays) -> Day:
    return berka.day1


@pytest.fixture(scope="session")
def berka_day2(berka: TwoDays) -> Day:
    return berka.day2


@pytest.fixture(scope="session")
def run_pipeline(new_pipeline: Callable[..., Pipeline]) -> Callable[[str, Path], Day]:
    """Run the first day of a world on other files, without its tests: `run_pipeline("berka", folder)`."""

    def run(world: str, files: Path) -> Day:
        return run_first_day(new_pipeline(world, BERKA_DIR=str(files)), "test", "unit_test")

    return run


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow files first, the others in their order."""
    items.sort(key=lambda item: SLOW.index(item.path.name) if item.path.name in SLOW else len(SLOW))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """With workers (`-n`), keep the tests of a file, and all that share a world's pipelines, in one of them."""
    config.option.loadscopereorder = False  # it would begin with the files of the most tests
    return _ByFile(config, log)


class _ByFile(LoadScopeScheduling):
    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0].rpartition("/")[2]
        if file not in SHARING_PIPELINES:
            return file
        # A test of the real bank says so in its name or parameters.
        return "berka" if "berka" in nodeid else "synthetic"
