"""The query engine: one Trino process, its configuration and its HTTP protocol."""

import contextlib
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from .errors import LocalAwsError
from .install import VERSION
from .java import megabytes
from .processes import die_with_parent

ACCESS_KEY = "trino"
"""With which Trino signs its calls to Glue and S3, so that corrections know it."""

HIVE = "awsdatacatalog"
ICEBERG = "awsdatacatalog_iceberg"
"""The same catalogue for Iceberg tables. Athena has no second one, so the name is one that nobody writes."""

# Trino's main class is on Maven Central only within an archive of 190 MB, and does no more than this.
_MAIN = (
    "org.mozilla.javascript.tools.shell.Main",
    *("-opt", "-1"),  # interpreted: what Rhino compiles to needs a module that small Javas lack
    *("-e", f"new Packages.io.trino.server.Server().start('{VERSION}')"),
)

_CONFIG = """\
coordinator=true
node-scheduler.include-coordinator=true
http-server.http.port={port}
http-server.http.enabled=true
discovery.uri=http://127.0.0.1:{port}
# Anybody may ask this engine anything, so nobody else's machine can reach it.
node.bind-ip=127.0.0.1
node.internal-address=127.0.0.1
catalog.management=static
web-ui.enabled=false
http-server.log.enabled=false
query.max-memory={memory}MB
query.max-memory-per-node={memory}MB
memory.heap-headroom-per-node={headroom}MB
# Results are fetched at once; keeping more history only costs memory: what is known of the tasks of ended
# statements, for 15 minutes by default, filled most of the heap.
query.min-expire-age=5s
query.max-history=5
task.info.max-age=10s
task.max-worker-threads=4
# One writer, so that the connectors' limit of partitions a writer is Athena's limit of 100 a statement.
task.min-writer-count=1
task.max-writer-count=1
"""

_STORAGE = """\
fs.native-s3.enabled=true
s3.endpoint={endpoint}
s3.region={region}
s3.path-style-access=true
s3.aws-access-key={key}
s3.aws-secret-key=unused
hive.metastore.glue.region={region}
hive.metastore.glue.endpoint-url={endpoint}
hive.metastore.glue.aws-access-key={key}
hive.metastore.glue.aws-secret-key=unused
"""

_HIVE = """\
connector.name=hive
hive.metastore=glue
hive.non-managed-table-writes-enabled=true
hive.iceberg-catalog-name={iceberg}
hive.partition-projection-enabled=true
# Athena keeps no column statistics unless asked to.
hive.collect-column-statistics-on-write=false
hive.table-statistics-enabled=false
hive.max-partitions-per-writers=100
hive.recursive-directories=true
"""

_ICEBERG = """\
connector.name=iceberg
iceberg.catalog.type=glue
iceberg.hive-catalog-name={hive}
iceberg.unique-table-location=false
# VACUUM's retention comes from the table's properties, as on Athena.
iceberg.expire-snapshots.min-retention=0s
iceberg.remove-orphan-files.min-retention=0s
iceberg.max-partitions-per-writer=100
"""


@dataclass
class EngineError(Exception):
    """Trino refused or failed a statement."""

    name: str
    message: str
    type: str = "INTERNAL_ERROR"

    def __str__(self) -> str:
        return f"{self.name}: {self.message}"


class EngineGone(Exception):
    """Trino ended while a statement ran."""


@dataclass
class Result:
    """What a statement gave."""

    columns: list[dict[str, Any]] = field(default_factory=list)
    """As Trino's protocol has them: name, type, typeSignature."""
    rows: list[list[Any]] = field(default_factory=list)
    update_type: str | None = None
    update_count: int | None = None
    bytes_read: int = 0
    planning: int = 0
    """Milliseconds."""


