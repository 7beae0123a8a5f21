"""Settings from the environment, with defaults that make the demo work; `.env.example` lists them."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from datetime import date, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

from ingestion.errors import ConfigurationError

BUSINESS_ZONE = ZoneInfo("America/Sao_Paulo")


class Secret:
    """A text that no log, error or debugger shows by accident."""

    def __init__(self, value: str) -> None:
        self._value = value

    def get_secret_value(self) -> str:
        """The text itself."""
        return self._value

    def __repr__(self) -> str:
        return "Secret('**********')" if self._value else "Secret('')"


def _matching(pattern: str, meaning: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"should be {meaning}")
        return text

    return read


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ValueError("should be a day such as 2025-12-31") from None


def _seconds(text: str) -> float:
    try:
        if (seconds := float(text)) > 0:
            return seconds
    except ValueError:
        pass
    raise ValueError("should be a number of seconds above 0")


_NONE = Secret("")


# A dataclass: importing pydantic takes half as long as landing a small increment.
@dataclass
class Settings:
    """What one ingestion run needs to know; build it with `load_settings`.

    Values that are texts are checked and turned into what they mean.

    Raises:
        ConfigurationError: a value cannot be read.
    """

    world: str = "synthetic"
    lake: str = ""
    source_id: str = ""
    sources_file: Path | None = None
    log_format: str = ""
    source_dsn: Secret = _NONE
    source_timeout: str = "6h"
    bureau_url: str = ""
    bureau_api_key: Secret = _NONE
    fx_url: str = "https://olinda.bcb.gov.br"
    event_log: str = ""
    glue_database: str = ""
    extract_date: date = field(default_factory=lambda: datetime.now(BUSINESS_ZONE).date())

    def __post_init__(self) -> None:
        _check(self)

    @cached_property
    def lake_root(self) -> str:
        """The lake's folder: `LAKE`, or `lake` for the synthetic world and `lake-<world>` for any other."""
        return self.lake or ("lake" if self.world == "synthetic" else f"lake-{self.world}")


@dataclass
class StorageSettings:
    """How objects are kept on S3; build it with `load_storage_settings`."""

    lake_kms_key_id: str = ""
    lake_lease_seconds: float = 60.0

    def __post_init__(self) -> None:
        _check(self)


_READERS: dict[str, Callable[[str], Any]] = {
    "world": _matching(r"[a-z][a-z0-9_-]*", "a name such as synthetic"),
    "sources_file": Path,
    "log_format": _matching("|text|json", "text or json"),
    "source_dsn": Secret,
    "source_timeout": _matching(r"[1-9]\d*(ms|s|min|h|d)", "a time such as 6h or 90s"),
    "bureau_api_key": Secret,
    "glue_database": _matching(r"[a-z0-9_]*", "a name of lower case letters, digits and _"),
    "extract_date": _day,
    "lake_lease_seconds": _seconds,
}
"""What makes the value of a setting from its text, or raises ValueError."""


def _check(settings: Any) -> None:
    problems = []
    for each in fields(settings):
        value = getattr(settings, each.name)
        try:
            if isinstance(value, str) and each.name in _READERS:
                setattr(settings, each.name, _READERS[each.name](value))
        except ValueError as error:
            problems.append(f"{each.name.upper()}: {error}")
    if problems:
        raise ConfigurationError(f"settings cannot be read: {'; '.join(problems)} (.env.example lists them)")


def load_settings() -> Settings:
    """Read the settings: environment first, then `.env`, then what the running sandbox wrote.

    Raises:
        ConfigurationError: a setting has a value that cannot be read.
    """
    dotenv = _values(Path(".env"))

    def setting(name: str, default: str) -> str:
        return os.environ.get(name) or dotenv.get(name) or default

    world = setting("WORLD", "synthetic")
    endpoints = Path(setting("SANDBOX_DIR", ".sandbox")) / world / "endpoints.env"
    return _read(Settings, _values(endpoints), dotenv)


def load_storage_settings() -> StorageSettings:
    """Read the settings of S3 from the environment, then `.env`; raises as `load_settings`."""
    return _read(StorageSettings, _values(Path(".env")))


def _values(file: Path) -> dict[str, str | None]:
    """The variables of a file, none when there is no such file."""
    if not file.is_file():
        return {}
    # Only now: where everything comes from the environment, there is no file to be read.
    from dotenv import dotenv_values

    return dotenv_values(file)


Read = TypeVar("Read")


def _read(kind: type[Read], *files: dict[str, str | None]) -> Read:
    """Settings that are the environment's variables, or else those of the last file that has them."""
    found: dict[str, str] = {}
    for values in (*files, os.environ):
        found |= {f.name: values[f.name.upper()] for f in fields(kind) if values.get(f.name.upper())}
    return kind(**found)
