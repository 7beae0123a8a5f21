"""Trino from Maven Central: only the jars it needs here, each pinned by its SHA-256 in `trino.lock`.

The published archives (`trino-server-core`, `trino-hive`, `trino-iceberg`) are 800 MB, most of it for other
clouds and file systems. The lock names the 252 jars that remain (180 MB), each identical with the one in
those archives. Folders share a jar by hard link.
"""

import contextlib
import hashlib
import os
import shutil
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from .errors import LocalAwsError

VERSION = "476"
LOCK = Path(__file__).with_name("trino.lock")
MAVEN_CENTRAL = "https://repo1.maven.org/maven2"
_PLUGINS = {
    "plugin/hive": "io.trino.plugin.hive.HivePlugin",
    "plugin/iceberg": "io.trino.plugin.iceberg.IcebergPlugin",
}
_ATTEMPTS = 4


@dataclass(frozen=True)
class Jar:
    """One line of the lock: `sha256 size folders group:artifact:version[:classifier][!member]`.

    With a member, the jar is published only within the artifact's archive (`tar.gz`).
    """

    sha256: str
    size: int
    folders: tuple[str, ...]
    artifact: str
    path: str
    """Path in a Maven repository."""
    member: str = ""

    @classmethod
    def read(cls, line: str) -> Self:
        """Reads one line of the lock."""
        sha256, size, folders, name = line.split()
        coordinates, _, member = name.partition("!")
        group, artifact, version, *classifier = coordinates.split(":")
        places = tuple(folder if folder == "lib" else f"plugin/{folder}" for folder in folders.split(","))
        file = "-".join([artifact, version, *classifier]) + (".tar.gz" if member else ".jar")
        path = f"{group.replace('.', '/')}/{artifact}/{version}/{file}"
        return cls(sha256, int(size), places, f"{artifact} {version}", path, member)

    @property
    def name(self) -> str:
        """File name in a folder of Trino: artifacts of different groups may share theirs."""
        return f"{self.sha256[:8]}-{Path(self.member or self.path).name}"


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
        (cache / "jars").mkdir(parents=True, exist_ok=True)
        _download(cache / "jars", jars, progress)
        progress("unpacking Trino")
        with tempfile.TemporaryDirectory(prefix="new-", dir=cache) as folder:
            _assemble(Path(folder) / "trino", cache / "jars", jars)
            with contextlib.suppress(OSError):  # another process was faster
                (Path(folder) / "trino").rename(home)
    except OSError as error:
        raise LocalAwsError(
            f"cannot write to {cache} ({error.strerror or error}):"
            " set LOCAL_AWS_CACHE to a folder with 400 MB free"
        ) from None
    return home


def _download(store: Path, jars: list[Jar], progress: Callable[[str], None]) -> None:
    missing = [jar for jar in jars if not _stored(store, jar).exists()]
    total, done = sum(jar.size for jar in missing), 0
    with ThreadPoolExecutor(8) as pool:
        running = {pool.submit(_fetch, store, jar): jar for jar in missing}
        try:
            for future in as_completed(running):
                future.result()
                done += running[future].size
                progress(f"downloading Trino {VERSION}, once: {done / 1e6:.0f} of {total / 1e6:.0f} MB")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _stored(store: Path, jar: Jar) -> Path:
    return store / f"{jar.sha256}.jar"


def _fetch(store: Path, jar: Jar) -> None:
    """Downloads one jar. A file below its name is complete and verified."""
    for attempt in range(_ATTEMPTS):
        with tempfile.TemporaryDirectory(dir=store, prefix="part-") as folder:
            part = Path(folder) / "jar"
            try:
                _download_to(part, jar)
            except (OSError, EOFError, tarfile.TarError) as error:  # urllib's errors are OSErrors
                gone = isinstance(error, urllib.error.HTTPError) and error.code < 500
                if attempt + 1 < _ATTEMPTS and not gone:
                    time.sleep(2**attempt)
                    continue
                raise LocalAwsError(
                    f"cannot download {jar.artifact} from Maven Central ({error}): check the network,"
                    " or set MAVEN_CENTRAL to the address of a mirror, and run this again"
                ) from None
            if _sha256(part) != jar.sha256:
                raise LocalAwsError(
                    f"{jar.artifact} from Maven Central is not the file that trino.lock names:"
                    " do not use this network or mirror"
                )
            part.replace(_stored(store, jar))
            return


def _download_to(part: Path, jar: Jar) -> None:
    url = f"{os.environ.get('MAVEN_CENTRAL', MAVEN_CENTRAL)}/{jar.path}"
    with urllib.request.urlopen(url, timeout=60) as response, part.open("wb") as file:  # noqa: S310
        if not jar.member:
            shutil.copyfileobj(response, file, 1 << 20)
            return
        with tarfile.open(fileobj=response, mode="r|gz") as archive:
            for entry in archive:  # read only as far as the member
                if entry.name.endswith("/" + jar.member):
                    shutil.copyfileobj(archive.extractfile(entry), file)
                    return
    raise EOFError(f"{jar.member} is not in it")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _assemble(home: Path, store: Path, jars: list[Jar]) -> None:
    for jar in jars:
        stored = _stored(store, jar)
        if _sha256(stored) != jar.sha256:
            stored.unlink()
            raise LocalAwsError(f"{stored.name} in the cache was damaged and is removed: run this again")
        for folder in jar.folders:
            (home / folder).mkdir(parents=True, exist_ok=True)
            os.link(stored, home / folder / jar.name)
    for folder, plugin in _PLUGINS.items():
        # In the published archive this is a jar of its own that Maven Central does not have.
        with zipfile.ZipFile(home / folder / "services.jar", "w") as archive:
            archive.writestr("META-INF/services/io.trino.spi.Plugin", plugin + "\n")