class Trino:
    """A Trino that runs until `stop` or until this process ends."""

    def __init__(self, home: Path, java: Path, folder: Path, endpoint: str, region: str, heap: str) -> None:
        """Writes the configuration; starts nothing.

        Args:
            home: folder with `lib/` and `plugin/`.
            java: the Java to run it with.
            folder: where configuration, log and Trino's own data go.
            endpoint: URL of Glue and S3.
            region: of Glue.
            heap: Java's `-Xmx`.
        """
        self._home, self._java, self._folder, self._heap = home, java, folder, heap
        self._port = _free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen | None = None
        self.ready = threading.Event()
        storage = _STORAGE.format(endpoint=endpoint, region=region, key=ACCESS_KEY)
        files = {
            # Of the heap, half is for statements and a quarter for what Trino does not count.
            "config.properties": _CONFIG.format(
                port=self._port, memory=megabytes(heap) // 2, headroom=megabytes(heap) // 4
            ),
            "log.properties": "io.trino=WARN\nio.airlift=WARN\norg.apache=ERROR\n",
            f"catalog/{HIVE}.properties": _HIVE.format(iceberg=ICEBERG) + storage,
            f"catalog/{ICEBERG}.properties": _ICEBERG.format(hive=HIVE) + storage,
        }
        shutil.rmtree(folder, ignore_errors=True)
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)

    @property
    def log(self) -> Path:
        """Where Trino writes what it has to say."""
        return self._folder / "trino.log"

    @property
    def pid(self) -> int | None:
        """Its process, if it runs."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def start(self) -> None:
        """Starts the process; `wait` waits for it. Call it from the main thread."""
        libraries = self._folder / "data" / "tmp"
        options = {
            "node.environment": "local",
            "node.id": "local",
            "node.data-dir": self._folder / "data",
            "config": self._folder / "config.properties",
            "log.levels-file": self._folder / "log.properties",
            "plugin.dir": self._home / "plugin",
            "catalog.config-dir": self._folder / "catalog",
            # Native libraries are unpacked here, and a process that is killed leaves them.
            "java.io.tmpdir": libraries,
            "jna.tmpdir": libraries,
        }
        libraries.mkdir(parents=True, exist_ok=True)
        command = [
            str(self._java),
            f"-Xmx{self._heap}",
            "-XX:+UseSerialGC",  # small heap, few cores: the least memory and threads
            "-XX:TieredStopAtLevel=1",  # statements are short: starting fast beats peak speed
            "-XX:ReservedCodeCacheSize=192M",
            "-XX:+ExitOnOutOfMemoryError",
            "-XX:-UsePerfData",
            "-Djdk.attach.allowAttachSelf=true",
            "-Dfile.encoding=UTF-8",
            *(f"-D{name}={value}" for name, value in options.items()),
            "-cp",
            f"{self._home / 'lib'}/*",
            *_MAIN,
        ]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                preexec_fn=die_with_parent,
                # Java reads options from these, and they are not meant for this one.
                env={k: v for k, v in os.environ.items() if k not in ("JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS")},
            )

    def wait(self, patience: float = 600, alive: Callable[[], None] = lambda: None) -> None:
        """Waits until a real query works: `/v1/info` says so a second too early.

        Args:
            patience: seconds.
            alive: called now and then; it may raise to give up.

        Raises:
            LocalAwsError: Trino ended, or takes too long.
        """
        deadline = time.monotonic() + patience
        while True:
            alive()
            if self.pid is None:
                raise LocalAwsError(f"Trino ended while it started: see {self.log}")
            try:
                # Both catalogs, and both through to Glue.
                self.run(f"SELECT count(*) FROM {HIVE}.information_schema.schemata")  # noqa: S608
                self.run(f"SELECT count(*) FROM {ICEBERG}.information_schema.schemata")  # noqa: S608
                break
            except (EngineError, EngineGone):
                if time.monotonic() > deadline:
                    raise LocalAwsError(
                        f"Trino is not ready after {patience:.0f} s: see {self.log}"
                    ) from None
                time.sleep(0.1)
        self.ready.set()

    def stop(self) -> None:
        """Ends the process; it has nothing to save."""
        self.ready.clear()
        if self._process:
            self._process.kill()
            self._process.wait()

    def run(
        self,
        sql: str,
        schema: str = "default",
        session: Sequence[str] = (),
        watch: Callable[["Result"], None] = lambda result: None,
        on_rows: Callable[["Result"], None] | None = None,
    ) -> Result:
        """Runs a statement and waits for it.

        Args:
            sql: in Trino's own language.
            schema: for unqualified names.
            session: properties, `name=value`.
            watch: told what is known whenever Trino answers; it may raise, which cancels the statement.
            on_rows: takes the rows away in pieces (`Result.rows` is emptied after each call).

        Raises:
            EngineError: Trino refused it, or it failed.
            EngineGone: Trino does not answer.
        """
        headers = {
            "X-Trino-User": "athena",
            "X-Trino-Source": "athena",
            "X-Trino-Catalog": HIVE,
            "X-Trino-Schema": schema,
            "X-Trino-Time-Zone": "UTC",
            "X-Trino-Client-Capabilities": "PARAMETRIC_DATETIME",
        }
        if session:
            headers["X-Trino-Session"] = ",".join(session)
        result = Result()
        next_uri = None
        http = _session()
        try:
            answer = self._ask(
                lambda: http.post(f"{self.url}/v1/statement", data=sql.encode(), headers=headers)
            )
            while True:
                result.columns = answer.get("columns") or result.columns
                result.rows += answer.get("data") or []
                result.update_type = answer.get("updateType", result.update_type)
                result.update_count = answer.get("updateCount", result.update_count)
                statistics = answer.get("stats", {})
                result.bytes_read = statistics.get("physicalInputBytes", 0)
                result.planning = statistics.get("planningTimeMillis", 0)
                if on_rows is not None:
                    on_rows(result)
                    result.rows = []
                if error := answer.get("error"):
                    raise EngineError(error["errorName"], error.get("message", ""), error["errorType"])
                next_uri = answer.get("nextUri")
                if next_uri is None:
                    return result
                watch(result)
                answer = self._ask(lambda uri=next_uri: http.get(uri))
        except (EngineError, EngineGone):
            raise
        except BaseException:
            with contextlib.suppress(requests.RequestException):
                if next_uri:
                    http.delete(next_uri, timeout=10)
            raise

    def _ask(self, send: Callable[[], requests.Response]) -> dict[str, Any]:
        try:
            while (response := send()).status_code in (502, 503, 504):  # the protocol: ask again
                time.sleep(0.05)
        except requests.RequestException as error:
            raise EngineGone(str(error)) from None
        if response.status_code != 200:
            raise EngineError("GENERIC_INTERNAL_ERROR", response.text[:500])
        return response.json()


_local = threading.local()


def _session() -> requests.Session:
    """One HTTP session a thread: connections are kept."""
    if not hasattr(_local, "session"):
        _local.session = requests.Session()
        _local.session.trust_env = False  # no proxy between this and its own Trino
    return _local.session


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
