"""What dbt gives a template, stood in for so that sqlfluff can render models without a database.

The project's own macros are real; `.sqlfluff` loads both. Functions that differ between engines or come
from dbt render as a plain call, which is all that a linter has to see.
"""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import yaml

VARS = yaml.safe_load(Path("dbt_project.yml").read_text(encoding="utf-8"))["vars"]


def _call(name: str) -> Callable[..., str]:
    return lambda *args, **kwargs: f"{name}({', '.join(str(a) for a in (*args, *kwargs.values()))})"


class _Calls:
    """An object whose every method renders as a call of that name."""

    def __getattr__(self, name: str) -> Callable[..., str]:
        return _call(name)


class _Adapter:
    def dispatch(self, name: str, package: str | None = None) -> Callable[..., str]:
        return _call(name)


class _Config:
    def __call__(self, **settings: object) -> str:
        return ""

    def get(self, key: str, default: object = None) -> object:
        return "key_column" if key == "unique_key" else default


def var(name: str, default: object = None) -> object:
    """What dbt_project.yml says."""
    return VARS.get(name, default)


def env_var(name: str, default: str = "") -> str:
    """Nothing is set."""
    return default


class _Node:
    """A quarantine model or a source, whichever is asked for."""

    columns: ClassVar[dict] = {"a_column": None}
    config = SimpleNamespace(
        meta={
            "key": {"key_column": "as_is"},
            "rules": {"a_rule": {"check": "never", "condition": "a_column is null"}},
        }
    )


class _Nodes:
    def get(self, unique_id: str) -> type[_Node]:
        return _Node


graph = {"nodes": _Nodes(), "sources": _Nodes()}
project_name = "credit_lakehouse"
adapter = _Adapter()
config = _Config()
dbt = _Calls()
dbt_utils = _Calls()
exceptions = _Calls()
execute = False
