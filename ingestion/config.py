"""Reads `sources.yml`."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml12

from ingestion.errors import ConfigurationError

SOURCES_FILE = Path(__file__).with_name("sources.yml")
KINDS = ("postgres", "files", "bureau", "fx")
SCHEMA_POLICIES = ("evolve", "freeze")
DEAD_LETTER_ALERT = 0.01
POSTGRES_OPTIONS = {"schema", "relation", "overlap_seconds", "numeric", "rename", "pii"}
MOST_OVERLAP = 366 * 86_400
# Sources and tables are folders of the lake and names in Athena.
_NAME = re.compile(r"[a-z][a-z0-9_]*", re.ASCII)


@dataclass(frozen=True)
class TableConfig:
    """One raw table: where it comes from and how its records are told apart.

    Without a `cursor`, a PostgreSQL table is compared whole at every run. `options` holds whatever else the
    entry or its source says, for the module of its `kind`. `schema_policy` is `evolve` or `freeze`;
    `dead_letter_alert` is the share of extracted records, 0 to 1, above which a run ends with an alert;
    `expect_rows` is `daily` when a day without a new row is a failure.
    """

    source: str
    table: str
    kind: str
    key: tuple[str, ...]
    cursor: str | None
    may_be_empty: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    schema_policy: str = "evolve"
    dead_letter_alert: float = DEAD_LETTER_ALERT
    expect_rows: str | None = None

    @property
    def name(self) -> str:
        """`source.table`, as it is called on the command line and in messages."""
        return f"{self.source}.{self.table}"

    @property
    def relation(self) -> str:
        """What the table is called in its source, where that is no good name in the lake."""
        return self.options.get("relation", self.table)


def load_sources(path: Path = SOURCES_FILE) -> list[TableConfig]:
    """Every table of `sources.yml`, in its order.

    Raises:
        ConfigurationError: the file is not what is expected; the message names the entry.
    """
    tables: list[TableConfig] = []
    try:
        sources = yaml12.parse_yaml(path.read_text(encoding="utf-8"))
        if not isinstance(sources, dict):
            raise ConfigurationError(
                f"{path.name}: holds no source; docs/operations.md says how one is written"
            )
        for source, settings in sources.items():
            shared = {k: v for k, v in settings.items() if k not in ("kind", "tables")}
            if settings["kind"] not in KINDS:
                raise ConfigurationError(f"{path.name}: {source}: kind must be one of {', '.join(KINDS)}")
            for table, entry in (settings["tables"] or {}).items():
                config = _table(source, table, settings["kind"], shared | entry)
                if problem := _problem(config):
                    raise ConfigurationError(f"{path.name}: {config.name}: {problem}")
                tables.append(config)
    except (KeyError, AttributeError, TypeError) as error:
        raise ConfigurationError(f"{path.name}: an entry lacks or misplaces {error}") from None
    except (OSError, ValueError) as error:
        reason = str(error) if type(error) is ValueError else type(error).__name__
        raise ConfigurationError(f"{path} cannot be read: {reason}") from None
    return tables


def _table(source: str, table: str, kind: str, options: dict[str, Any]) -> TableConfig:
    return TableConfig(
        source=source,
        table=table,
        kind=kind,
        key=_key(options.pop("key")),
        cursor=options.pop("cursor"),
        may_be_empty=options.pop("may_be_empty", False),
        schema_policy=options.pop("schema_policy", "evolve"),
        dead_letter_alert=options.pop("dead_letter_alert", DEAD_LETTER_ALERT),
        expect_rows=options.pop("expect_rows", None),
        options=options,
    )


def _key(columns: Any) -> tuple[str, ...]:
    return tuple(columns) if isinstance(columns, list) else ()


def _problem(table: TableConfig) -> str | None:
    """What is wrong with an entry, or None."""
    share = table.dead_letter_alert
    if not table.key or not all(isinstance(c, str) for c in table.key) or len({*table.key}) < len(table.key):
        return "key must be a list of the columns that name a record, such as [id]"
    if not isinstance(table.cursor, str | None):
        return "cursor must be the name of a column, or null"
    if not all(_NAME.fullmatch(str(name)) for name in (table.source, table.table)):
        return "names in the lake are lower case letters, digits and _ (`relation` names the source's table)"
    if table.cursor is None and table.kind != "postgres":
        return "only PostgreSQL tables can do without a cursor"
    if not isinstance(table.may_be_empty, bool):
        return "may_be_empty must be true or false"
    if not isinstance(table.options.get("pii", False), bool | dict | list):
        return "pii must be true, false, or name columns"
    renamed = table.options.get("rename", {})
    if not isinstance(renamed, dict) or not all(isinstance(n, str) for n in {*renamed, *renamed.values()}):
        return "rename must be {column: name}"
    if {*renamed, *renamed.values()} & {*table.key, table.cursor}:
        return "rename must be {column: name}, and neither the key nor the cursor"
    if table.kind == "postgres" and (problem := _problem_of_postgres(table.options)):
        return problem
    if table.schema_policy not in SCHEMA_POLICIES:
        return f"schema_policy must be one of {', '.join(SCHEMA_POLICIES)}"
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
        return "dead_letter_alert must be a share from 0 to 1, such as 0.01"
    if table.expect_rows not in (None, "daily"):
        return "expect_rows must be daily, or left out"
    return None


def _problem_of_postgres(options: dict[str, Any]) -> str | None:
    """What is wrong with the options of a PostgreSQL table, or None."""
    if unknown := options.keys() - POSTGRES_OPTIONS:
        return f"no option is called {', '.join(sorted(map(str, unknown)))}; docs/operations.md lists them"
    if not isinstance(options.get("schema"), str):
        return "schema must name the source's schema"
    if not isinstance(options.get("relation", ""), str):
        return "relation must name the source's table"
    overlap = options.get("overlap_seconds", 0)
    if isinstance(overlap, bool) or not isinstance(overlap, int | float) or not 0 <= overlap <= MOST_OVERLAP:
        return f"overlap_seconds must be a number of seconds from 0 to {MOST_OVERLAP}, such as 3600"
    if not isinstance(options.get("numeric", ""), str | dict):
        return "numeric must be string, decimal(p,s), or {column: one of these}"
    return None


def select_tables(tables: list[TableConfig], names: list[str]) -> list[TableConfig]:
    """The tables called `names` (`source.table` or a whole `source`), all of them when `names` is empty.

    Raises:
        ConfigurationError: a name is in no entry.
    """
    unknown = [n for n in names if not any(n in (t.name, t.source) for t in tables)]
    if unknown:
        raise ConfigurationError(f"no such table in sources.yml: {', '.join(unknown)}")
    return [t for t in tables if not names or t.name in names or t.source in names]
