"""The questions of docs/queries.md and the samples of the marts: each is answered, by SQL that Athena reads too."""

import re

import duckdb
import pytest
import yaml
from conftest import ROOT, Day
from sqlfluff.core import FluffConfig, Linter

QUESTIONS = re.findall(
    r"^### \d+\. (.+?)\n\n```sql\n(.+?)```",
    (ROOT / "docs/queries.md").read_text(encoding="utf-8"),
    re.DOTALL | re.MULTILINE,
)

SAMPLES = {
    model["name"]: sample
    for path in sorted((ROOT / "models/marts").rglob("*.yml"))
    for model in yaml.safe_load(path.read_text(encoding="utf-8"))["models"]
    for sample in re.findall(r"Try: `(.+?)`", model["description"])
}


def test_there_are_twenty() -> None:
    assert len(QUESTIONS) == 20
    assert len({question for question, _ in QUESTIONS}) == 20


@pytest.mark.parametrize("sql", [sql for _, sql in QUESTIONS], ids=[question for question, _ in QUESTIONS])
def test_a_question_is_answered(synthetic_day2: Day, sql: str) -> None:
    with duckdb.connect(str(synthetic_day2.warehouse), read_only=True) as connection:
        rows = connection.execute(sql).fetchall()
    assert rows
    assert any(value is not None for row in rows for value in row)


def test_samples_in_the_descriptions_of_marts_are_answered(synthetic_day2: Day) -> None:
    assert len(SAMPLES) >= 18
    with duckdb.connect(str(synthetic_day2.warehouse), read_only=True) as connection:
        for mart, sql in SAMPLES.items():
            assert f"from marts.{mart}" in sql
            assert connection.execute(sql).fetchall(), mart


def test_athena_can_read_them() -> None:
    """What DuckDB alone understands does not parse in the dialect of the narrower engine."""
    config = FluffConfig.from_path(str(ROOT), overrides={"templater": "raw"})
    linter = Linter(config=config)
    unread = [
        (question, v.desc()) for question, sql in QUESTIONS for v in linter.parse_string(sql).violations
    ]
    assert unread == []
    assert linter.parse_string("select 1::int from x qualify true").violations
