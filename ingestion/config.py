"""Reads `sources.yml`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ingestion.errors import IngestionError

SOURCES_FILE = Path(__file__).with_name("sources.yml")
KINDS = ("postgres", "files", "bureau", "fx")


@dataclass(frozen=True)
class TableConfig:
    """One raw table: where it comes from and how its records are told apart.

    `options` holds whatever else the entry or its source says, for the module of its `kind`.
    """

    source: str
    table: str
    kind: str
    key: tuple[str, ...]
    cursor: str
    may_be_empty: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """`source.table`, as it is called on the command line and in messages."""
        return f"{self.source}.{self.table}"


def load_sources(path: Path = SOURCES_FILE) -> list[TableConfig]:
    """Every table of `sources.yml`, in its order.

    Raises:
        IngestionError: the file is not what is expected; the message names the entry.
    """
    tables: list[TableConfig] = []
    try:
        for source, settings in yaml.safe_load(path.read_text(encoding="utf-8")).items():
            shared = {k: v for k, v in settings.items() if k not in ("kind", "tables")}
            if settings["kind"] not in KINDS:
                raise IngestionError(f"{path.name}: {source}: kind must be one of {', '.join(KINDS)}")
            for table, entry in settings["tables"].items():
                options = dict(shared) | entry
                tables.append(
                    TableConfig(
                        source=source,
                        table=table,
                        kind=settings["kind"],
                        key=tuple(options.pop("key")),
                        cursor=options.pop("cursor"),
                        may_be_empty=options.pop("may_be_empty", False),
                        options=options,
                    )
                )
    except (KeyError, AttributeError, TypeError) as error:
        raise IngestionError(f"{path.name}: an entry lacks or misplaces {error}") from None
    except (OSError, yaml.YAMLError) as error:
        raise IngestionError(f"{path} cannot be read: {type(error).__name__}") from None
    return tables


def select_tables(tables: list[TableConfig], names: list[str]) -> list[TableConfig]:
    """The tables called `names` (`source.table` or a whole `source`), all of them when `names` is empty.

    Raises:
        IngestionError: a name is in no entry.
    """
    unknown = [n for n in names if not any(n in (t.name, t.source) for t in tables)]
    if unknown:
        raise IngestionError(f"no such table in sources.yml: {', '.join(unknown)}")
    return [t for t in tables if not names or t.name in names or t.source in names]
