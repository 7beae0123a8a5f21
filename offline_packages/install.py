"""Installs the dbt packages of packages.yml: `python offline_packages/install.py`.

From the dbt hub where it answers, else our own stand-ins: macros written for this project under the names
and signatures of those it uses. Both end up in dbt_packages/, so dbt never knows the difference. Safe to
repeat: what is installed for the present packages.yml and stand-ins is left as it is.

`--from FOLDER` takes the real packages from checkouts in FOLDER (`dbt_utils`, `dbt_expectations`) instead.
"""

import argparse
import hashlib
import queue
import shutil
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

HUB = "https://hub.getdbt.com/api/v1/index.json"
PROBE_SECONDS = 3.0
STAND_INS = ("dbt_utils", "dbt_expectations")
HERE = Path(__file__).resolve().parent


def main() -> int:
    """Install into the project this file belongs to; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--from", dest="checkouts", type=Path, help="a folder with checkouts of the packages")
    checkouts = parser.parse_args().checkouts
    print(install_from(HERE.parent, checkouts) if checkouts else install(HERE.parent))
    return 0


def install(project: Path, hub: str = HUB) -> str:
    """Install the packages of `project` and say in one line what was done."""
    installed = project / "dbt_packages"
    stamp = installed / ".installed"
    wanted = _fingerprint(project)
    if stamp.exists() and stamp.read_text(encoding="utf-8").startswith(wanted):
        stamp.touch()
        return "dbt packages: already installed"

    # Without its stamp the folder is half done at best.
    shutil.rmtree(installed, ignore_errors=True)
    if _answers(hub) and _from_hub(project):
        origin = "hub"
        said = "dbt packages: installed from the dbt hub"
    else:
        shutil.rmtree(installed, ignore_errors=True)
        for name in STAND_INS:
            shutil.copytree(project / "offline_packages" / name, installed / name)
        origin = "stand-ins"
        said = "dbt packages: the dbt hub cannot be reached, so stand-ins are used (offline_packages/)"
    stamp.write_text(f"{wanted} {origin}\n", encoding="utf-8")
    return said


def install_from(project: Path, checkouts: Path) -> str:
    """Install the packages of `project` from a folder that has them; returns what was done in one line."""
    missing = [name for name in STAND_INS if not (checkouts / name / "dbt_project.yml").exists()]
    if missing:
        raise SystemExit(f"error: {checkouts} has no {' and no '.join(missing)} with a dbt_project.yml")
    installed = project / "dbt_packages"
    shutil.rmtree(installed, ignore_errors=True)
    for name in STAND_INS:
        ignored = shutil.ignore_patterns(".git", "integration_tests")
        shutil.copytree(checkouts / name, installed / name, ignore=ignored)
    (installed / ".installed").write_text(f"{_fingerprint(project)} checkouts\n", encoding="utf-8")
    return f"dbt packages: installed from {checkouts}"


def _fingerprint(project: Path) -> str:
    """Changes when packages.yml or a stand-in does."""
    digest = hashlib.sha256((project / "packages.yml").read_bytes())
    for name in STAND_INS:
        folder = project / "offline_packages" / name
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            digest.update(f"{path.relative_to(folder)}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _answers(url: str) -> bool:
    """One request, given up after PROBE_SECONDS whatever it hangs on, name resolution included."""
    answers: queue.Queue[bool] = queue.Queue()

    def ask() -> None:
        try:
            with urllib.request.urlopen(url, timeout=PROBE_SECONDS):  # noqa: S310
                answers.put(True)
        except (OSError, ValueError):
            answers.put(False)

    threading.Thread(target=ask, daemon=True).start()
    try:
        return answers.get(timeout=PROBE_SECONDS)
    except queue.Empty:
        return False


def _from_hub(project: Path) -> bool:
    """`dbt deps`; False when it fails, for a network may let the hub through and not the archives."""
    dbt = Path(sys.executable).with_name("dbt")
    command = [str(dbt) if dbt.exists() else "dbt", "deps", "--project-dir", str(project)]
    try:
        return subprocess.run(command, cwd=project, capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


if __name__ == "__main__":
    sys.exit(main())
