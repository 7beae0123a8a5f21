"""`python -m tests.guards`: take each guard out of a copy of the project and see its test fail."""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue

ROOT = Path(__file__).resolve().parents[2]
LISTS = sorted(Path(__file__).parent.glob("*.toml"))
_FAILED_TESTS = 1
"""pytest's exit code when tests ran and some failed: any other one says nothing of the guard."""


@dataclass(frozen=True)
class Guard:
    """One edit that takes a guard away, and the tests that must fail then.

    `remove` is a text that stands once in `file`, `instead` what takes its place; `test` is what pytest is
    given (a file, perhaps with `::name`), `match` an expression for its `-k`, and `settings` go into its
    environment.
    """

    name: str
    file: str
    remove: str
    test: str
    instead: str = ""
    match: str = ""
    settings: dict[str, str] = field(default_factory=dict)


def main() -> int:
    """Try the guards whose names contain what was given; returns 1 when one of them is not noticed."""
    parser = argparse.ArgumentParser(prog="python -m tests.guards", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="only guards whose name contains one of these"
    )
    parser.add_argument("--list", action="store_true", help="show them, try none")
    parser.add_argument("--jobs", type=int, default=2, help="at once (%(default)s)")
    parser.add_argument(
        "--minutes", type=float, default=10, help="that a test may take: more on a busy machine (%(default)g)"
    )
    arguments = parser.parse_args()
    guards = [g for g in read() if not arguments.names or any(n in g.name for n in arguments.names)]
    if not guards:
        parser.error("no guard is called so; --list shows them")
    if arguments.list:
        print("\n".join(f"{g.name}  ({g.file}; {g.test})" for g in guards))
        return 0
    with tempfile.TemporaryDirectory(prefix="guards-") as folder:
        # The users that tests run servers as come through here.
        Path(folder).chmod(0o755)
        copies: SimpleQueue[Path] = SimpleQueue()
        for number in range(arguments.jobs):
            copies.put(_copy(Path(folder, str(number), "project")))

        def attempt(guard: Guard) -> bool:
            copy = copies.get()
            try:
                is_noticed, said = _is_noticed(guard, copy, arguments.minutes)
            finally:
                copies.put(copy)
            print(f"{'noticed' if is_noticed else 'NOT NOTICED':<12}{guard.name}: {said}", flush=True)
            return is_noticed

        with ThreadPoolExecutor(arguments.jobs) as threads:
            noticed = list(threads.map(attempt, guards))
    print(f"{sum(noticed)} of {len(noticed)} guards are noticed when they are missing")
    return int(not all(noticed))


def read() -> list[Guard]:
    """Every guard of the lists beside this file."""
    return [Guard(**guard) for file in LISTS for guard in tomllib.loads(file.read_text())["guard"]]


def _copy(folder: Path) -> Path:
    """A copy of what git knows of the project, with the packages that dbt has installed."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    shutil.copytree(ROOT / "dbt_packages", folder / "dbt_packages", dirs_exist_ok=True)
    if (ROOT / ".cache").is_dir():
        (folder / ".cache").symlink_to(ROOT / ".cache")
    return folder


def _is_noticed(guard: Guard, copy: Path, minutes: float) -> tuple[bool, str]:
    """Whether the test fails without the guard, and pytest's last line."""
    file = copy / guard.file
    original = file.read_text(encoding="utf-8")
    if original.count(guard.remove) != 1:
        return False, f"the text to remove stands {original.count(guard.remove)} times in {guard.file}"
    changed = original.replace(guard.remove, guard.instead)
    if file.suffix == ".py":
        try:
            compile(changed, guard.file, "exec")
        except SyntaxError as error:
            # Any test would fail on it.
            return False, f"without it {guard.file} is no Python any more, line {error.lineno}: mend the edit"
    file.write_text(changed, encoding="utf-8")
    # Tests that `make test` leaves out are meant, too: no marker decides.
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", "", guard.test]
    try:
        done = subprocess.run(
            command + (["-k", guard.match] if guard.match else []),
            cwd=copy,
            # A .pyc of the same second and size would be taken for the changed file's.
            env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "BERKA_DIR": _berka()} | guard.settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60 * minutes,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False, f"its test did not end within {minutes:g} minutes"
    finally:
        file.write_text(original, encoding="utf-8")
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    failed = [line for line in lines if re.match(r"(FAILED|ERROR) tests", line)]
    return done.returncode == _FAILED_TESTS, " / ".join([*failed, *lines[-1:]])[:300]


def _berka() -> str:
    return os.environ.get("BERKA_DIR") or str(ROOT.parent / "shared" / "data" / "berka")


if __name__ == "__main__":
    sys.exit(main())
