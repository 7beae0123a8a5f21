"""`make demo` as a user meets it: repeated, killed, and with settings that are wrong."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from conftest import ROOT, Pipeline
from test_pipeline import compare_warehouses, differences, rows_of

from ingestion.config import load_sources

DEMO = (sys.executable, "-m", "sandbox.demo")


@pytest.fixture(scope="module")
def world(new_pipeline: Callable[..., Pipeline]) -> Path:
    """The folder of a small synthetic world that exists but is not running."""
    pipeline = new_pipeline("synthetic")
    pipeline.sandbox("up", "--scale", "0.02")
    pipeline.down()
    return pipeline.sandbox_dir


@pytest.fixture
def small(world: Path, new_pipeline: Callable[..., Pipeline]) -> Pipeline:
    """A copy of that world, in folders of its own."""
    pipeline = new_pipeline("synthetic")
    # PostgreSQL insists on who owns its files.
    subprocess.run(["cp", "--archive", world, pipeline.sandbox_dir], check=True)
    return pipeline


def processes_of(pipeline: Pipeline) -> list[str]:
    """Command lines of all processes that have to do with this pipeline's folders."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline", "environ"]):
        words = process.info["cmdline"] or []
        inherited = (process.info["environ"] or {}).get("SANDBOX_DIR")
        mine = str(pipeline.folder) in " ".join(words) or inherited == str(pipeline.sandbox_dir)
        if mine and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
            found.append(" ".join(words))
    return found


def wait_until_gone(pipeline: Pipeline, seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while left := processes_of(pipeline):
        assert time.monotonic() < deadline, f"still running: {left}"
        time.sleep(0.1)


def test_killed_demos_leave_nothing_the_next_one_finishes_the_day_and_the_one_after_is_the_next_day(
    small: Pipeline, new_pipeline: Callable[..., Pipeline]
) -> None:
    # GIVEN demos killed with -9 at random moments of their work
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    moments = random.Random(seed)
    for _ in range(2):
        process = subprocess.Popen(
            DEMO, cwd=ROOT, env=small.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(moments.uniform(0.5, 9))
        process.send_signal(signal.SIGKILL)
        process.wait()
        # THEN no process outlives them
        wait_until_gone(small)
    # WHEN the next one may finish, THEN it is still the same day, and nothing differs from an undisturbed run
    printed = small.run(*DEMO)
    for words in ("2025-12-31", "Rows per layer", "tests passed", "Cash flow", "approval rate", "make docs"):
        assert words in printed
    assert "2026-01-01" not in printed
    assert processes_of(small) == []
    assert (small.folder / "target" / "catalog.json").exists()
    assert not list((small.lake / ".partial").iterdir())
    calm = new_pipeline("synthetic")
    calm.sandbox("up", "--scale", "0.02")
    calm.ingest()
    calm.dbt("build", "--exclude-resource-type", "test", "unit_test")
    # (a killed run may have landed some of the tables, so the next one's batch has another number)
    layers = ("intermediate", "marts", "snapshots")
    compared = compare_warehouses(small.warehouse, calm.warehouse, layers, 20, aside="_batch_id")
    assert {name: counts for name, counts in compared.items() if counts != (0, 0)} == {}
    for table in load_sources():
        landed = [
            rows_of(p.lake, table).replace("*", "* exclude (_batch_id, _extracted_at)", 1)
            for p in (small, calm)
        ]
        assert differences(*landed) == (0, 0), table.name
    # a sandbox that somebody else started is used, and left running
    small.sandbox("up")
    assert "The next day: 2026-01-01" in small.run(*DEMO)
    assert small.status().running


def test_ctrl_c_stops_what_the_demo_started(small: Pipeline) -> None:
    process = subprocess.Popen(
        DEMO,
        cwd=ROOT,
        env=small.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    # Not before: while Python imports, it can lose a Ctrl-C (an exception in a weak reference's callback is ignored).
    assert any("Landing" in line for line in process.stdout)
    time.sleep(1)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode != 0, errors
    assert "Traceback" not in errors
    wait_until_gone(small)


@pytest.mark.parametrize(
    ("world", "changes", "message"),
    [
        ("berka", {"BERKA_DIR": "/nowhere"}, "BERKA_DIR"),
        ("nowhere", {}, "nowhere"),
    ],
)
def test_wrong_settings_are_one_line(
    tmp_path: Path, world: str, changes: dict[str, str], message: str
) -> None:
    pipeline = Pipeline(world, tmp_path, changes)
    pipeline.sandbox_dir.mkdir()
    one_line_error(pipeline, message)


def test_a_lake_that_cannot_be_written_to_is_one_line(small: Pipeline) -> None:
    small.settings["LAKE"] = "/dev/null/lake"
    one_line_error(small, "LAKE")


def one_line_error(pipeline: Pipeline, message: str) -> None:
    done = pipeline.try_run(*DEMO)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stdout
    wait_until_gone(pipeline)


def test_a_lake_of_the_other_world_is_refused(small: Pipeline) -> None:
    small.lake.mkdir()
    (small.lake / "lakehouse.json").write_text('{"world": "berka"}')
    done = small.try_run(*DEMO)
    assert done.returncode == 1
    assert "belongs to the world berka" in done.stderr
    assert done.stderr.count("\n") == 1
    wait_until_gone(small)


def test_a_lake_that_is_ahead_of_the_world_is_refused(small: Pipeline) -> None:
    batch = small.lake / "raw/app/customers/extract_date=2026-05-01/00000001.parquet"
    batch.parent.mkdir(parents=True)
    batch.touch()
    (small.lake / "lakehouse.json").write_text('{"world": "synthetic"}')
    done = small.try_run(*DEMO)
    assert done.returncode == 1
    assert "earlier world" in done.stderr


def test_occupied_ports_are_one_line(small: Pipeline) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        demo = small.try_run(*DEMO, SANDBOX_PORT=port)
        (small.folder / "target").mkdir(exist_ok=True)
        (small.folder / "target" / "catalog.json").write_text("{}")
        docs = small.try_run(sys.executable, "-m", "sandbox.docs", DOCS_PORT=port)
    for done, setting in ((demo, "SANDBOX_PORT"), (docs, "DOCS_PORT")):
        assert done.returncode == 1
        assert port in done.stderr
        assert setting in done.stderr
        assert done.stderr.count("\n") == 1
    wait_until_gone(small)
