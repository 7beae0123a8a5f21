"""Fetches the libraries of the page from npm, by exact version and hash.

    python -m realtime.dashboard.assets

They are no part of the repository. uPlot is served by the dashboard; axe-core is what the tests ask whether
the page is accessible.
"""

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from realtime.errors import RealtimeError

FOLDER = Path(__file__).resolve().parents[2] / ".cache" / "web"


@dataclass(frozen=True)
class _Package:
    name: str
    version: str
    sha256: str
    """Of the package as npm hands it out."""
    files: tuple[str, ...]


_PACKAGES = (
    _Package(
        "uplot",
        "1.6.32",
        "4b8a8191e425658e3ea8c8c1314b0fc679c861ee3a1af2b20c7b16ba50b5133d",
        ("dist/uPlot.iife.min.js", "dist/uPlot.min.css", "LICENSE"),
    ),
    _Package(
        "axe-core",
        "4.14.1",
        "e6b0ce02b84d892e2e33e403485e7f3d6c29e2be6df65daf44d89ba564139745",
        ("axe.min.js", "LICENSE"),
    ),
)


def find(package: str, file: str) -> Path:
    """Where a file of a package is.

    Raises:
        RealtimeError: it is not there.
    """
    wanted = next(p for p in _PACKAGES if p.name == package)
    path = FOLDER / f"{wanted.name}-{wanted.version}" / Path(file).name
    if not path.exists():
        raise RealtimeError(
            f"{package} is missing: `make setup-dev` fetches it from npm"
            " (or `python -m realtime.dashboard.assets`)"
        )
    return path


def fetch() -> None:
    """Fetches what is missing.

    Raises:
        RealtimeError: there is no npm, it fails, or a package is not the one that was looked at.
    """
    for package in _PACKAGES:
        folder = FOLDER / f"{package.name}-{package.version}"
        if all((folder / Path(file).name).exists() for file in package.files):
            continue
        _fetch_one(package, folder)


def _fetch_one(package: _Package, folder: Path) -> None:
    if not shutil.which("npm"):
        raise RealtimeError(
            f"npm is missing, which {package.name} {package.version} comes from: install Node.js with npm"
            " (Debian, Ubuntu: apt-get install npm)"
        )
    with tempfile.TemporaryDirectory() as name:
        done = subprocess.run(
            ["npm", "pack", "--silent", f"{package.name}@{package.version}"],
            cwd=name,
            capture_output=True,
            text=True,
            check=False,
        )
        packed = next(Path(name).glob("*.tgz"), None)
        if done.returncode or packed is None:
            raise RealtimeError(
                f"npm did not hand out {package.name}@{package.version}: {done.stderr.strip()[-300:]}"
            )
        found = hashlib.sha256(packed.read_bytes()).hexdigest()
        if found != package.sha256:
            raise RealtimeError(
                f"{package.name}@{package.version} has SHA-256 {found}, not {package.sha256}: it is not used"
            )
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(packed) as archive:
            for file in package.files:
                member = archive.extractfile(f"package/{file}")
                beside = folder / (Path(file).name + ".part")
                beside.write_bytes(member.read())
                beside.replace(folder / Path(file).name)


def main() -> int:
    """Fetches; returns the exit code."""
    try:
        fetch()
    except RealtimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
