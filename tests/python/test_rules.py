"""The checks of the quarantine, rendered as dbt renders them and asked of DuckDB one value at a time."""

import random
from collections.abc import Callable

import duckdb
import jinja2
import pytest
import yaml
from conftest import ROOT

from sandbox.worlds.dirt import with_check_digits

VARS = yaml.safe_load((ROOT / "dbt_project.yml").read_text())["vars"]
FILES = ("macros/quarantine/rules.sql", "macros/staging/normalise.sql")


@pytest.fixture(scope="module")
def broken() -> Callable[[dict, object, str], bool]:
    """Is a rule broken by a value of column `x`, of this type, landed on 2025-12-31?"""
    environment = jinja2.Environment(extensions=["jinja2.ext.do"])
    text = "\n".join((ROOT / name).read_text() for name in FILES)
    # `return` of a list cannot be rendered: the one macro that does is stood in for by what it returns
    listed = text.split("return((")[1].split(").split()")[0].split("'")[1::2]
    text = text[: text.index("{# The codes of ISO 4217")] + text[text.index("{# A currency as its") :]
    macros = environment.from_string(
        text,
        {
            "var": VARS.get,
            "iso_4217_codes": lambda: "".join(listed).split(),
            "digits": lambda column: f"regexp_replace({column}, '[^0-9]', '', 'g')",
            "ts": lambda column: f"cast({column} as timestamp)",
            "add_days": lambda day, days: f"cast({day} + interval {days} day as date)",
        },
    ).module
    connection = duckdb.connect()

    def ask(rule: dict, value: object, kind: str = "varchar") -> bool:
        condition = macros.rule_is_broken({"column": "x", **rule})
        query = f"""
            select case when {condition} then 1 else 0 end
            from (select cast(? as {kind}) as x, '2025-12-31' as extract_date)
        """
        return connection.execute(query, [value]).fetchone()[0] == 1

    return ask


def test_a_cpf_is_known_by_its_check_digits(broken: Callable) -> None:
    draw = random.Random(1)
    for _ in range(200):
        cpf = with_check_digits(f"{draw.randrange(10**9):09d}")
        if len(set(cpf)) == 1:
            continue
        assert not broken({"check": "cpf"}, cpf)
        place, other = draw.randrange(11), str(draw.randrange(10))
        changed = cpf[:place] + other + cpf[place + 1 :]
        # one wrong digit is always found, but where a remainder of 10 and of 0 share the digit 0
        nine_valid = with_check_digits(changed[:9]) == changed
        assert broken({"check": "cpf"}, changed) != nine_valid
    assert not broken({"check": "cpf"}, "529.982.247-25")


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        ("cpf", ["52998224725"], ["11111111111", "00000000000", "5299822472", "529982247250", "", "abc"]),
        (
            "email",
            ["ana@example.com", " Ana.Lima@Example.COM ", "a@b.c"],
            ["ana.example.com", "ana@example", "a na@example.com", "a@b@c.com", "@example.com", ""],
        ),
        ("state", ["SP", "sp ", "South Bohemia", "Prague"], ["XX", "zz"]),
        ("currency", ["BRL", "brl", " USD ", "CZK"], ["R$", "XX1", "", "REAL"]),
        ("not_blank", ["001"], ["", "  "]),
    ],
)
def test_a_check_tells_good_from_bad(broken: Callable, check: str, good: list[str], bad: list[str]) -> None:
    assert [value for value in good if broken({"check": check}, value)] == []
    assert [value for value in bad if not broken({"check": check}, value)] == []


@pytest.mark.parametrize(
    ("rule", "kind", "good", "bad"),
    [
        ({"check": "range", "min": 0, "max": 10}, "decimal(14,2)", ["0", "10"], ["-0.01", "10.01"]),
        ({"check": "range", "above": 0}, "decimal(14,2)", ["0.01"], ["0", "-1"]),
        ({"check": "day"}, "date", ["1900-01-01", "2026-01-01"], ["1899-12-31", "2026-01-02"]),
        ({"check": "day"}, "timestamp", ["2026-01-01 23:59:59"], ["2026-01-02 00:00:00"]),
        ({"check": "day", "max": "2199-12-31"}, "date", ["2199-12-31"], ["2200-01-01"]),
        ({"check": "one_of", "values": ["a", "b"]}, "varchar", ["a"], ["c", ""]),
        ({"check": "never", "condition": "x > 1"}, "integer", ["1"], ["2"]),
    ],
)
def test_a_bound_is_where_it_says(
    broken: Callable, rule: dict, kind: str, good: list[str], bad: list[str]
) -> None:
    assert [value for value in good if broken(rule, value, kind)] == []
    assert [value for value in bad if not broken(rule, value, kind)] == []


@pytest.mark.parametrize("check", ["cpf", "email", "state", "currency", "range", "day", "one_of"])
def test_null_breaks_nothing(broken: Callable, check: str) -> None:
    kind = {"range": "integer", "day": "date"}.get(check, "varchar")
    assert not broken(
        {"check": check, "min": 0, "values": ["a"]} if check != "day" else {"check": check}, None, kind
    )
