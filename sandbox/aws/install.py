"""Trino from Maven Central: only the jars it needs here, each pinned by its SHA-256 in `trino.lock`.

The published archives (`trino-server-core`, `trino-hive`, `trino-iceberg`) are 800 MB, most of it for other
clouds and file systems. The lock names the jars that remain (180 MB). Folders share a jar by hard link.
"""

import fcntl
import hashlib
import os
import ssl
import tempfile
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from .errors import LocalAwsError

if TYPE_CHECKING:
    import requests
    from jgo.maven import MavenContext

VERSION = "476"
LOCK = Path(__file__).with_name("trino.lock")
_PLUGINS = {
    "plugin/hive": "io.trino.plugin.hive.HivePlugin",
    "plugin/iceberg": "io.trino.plugin.iceberg.IcebergPlugin",
}
_ATTEMPTS = 4


@dataclass(frozen=True)
class Jar:
    """One line of the lock: `sha256 size folders group:artifact:version[:classifier]`."""

    sha256: str
    size: int
    folders: tuple[str, ...]
    group: str
    artifact: str
    version: str
    classifier: str = ""

    @classmethod
    def read(cls, line: str) -> Self:
        """Reads one line of the lock."""
        sha256, size, folders, coordinates = line.split()
        places = tuple(folder if folder == "lib" else f"plugin/{folder}" for folder in folders.split(","))
        return cls(sha256, int(size), places, *coordinates.split(":"))

    def fetch(self, maven: "MavenContext", session: "requests.Session") -> Path:
        """Where the jar is below Maven's cache, downloaded if it is not there yet.

        jgo would do this by itself, at the price of a new TLS connection for every file.
        """
        component = maven.project(self.group, self.artifact).at_version(self.version)
        artifact = component.artifact(classifier=self.classifier)
        file = Path(artifact.cached_path)
        if not file.exists():
            (repository,) = maven.remote_repos.values()
            url = f"{repository}/{Path(component.path_prefix).as_posix()}/{artifact.filename}"
            file.parent.mkdir(parents=True, exist_ok=True)
            part = file.with_suffix(".part")
            with session.get(url, stream=True, timeout=60) as answer, part.open("wb") as written:
                answer.raise_for_status()
                for block in answer.iter_content(1 << 20):
                    written.write(block)
            part.replace(file)
        return file


def cache_folder() -> Path:
    """Where downloads stay: LOCAL_AWS_CACHE, else `local-aws` in the user's cache folder."""
    if given := os.environ.get("LOCAL_AWS_CACHE"):
        return Path(given).expanduser().resolve()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "local-aws"


def trino_home(progress: Callable[[str], None] = lambda text: None, *, cache: Path | None = None) -> Path:
    """The folder of Trino, with `lib/` and `plugin/`; downloads what is missing.

    Raises:
        LocalAwsError: a jar cannot be had, or is not the one that the lock names.
    """
    cache = cache or cache_folder()
    home = cache / f"trino-{VERSION}-{hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]}"
    if home.exists():  # it appears whole or not at all
        return home
    jars = [Jar.read(line) for line in LOCK.read_text().splitlines()]
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with (cache / "lock").open("w") as lock:
            progress("waiting for another download of Trino")
            fcntl.flock(lock, fcntl.LOCK_EX)
            if home.exists():
                return home
            files = _download(cache / "maven", jars, progress)
            progress("unpacking Trino")
            with tempfile.TemporaryDirectory(prefix="new-", dir=cache) as folder:
                _assemble(Path(folder) / "trino", files)
                (Path(folder) / "trino").rename(home)
    except OSError as error:
        raise LocalAwsError(
            f"cannot write to {cache} ({error.strerror or error}):"
            " set LOCAL_AWS_CACHE to a folder with 400 MB free"
        ) from None
    return home


def _download(cache: Path, jars: list[Jar], progress: Callable[[str], None]) -> dict[Jar, Path]:
    """Every jar's file in Maven's cache; what is there already is not fetched again."""
    import requests
    from jgo.maven import MavenContext

    system = ssl.get_default_verify_paths().cafile
    if system and Path(system).exists():
        # requests has a list of its own; the certificates of a company's proxy are in the system's.
        os.environ.setdefault("REQUESTS_CA_BUNDLE", system)
    mirror = os.environ.get("MAVEN_REPOSITORY")
    maven = MavenContext(
        repo_cache=cache, local_repos=[], remote_repos={"mirror": mirror} if mirror else None, timeout=60
    )
    files: dict[Jar, Path] = {}
    total, done = sum(jar.size for jar in jars), 0
    with requests.Session() as session, ThreadPoolExecutor(8) as pool:
        running = {pool.submit(_fetch, jar, maven, session): jar for jar in jars}
        try:
            for future in as_completed(running):
                files[running[future]] = future.result()
                done += running[future].size
                progress(f"downloading Trino {VERSION}, once: {done / 1e6:.0f} of {total / 1e6:.0f} MB")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return files


def _fetch(jar: Jar, maven: "MavenContext", session: "requests.Session") -> Path:
    problem = ""
    for attempt in range(_ATTEMPTS):
        time.sleep(2 ** (attempt - 1) if attempt else 0)
        try:
            file = jar.fetch(maven, session)
        except OSError as error:  # those of requests, too
            problem = f"cannot download {jar.artifact} {jar.version} from Maven Central ({_line(error)})"
            continue
        if _sha256(file) == jar.sha256:
            return file
        # Also what an interrupted download left.
        file.unlink()
        problem = f"{jar.artifact} {jar.version} from Maven Central is not the file that trino.lock names"
    raise LocalAwsError(
        f"{problem}: check the network, or set MAVEN_REPOSITORY to a mirror's address, and run this again"
    )


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _assemble(home: Path, files: dict[Jar, Path]) -> None:
    for jar, file in files.items():
        for folder in jar.folders:
            (home / folder).mkdir(parents=True, exist_ok=True)
            # Artifacts of two groups may share a name.
            os.link(file, home / folder / f"{jar.group}.{file.name}")
    for folder, plugin in _PLUGINS.items():
        # In the published archive this is a jar of its own that Maven Central does not have.
        with zipfile.ZipFile(home / folder / "services.jar", "w") as archive:
            archive.writestr("META-INF/services/io.trino.spi.Plugin", plugin + "\n")
