"""What README and docs name exists: every path, every make target, every command, every setting."""

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from conftest import ROOT

from ingestion.settings import Settings as IngestionSettings
from ingestion.settings import StorageSettings
from realtime.settings import Settings as RealtimeSettings
from sandbox.settings import Settings as SandboxSettings

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
FOLDERS = "ingestion|models|seeds|snapshots|macros|tests|profiles|sandbox|docs|offline_packages|benchmarks|realtime|reporting|ml"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_path_and_target_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(rf"`((?:{FOLDERS})/[\w./-]*)`", text))
    named |= set(re.findall(r"\]\(([\w./-]+)\)", text))
    base = {name: ROOT if name.split("/")[0] in FOLDERS.split("|") else page.parent for name in named}
    assert [n for n in named if not (base[n] / n).exists() and not (page.parent / n).exists()] == []
    assert set(re.findall(r"\bmake ([a-z-]+)", re.sub(r"make (starts|targets)", "", text))) - TARGETS == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_command_is_known(page: Path) -> None:
    for module, command in set(
        re.findall(r"python -m (ingestion|sandbox|realtime|ml\.scorecard) ([a-z-]+)", page.read_text())
    ):
        done = subprocess.run(
            [sys.executable, "-m", module, command, "--help"], cwd=ROOT, capture_output=True, check=False
        )
        assert done.returncode == 0, f"{page.name} names `python -m {module} {command}`"


def test_every_setting_in_the_code_is_in_env_example() -> None:
    listed = set(re.findall(r"^#? ?([A-Z][A-Z0-9_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    used: set[str] = set()
    for path in [*ROOT.glob("macros/**/*.sql"), ROOT / "dbt_project.yml", ROOT / "profiles/profiles.yml"]:
        used |= set(re.findall(r"env_var\(['\"]([A-Z_]+)['\"]", path.read_text()))
    for path in [*ROOT.glob("ingestion/*.py"), *ROOT.glob("sandbox/**/*.py")]:
        used |= set(re.findall(r"environ(?:\.get\(|\[)['\"]([A-Z_]+)['\"]", path.read_text()))
    used |= {
        field.name.upper()
        for field in (*fields(IngestionSettings), *fields(StorageSettings), *fields(RealtimeSettings))
    }
    used |= {name.upper() for name in SandboxSettings.model_fields}
    assert used - listed - {"PYTHONPATH", "CI", "DBT_TARGET_PATH", "DBT_LOG_PATH"} == set()
