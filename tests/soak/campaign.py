"""One campaign: a source that changes all the time, runs that are killed, a proof after every one of them."""

import contextlib
import json
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import psutil
import psycopg

from ingestion.lake import Lake
from ingestion.verify import verify
from sandbox.errors import SandboxError
from sandbox.postgres import Postgres, find_postmaster
from tests.soak import victim

BEFORE, WRITING, MULTIPART, BETWEEN, AFTER = (
    "before write",
    "in mid-write",
    "in mid-multipart",
    "between object and audit",
    "after the run",
)
PHASES = {
    "folder": {BEFORE: "start", WRITING: "bytes", BETWEEN: "object"},
    "s3": {BEFORE: "start", WRITING: "upload", MULTIPART: "part", BETWEEN: "object"},
}
"""The phases that a campaign must hit, by where the lake is, and the moment at which each is likely."""
RUNS_PER_LAKE = 4
AIMED_KILLS = 30
"""The most kills that aim at phases missed until then."""
LEASE_SECONDS = 2
PATIENCE = 120
ROWS = 6_000

SOURCE = """
    -- The sandbox's server lets a commit go before it is written; here a kill must not undo one, nor these.
    set synchronous_commit = on;
    alter database postgres set synchronous_commit = on;
    create schema app;
    create table app.things (id bigint primary key, body text not null, updated_at timestamptz not null);
    create table app.orders (id bigint primary key, body text not null, updated_at timestamptz not null);
    create table app.notes (id bigint primary key, body text not null, updated_at timestamptz not null);
    -- text that zstd cannot make small
    create function app.noise(n bigint, parts int) returns text language sql as $$
        select string_agg(encode(sha256((n || '-' || p || random())::bytea), 'base64'), '')
        from generate_series(1, parts) as p
    $$;
    insert into app.things
    select i, app.noise(i, 10), timestamptz '2025-01-01' + i * interval '1 second'
    from generate_series(1, 6000) as i;
    insert into app.orders select i, app.noise(i, 1), '2025-01-01' from generate_series(1, 500) as i;
    insert into app.notes values (1, 'first', '2025-01-01');
    create index on app.things (updated_at);
"""


class Violation(Exception):
    """What must never happen, did."""


@dataclass
class Result:
    """What a campaign saw."""

    place: str
    seed: int
    phases: Counter[str] = field(default_factory=Counter)
    targets: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    verified: int = 0
    polls: int = 0
    files: int = 0
    aborted: int = 0
    """Runs that did not end by an error of their own when PostgreSQL was killed, but by a signal."""
    violation: str | None = None

    @property
    def missed(self) -> list[str]:
        """Phases that no kill hit."""
        return [phase for phase in PHASES[self.place] if not self.phases[phase]]


def campaign(
    place: str,
    seed: int,
    kills: int,
    sabotage: str | None = None,
    minutes: float = float("inf"),
    say: Callable[[str], None] = print,
) -> Result:
    """Kill `kills` runs into a lake on `place` (`folder` or `s3`), verifying after each.

    Phases that no kill has hit by then are aimed at by some kills more. It ends at the first violation,
    which the result holds, or after so many `minutes`.
    """
    result = Result(place, seed)
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    try:
        with (
            _s3_server(folder) if place == "s3" else contextlib.nullcontext(str(folder)) as where,
            _Source(folder) as source,
            _Reader(folder, result) as reader,
        ):
            ends_at = time.monotonic() + 60 * minutes
            _Campaign(result, folder, where, source, reader, kills, ends_at, sabotage, say).run()
    except Violation as violation:
        result.violation = str(violation)
        say(f"{place:<7}VIOLATION: {violation}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return result


class _Campaign:
    def __init__(
        self,
        result: Result,
        folder: Path,
        where: str,
        source: "_Source",
        reader: "_Reader",
        kills: int,
        ends_at: float,
        sabotage: str | None,
        say: Callable[[str], None],
    ) -> None:
        self._result = result
        self._folder = folder
        self._where = where
        self._source = source
        self._reader = reader
        self._kills = kills
        self._ends_at = ends_at
        self._sabotage = sabotage
        self._say = say
        self._random = random.Random(f"{result.place} {result.seed}")
        self._processes = multiprocessing.get_context("forkserver")
        self._processes.set_forkserver_preload(["tests.soak.warm"])
        self._durations = {"full": 1.5, "incremental": 0.8}
        self._lake: Lake | None = None

    def run(self) -> None:
        moments = PHASES[self._result.place]
        for number in range(self._kills + AIMED_KILLS):
            missed = self._result.missed if number >= self._kills else []
            if (number >= self._kills and not missed) or time.monotonic() > self._ends_at:
                return
            moment = moments[missed[0]] if missed else self._random.choice(["time", *moments.values()])
            is_full = number % RUNS_PER_LAKE == 0 or bool(missed)
            if is_full:
                self._new_lake(number)
            kind = "full" if is_full else "incremental"
            if not is_full and self._random.random() < 0.5:
                self._source.change_much()
            with self._source.changing(self._random.random()):
                phase, target = self._kill_one(kind, moment)
                # The writers go on for a while without any run.
                time.sleep(self._random.uniform(0, 0.2))
            self._source.revive()
            self._result.phases[phase] += 1
            self._result.targets[target] += 1
            self._result.kinds[kind] += 1
            self._land(kind)
            self._verify()
            self._reader.check()
            self._say(f"{self._result.place:<7}{number + 1:>4}  {kind:<12} {target:<10} {phase}")
            sys.stdout.flush()

    def _new_lake(self, number: int) -> None:
        former, self._lake = self._lake, victim.open_lake(f"{self._where}/lake-{number}")
        self._reader.turn_to(self._lake.root)
        if former and "://" not in former.root:
            shutil.rmtree(former.root)
        elif former:
            place = former.storage
            for name in [n for folder in ("raw", "audit") for n in place.names(folder)]:
                place.client.delete_object(Bucket=place.bucket, Key=place.key(name))

    def _start(self) -> Any:
        settings = {"source_dsn": self._source.dsn, "extract_date": date(2026, 1, 1)}
        # A fork server has the environment of the moment it was started in, perhaps by another campaign.
        environment = {k: v for k, v in os.environ.items() if k.startswith(("AWS_", "LAKE_"))}
        arguments = (self._lake.root, settings, self._folder / "victim.log", self._sabotage, environment)
        process = self._processes.Process(target=victim.ingest, args=arguments)
        process.start()
        return process

    def _kill_one(self, kind: str, moment: str) -> tuple[str, str]:
        """Start a run and kill it, or PostgreSQL under it; returns the phase and what was killed."""
        before = _state(self._lake)
        target = self._random.choices(("ingestion", "postgres"), (3, 1))[0]
        process = self._start()
        self._wait_for(moment, kind, before, process)
        if target == "ingestion":
            process.kill()
        else:
            # Stopped while PostgreSQL dies and the lake is looked at.
            with contextlib.suppress(psutil.Error):
                psutil.Process(process.pid).suspend()
            self._source.kill(self._random)
        after = _state(self._lake)
        if target == "postgres":
            with contextlib.suppress(psutil.Error):
                psutil.Process(process.pid).resume()
        process.join(PATIENCE)
        if process.is_alive():
            process.kill()
            raise Violation("a run whose PostgreSQL was killed did not end")
        if target == "postgres" and process.exitcode < 0:
            self._result.aborted += 1
        return _phase(before, after), target

    def _wait_for(self, moment: str, kind: str, before: "_State", process: Any) -> None:
        """Wait for a moment of the run: some time, or that there is something new in the lake."""
        if moment in ("time", "start"):
            process.join(self._random.uniform(0, 1.1 * self._durations[kind] if moment == "time" else 0.05))
            return
        delay = self._random.choice((0, self._random.uniform(0, 0.02)))
        skipped = self._random.randrange(len(victim.TABLES)) if moment == "object" else 0
        unfinished = {"bytes": "written", "upload": "uploads", "part": "parts"}.get(moment)
        while process.is_alive():
            # Nothing else is asked for: while S3 answers, the run goes on.
            if unfinished and _unfinished(self._lake)[unfinished]:
                break
            if not unfinished and len(_committed(self._lake) - before.batches) > skipped:
                break
            time.sleep(0.001 if self._result.place == "folder" else 0.02)
        process.join(delay)

    def _land(self, kind: str) -> None:
        """Run again to the end, while nothing changes."""
        deadline = time.monotonic() + PATIENCE
        while True:
            began = time.monotonic()
            process = self._start()
            process.join(PATIENCE)
            if process.exitcode == 0:
                self._durations[kind] = max(0.3, 0.5 * (self._durations[kind] + time.monotonic() - began))
                return
            if process.exitcode != victim.BUSY or time.monotonic() > deadline:
                process.kill()
                said = (self._folder / "victim.log").read_text() if process.exitcode else "it did not end"
                raise Violation(f"the run after a kill failed: {said}")
            # A killed run's lease ends by itself; a run that is started sooner says so and leaves.
            time.sleep(0.3)

    def _verify(self) -> None:
        for verified in verify(self._lake, victim.TABLES, self._source.dsn):
            if verified.findings or verified.waiting:
                found = verified.findings[0] if verified.findings else f"{verified.waiting} rows did not land"
                raise Violation(f"verify found: {found}")
        state = _state(self._lake)
        if unrecorded := {b.rpartition("/")[2] for b in state.batches} - state.audited:
            raise Violation(f"batches without a record in the audit table: {sorted(unrecorded)}")
        if state.written or state.uploads or state.parts:
            raise Violation("a run that ended well left something half written")
        self._result.verified += 1


# ---------------------------------------------------------------- what is in the lake


@dataclass(frozen=True)
class _State:
    """What is in a lake: committed batches, ids in the audit table, bytes, uploads and parts of half ones."""

    batches: frozenset[str]
    audited: frozenset[str]
    written: int = 0
    uploads: int = 0
    parts: int = 0


def _state(lake: Lake) -> _State:
    # What is half written is looked at first: it may be published meanwhile, but not the other way round.
    unfinished = _unfinished(lake)
    audited = frozenset(n.rpartition("/")[2] for n in lake.storage.names("audit/batches"))
    return _State(_committed(lake), audited, **unfinished)


def _committed(lake: Lake) -> frozenset[str]:
    return frozenset(lake.storage.names("raw"))


def _unfinished(lake: Lake) -> Counter[str]:
    """How much is half written: `written` bytes in a folder, `uploads` and their `parts` on S3."""
    if "://" not in lake.root:
        written = 0
        for file in Path(lake.root, ".partial").glob("*"):
            with contextlib.suppress(FileNotFoundError):
                written += file.stat().st_size
        return Counter(written=written)
    place = lake.storage
    listed = place.client.list_multipart_uploads(Bucket=place.bucket, Prefix=place.key("raw/"))
    uploads = listed.get("Uploads", [])
    parts = 0
    for upload in uploads:
        with contextlib.suppress(place.client.exceptions.ClientError):
            found = place.client.list_parts(
                Bucket=place.bucket, Key=upload["Key"], UploadId=upload["UploadId"]
            )
            parts += len(found.get("Parts", []))
    return Counter(uploads=len(uploads), parts=parts)


def _phase(before: _State, after: _State) -> str:
    """In which phase a run was killed, by what it left."""
    new = after.batches - before.batches
    unrecorded = {name for name in new if name.rpartition("/")[2] not in after.audited}
    if after.parts:
        return MULTIPART
    if after.written:
        return WRITING
    if unrecorded:
        return BETWEEN
    if after.uploads:
        return WRITING
    return AFTER if new else BEFORE


# ---------------------------------------------------------------- what is around it


class _Source:
    """A PostgreSQL whose tables change; it can be killed."""

    def __init__(self, folder: Path) -> None:
        self._pgdata = folder / "postgres" / "pgdata"
        self._pgdata.parent.mkdir()
        folder.chmod(0o755)
        self._log = (folder / "postgres.log").open("ab")
        self._server = Postgres(self._pgdata, self._log)

    @property
    def dsn(self) -> str:
        return self._server.dsn

    def __enter__(self) -> "_Source":
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(SOURCE)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()
        self._log.close()

    def change_much(self) -> None:
        """Change half of a table, so that an increment takes its time, too."""
        with psycopg.connect(self.dsn) as connection:
            connection.execute(
                "update app.things set body = app.noise(id, 10), updated_at = clock_timestamp()"
                " where id % 2 = 0"
            )

    def kill(self, moments: random.Random) -> None:
        """Kill -9 the server, or one of its processes: then it restarts by itself."""
        postmaster = find_postmaster(self._pgdata)
        if postmaster is not None:
            with contextlib.suppress(psutil.Error):
                one = moments.choice([postmaster, postmaster, *postmaster.children()])
                one.kill()
                # A dead server that nobody has waited for still holds its lock files.
                one.wait(PATIENCE)

    def revive(self) -> None:
        """Start the server when it is dead; wait until it answers."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                psycopg.connect(self.dsn, connect_timeout=5).close()
                return
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise
            if find_postmaster(self._pgdata) is None:
                # It cannot start before the last process of the dead one has gone.
                with contextlib.suppress(SandboxError):
                    self._server = Postgres(self._pgdata, self._log)
            time.sleep(0.05)

    @contextmanager
    def changing(self, seed: float) -> Iterator[None]:
        """Two writers at work: one that commits at once, one that stamps its rows early and commits late."""
        ended = threading.Event()
        writers = [
            threading.Thread(target=self._write, args=(random.Random(seed + n), ended, pause))
            for n, pause in enumerate((0.0, 0.4))
        ]
        for writer in writers:
            writer.start()
        try:
            yield
        finally:
            ended.set()
            for writer in writers:
                writer.join()

    def _write(self, choices: random.Random, ended: threading.Event, pause: float) -> None:
        # Each has rows of its own, so that none waits for the other.
        mine = int(pause > 0)
        while not ended.wait(0.02):
            with (
                contextlib.suppress(psycopg.Error),
                psycopg.connect(self.dsn, autocommit=True, connect_timeout=5) as connection,
            ):
                while not ended.wait(0.1):
                    ids = [2 * choices.randrange(ROWS // 2) + mine for _ in range(20)]
                    with connection.transaction():
                        connection.execute(
                            "update app.things set body = app.noise(id, 10), updated_at = clock_timestamp()"
                            " where id = any(%s)",
                            [ids],
                        )
                        connection.execute(
                            "insert into app.orders"
                            " select coalesce(max(id), 0) + 2, app.noise(1, 1), clock_timestamp()"
                            " from app.orders where id %% 2 = %s",
                            [mine],
                        )
                        ended.wait(pause)


class _Reader:
    """A process that reads the lake all the time."""

    def __init__(self, folder: Path, result: Result) -> None:
        self._told = folder / "reader.told"
        self._said = folder / "reader.said"
        self._result = result
        self._told.write_text("")
        self._said.touch()
        self._process = multiprocessing.get_context("spawn").Process(
            target=victim.watch, args=(self._told, self._said)
        )

    def __enter__(self) -> "_Reader":
        self._process.start()
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        self._told.unlink()
        self._process.join(PATIENCE)
        self._process.kill()
        for line in self._said.read_text().splitlines():
            said = json.loads(line)
            self._result.polls += said.get("polls", 0)
            self._result.files += said.get("files", 0)
        if kind is None and not self._result.polls:
            self.check()
            raise Violation("the reader did not read to the end")

    def turn_to(self, root: str) -> None:
        """Have it read another lake."""
        told = self._told.with_suffix(".new")
        told.write_text(root)
        told.rename(self._told)

    def check(self) -> None:
        """Raise what it saw that it should not."""
        if '"violation"' in (said := self._said.read_text()):
            raise Violation(said.strip())


@contextmanager
def _s3_server(folder: Path) -> Iterator[str]:
    """S3 as moto plays it, in a process of its own; the environment says how to reach it."""
    import boto3

    script = (
        "import logging; logging.getLogger('werkzeug').setLevel(logging.CRITICAL + 1)\n"
        "from moto.s3 import models; models.S3_UPLOAD_PART_MIN_SIZE = 1\n"
        "from moto.server import ThreadedMotoServer\n"
        "s = ThreadedMotoServer(ip_address='127.0.0.1', port=0, verbose=False); s.start()\n"
        "print(s.get_host_and_port()[1], flush=True); import sys; sys.stdin.read()"
    )
    with (folder / "s3.log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
        )
    former = dict(os.environ)
    try:
        os.environ |= {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{int(server.stdout.readline())}",
            "AWS_ACCESS_KEY_ID": "soak",
            "AWS_SECRET_ACCESS_KEY": "soak",
            "AWS_DEFAULT_REGION": "us-east-1",
            "LAKE_LEASE_SECONDS": str(LEASE_SECONDS),
        }
        boto3.client("s3").create_bucket(Bucket="soak")
        yield "s3://soak"
    finally:
        os.environ.clear()
        os.environ |= former
        server.kill()
        server.communicate()
