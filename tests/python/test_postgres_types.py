"""Every PostgreSQL type to Parquet and back: what DuckDB reads is what PostgreSQL itself prints."""

import json
import os
import random
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from pathlib import Path

import duckdb
import hypothesis.strategies as st
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, seed
from hypothesis import settings as hypothesis_settings

from ingestion.config import TableConfig
from ingestion.lake import DeadLetter, Lake
from ingestion.run import Landed, run
from ingestion.settings import Settings

SEED = int(os.environ.get("SEED") or random.randrange(2**32))
LAST_MICROSECOND = 2**63 - 2  # DuckDB reads the one after it as infinity

# ---------------------------------------------------------------- what PostgreSQL is given
# A strategy gives the input text of a value and whether the lake can hold it.


def held(texts: st.SearchStrategy[str]) -> st.SearchStrategy[tuple[str, bool]]:
    return texts.map(lambda text: (text, True))


def either(fine: st.SearchStrategy[str], *unfit: str) -> st.SearchStrategy[tuple[str, bool]]:
    """Mostly values that fit: a row with one that does not is dead-lettered whole."""
    return st.integers(0, 60).flatmap(
        lambda n: st.sampled_from([(u, False) for u in unfit]) if unfit and n == 0 else held(fine)
    )


def whole(bits: int) -> st.SearchStrategy[str]:
    return st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1).map(str)


def digits(before: int, after: int) -> st.SearchStrategy[str]:
    """Numbers with up to so many digits before and after the point."""
    return st.builds(
        lambda sign, i, f: f"{sign}{i}" + (f".{f:0{after}d}" if after else ""),
        st.sampled_from(["", "-"]),
        st.integers(0, 10**before - 1) | st.integers(0, 10 ** min(before, 3) - 1),
        st.integers(0, 10**after - 1) | st.just(0),
    )


def timestamps() -> st.SearchStrategy[tuple[str, bool]]:
    def text(julian: int, microsecond: int) -> tuple[str, bool]:
        seconds, micros = divmod(microsecond, 10**6)
        clock = f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{micros:06d}"
        return f"J{julian} {clock}+00", (
            julian - 2_440_588
        ) * 86_400 * 10**6 + microsecond <= LAST_MICROSECOND

    days = (
        st.integers(2_400_000, 2_500_000)
        | st.integers(0, 109_192_800)
        | st.integers(109_192_840, 109_203_527)
    )
    days = st.integers(0, 30).flatmap(lambda n: days if n == 0 else st.integers(0, 109_192_800))
    clocks = st.integers(0, 86_400 * 10**6 - 1) | st.integers(0, 86_399).map(lambda s: s * 10**6)
    return st.integers(0, 60).flatmap(
        lambda n: (
            st.sampled_from([("infinity", False), ("-infinity", False)])
            if n == 0
            else st.builds(text, days, clocks)
        )
    )


def lists(elements: st.SearchStrategy[str], *unfit: str) -> st.SearchStrategy[tuple[str, bool]]:
    """Array literals, with nulls."""

    def literal(values: list[str | None]) -> str:
        def element(value: str | None) -> str:
            return "NULL" if value is None else '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'

        return "{" + ",".join(map(element, values)) + "}"

    return either(st.lists(st.none() | elements, max_size=4).map(literal), *unfit)


TEXT = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30
) | st.sampled_from(
    [
        "",
        " ",
        "null",
        "NULL",
        "\\N",
        "\\.",
        'a,"b"\n\r\n\\N\tç ☕ ',
        "'; drop table things; --",
        "\ufeff",
        "x" * 300,
    ]
)
WORD = st.text(st.characters(categories=["Lu", "Ll", "Nd"]), min_size=1, max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | WORD | st.just('"\n\\'),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORD, inner, max_size=3),
    max_leaves=6,
).map(lambda value: json.dumps(value, ensure_ascii=False))
FLOAT = st.floats(allow_nan=True).map(repr)
REAL = st.floats(allow_nan=True, width=32).map(repr)
DATE = st.integers(0, 2_147_483_493).map("J{}".format) | st.integers(2_415_021, 2_488_070).map("J{}".format)
CLOCK = st.times().map(str)
NOT_A_NUMBER = ("NaN", "Infinity", "-Infinity")
INTERVAL = st.builds(
    "{} months {} days {} microseconds".format,
    st.integers(-(10**8), 10**8),
    st.integers(-(10**8), 10**8),
    st.integers(-(2**62), 2**62),
) | st.sampled_from(["0", "1 year 2 mons -3 days 04:05:06.789"])
ADDRESS = st.ip_addresses().map(str)

TYPES: dict[str, tuple[str, st.SearchStrategy[tuple[str, bool]]]] = {
    "i2": ("smallint", held(whole(16))),
    "i4": ("integer", held(whole(32))),
    "i8": ("bigint", held(whole(64))),
    "number": ("oid", held(st.integers(0, 2**32 - 1).map(str))),
    "f4": ("real", held(REAL)),
    "f8": ("double precision", held(FLOAT)),
    "amount": ("numeric(14,2)", either(digits(12, 2), "NaN")),
    "rate": ("numeric(9,6)", either(digits(3, 6), "NaN")),
    "whole": ("numeric(18)", either(digits(18, 0), *NOT_A_NUMBER[:1])),
    "fraction": ("numeric(5,5)", either(digits(0, 5), "NaN")),
    "micro": ("numeric(3,6)", either(st.integers(-999, 999).map("{}e-6".format), "NaN")),
    "thousands": ("numeric(4,-3)", either(st.integers(-9999, 9999).map("{}000".format), "NaN")),
    "wide": ("numeric(38,10)", either(digits(28, 10), "NaN")),
    "huge": ("numeric(76,20)", either(digits(56, 20), "NaN")),
    "free": ("numeric", held(digits(60, 40) | digits(3, 0) | st.sampled_from(NOT_A_NUMBER))),
    "fitted": ("numeric", either(digits(29, 9) | digits(5, 0), *NOT_A_NUMBER, "1e29", "0.0000000001")),
    "flag": ("boolean", held(st.sampled_from(["true", "false"]))),
    "note": ("text", held(TEXT)),
    "short": ("varchar(300)", held(TEXT)),
    "code": ("char(8)", held(st.text(st.characters(exclude_characters="\0", categories=["L"]), max_size=8))),
    "label": ("name", held(WORD)),
    "letter": ('"char"', held(st.sampled_from(["a", "Z", ""]))),
    "bytes": ("bytea", held(st.binary(max_size=40).map(lambda b: "\\x" + b.hex()))),
    "ref": ("uuid", held(st.uuids().map(str))),
    "day": ("date", either(DATE, "infinity", "-infinity")),
    "moment": ("timestamptz", timestamps()),
    "wall": ("timestamp", timestamps()),
    "milli": ("timestamptz(3)", held(st.datetimes().map("{}+00".format))),
    "clock": ("time", either(CLOCK, "24:00:00")),
    "zoned": ("timetz", held(CLOCK.map("{}-03".format))),
    "span": ("interval", held(INTERVAL | st.sampled_from(["infinity", "-infinity"]))),
    "doc": ("json", held(JSON)),
    "docb": ("jsonb", held(JSON)),
    "mood": ("app.mood", held(st.sampled_from(["sad", "so so", "happy"]))),
    "money_in": ("app.money_in", either(digits(8, 2).map(lambda t: t.lstrip("-")), "NaN")),
    "nested": ("app.nested", either(digits(8, 2).map(lambda t: t.lstrip("-")), "NaN")),
    "place": ("app.place", held(st.builds('("{}",{})'.format, WORD, whole(32)))),
    "price": ("money", held(st.integers(-(10**9), 10**9).map("{}.25".format))),
    "address": ("inet", held(ADDRESS)),
    "mac": ("macaddr", held(st.binary(min_size=6, max_size=6).map(lambda b: b.hex(":")))),
    "between": ("int4range", held(st.builds("[{},{})".format, st.integers(-9, 0), st.integers(1, 9)))),
    "during": ("tstzrange", held(st.datetimes().map("[{}+00,)".format))),
    "bits": ("bit varying", held(st.text("01", max_size=20))),
    "point_at": ("point", held(st.builds("({},{})".format, st.integers(), st.integers()))),
    "words": ("tsvector", held(WORD)),
    "ints": ("integer[]", lists(whole(32), "{{1,2},{3,4}}", "[0:1]={1,2}")),
    "texts": ("text[]", lists(TEXT, "{{a},{b}}")),
    "flags": ("boolean[]", lists(st.sampled_from(["true", "false"]))),
    "floats": ("double precision[]", lists(FLOAT)),
    "amounts": ("numeric(14,2)[]", lists(digits(12, 2), "{1,NaN}", "{{1}}")),
    "frees": ("numeric[]", lists(digits(40, 30) | st.just("NaN"))),
    "days": ("date[]", lists(DATE, "{2025-01-01,NULL,infinity}", "{-infinity}")),
    "moments": ("timestamptz[]", lists(st.datetimes().map("{}+00".format), "{infinity}", "{294270-01-01}")),
    "clocks": ("time[]", lists(CLOCK, "{24:00}")),
    "refs": ("uuid[]", lists(st.uuids().map(str))),
    "moods": ("app.mood[]", lists(st.sampled_from(["sad", "so so"]))),
    "codes": ("char(3)[]", lists(st.sampled_from(["a", "abc", ""]))),
    "numbers": ("oid[]", lists(st.integers(0, 2**32 - 1).map(str))),
    "docs": ("jsonb[]", lists(JSON)),
    "blobs": ("bytea[]", lists(st.binary(max_size=5).map(lambda b: "\\x" + b.hex()))),
}
KINDS = """
    create type app.mood as enum ('sad', 'so so', 'happy');
    create domain app.money_in as numeric(10, 2) check (value >= 0);
    create domain app.nested as app.money_in not null default 0;
    create type app.place as (city text, number integer);
"""
THINGS = TableConfig(
    "app",
    "things",
    "postgres",
    ("id",),
    "updated_at",
    may_be_empty=True,
    options={"schema": "app", "numeric": {"fitted": "decimal(38,9)"}},
)

# ---------------------------------------------------------------- the server and the lake


@pytest.fixture
def database(app_schema: psycopg.Connection) -> psycopg.Connection:
    app_schema.execute("set timezone = 'UTC'; set intervalstyle = 'iso_8601'")
    return app_schema


@pytest.fixture
def new_lake(new_folder: Callable[[str], Path], server: str) -> Callable[[], Settings]:
    def make() -> Settings:
        return Settings(
            lake=str(new_folder("lake") / "lake"),
            source_dsn=server,
            extract_date=date(2025, 12, 31),
        )

    return make


def land(settings: Settings, table: TableConfig = THINGS) -> Landed:
    (result,) = run(settings, [table])
    return result


def dead_letters(settings: Settings) -> list[DeadLetter]:
    return Lake.open(settings.lake, "synthetic").dead_letters("app", "things")


def files(settings: Settings) -> list[Path]:
    return sorted(Path(settings.lake).glob("raw/app/things/*/*.parquet"))


def as_duckdb_prints(settings: Settings, columns: list[str]) -> dict[int, tuple]:
    """Every landed row by id, each value as text (lists: as lists of texts), as DuckDB reads it."""

    def text(expression: str, kind: str) -> str:
        if kind == "BLOB":
            return f"'\\x' || lower(hex({expression}))"
        if kind == "TIMESTAMP WITH TIME ZONE":
            return f"({expression} at time zone 'UTC')::varchar || '+00'"
        return f"{expression}::varchar"

    source = f"read_parquet('{settings.lake}/raw/app/things/*/*.parquet', union_by_name = true)"
    with duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        kinds = {n: k for n, k, *_ in connection.execute(f"describe select * from {source}").fetchall()}
        select = ", ".join(
            f'list_transform("{c}", lambda x: {text("x", kinds[c][:-2])})'
            if kinds[c].endswith("[]")
            else text(f'"{c}"', kinds[c])
            for c in columns
        )
        return {
            row[0]: row[1:] for row in connection.execute(f"select id, {select} from {source}").fetchall()
        }


def as_postgres_prints(database: psycopg.Connection, columns: list[str]) -> dict[int, tuple]:
    """The same from PostgreSQL: `::text`; a composite as JSON, which is how it lands."""

    def text(column: str) -> str:
        if TYPES[column][0].endswith("[]"):
            return f'"{column}"::text[]'
        return f'to_json("{column}")::text' if column == "place" else f'"{column}"::text'

    select = ", ".join(map(text, columns))
    return {row[0]: row[1:] for row in database.execute(f"select id, {select} from app.things").fetchall()}


def same(kind: str, postgres: object, duck: object) -> bool:
    """Whether two texts are the same value: only the notation of some differs."""
    if isinstance(postgres, list) and isinstance(duck, list):
        element = kind.removesuffix("[]")
        return len(postgres) == len(duck) and all(map(lambda p, d: same(element, p, d), postgres, duck))
    if postgres is None or duck is None:
        return postgres is duck
    if kind in ("real", "double precision"):
        number, other = float(postgres), float(duck)
        return number == other or (number != number and other != other)
    if kind == "date" or kind.startswith("timestamp"):
        # PostgreSQL writes BC at the very end, DuckDB in brackets after the day.
        if "(BC)" in duck:
            duck = duck.replace(" (BC)", "") + " BC"
        return postgres == duck
    if kind.startswith("numeric") or "money_in" in kind or "nested" in kind:
        # A decimal has the digits of its scale, and DuckDB writes no zero before the point.
        return postgres == duck or Decimal(postgres) == Decimal(duck)
    return postgres == duck


# ---------------------------------------------------------------- tests

ROWS = st.lists(
    st.fixed_dictionaries(
        {name: st.none() | values for name, (_, values) in TYPES.items() if name != "nested"}
    ),
    min_size=2,
    max_size=10,
)


def test_every_type_lands_as_postgresql_prints_it(
    database: psycopg.Connection, new_lake: Callable[[], Settings]
) -> None:
    """PostgreSQL → Parquet → DuckDB equals PostgreSQL's text; what cannot be held becomes a dead letter.

    A failure is not shrunk: an example is a run of ingestion. Again with the same values: `SEED=… pytest`.
    """
    print(f"SEED={SEED}")
    database.execute(KINDS)
    listed = ", ".join(f'"{name}" {kind}' for name, (kind, _) in TYPES.items())
    database.execute(
        f"create table app.things (id bigint primary key, updated_at timestamptz default now(), {listed})"
    )
    # DuckDB's own decimals end at 38 digits: the wider one is compared below, as pyarrow reads it.
    columns = [c for c in TYPES if c != "huge"]
    seen = {"landed": 0, "rejected": 0}

    @seed(SEED)
    @hypothesis_settings(
        phases=[Phase.generate],
        max_examples=20,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    @given(rows=ROWS)
    def check(rows: list[dict[str, tuple[str, bool] | None]]) -> None:
        database.execute("truncate app.things")
        names = list(rows[0])
        quoted = ", ".join(f'"{name}"' for name in names)
        with database.cursor() as cursor:
            cursor.executemany(
                f"insert into app.things (id, {quoted})"
                f" values (%s, {', '.join(f'%s::{TYPES[n][0]}' for n in names)})",
                [(i, *(row[n] and row[n][0] for n in names)) for i, row in enumerate(rows)],
            )
        unfit = {i: [n for n in names if row[n] and not row[n][1]] for i, row in enumerate(rows)}
        settings = new_lake()
        result = land(settings)
        assert result.error is None
        letters = {json.loads(letter.origin)["id"]: letter for letter in dead_letters(settings)}
        assert {int(i) for i in letters} == {i for i, bad in unfit.items() if bad}
        for i, letter in letters.items():
            assert all(f"{name}: " in letter.reason for name in unfit[int(i)])
            assert json.loads(letter.payload)["id"] == int(i)
        expected = as_postgres_prints(database, columns)
        landed = as_duckdb_prints(settings, columns)
        assert sorted(landed) == [i for i, bad in unfit.items() if not bad]
        for i, values in landed.items():
            for name, postgres, duck in zip(columns, expected[i], values, strict=True):
                assert same(TYPES[name][0], postgres, duck), (name, rows[i].get(name), postgres, duck)
        huge = dict(database.execute("select id, huge::text from app.things").fetchall())
        table = pq.read_table(files(settings)[0], columns=["id", "huge"])
        assert table.schema.field("huge").type == pa.decimal256(76, 20)
        for i, value in zip(table["id"].to_pylist(), table["huge"].to_pylist(), strict=True):
            assert (None if value is None else f"{value:f}") == huge[i]
        seen["landed"] += len(landed)
        seen["rejected"] += len(letters)

    check()
    print(seen)
    assert all(seen.values()), "no row of one kind was generated: the test proved nothing"


def test_large_values_and_many_rows_arrive_exactly(
    database: psycopg.Connection, new_lake: Callable[[], Settings]
) -> None:
    # GIVEN texts and bytes of 1 MB between small ones, and more rows than fit into one block
    database.execute(
        """
        create table app.things (id bigint primary key, amount numeric(14, 2), rate numeric(9, 6), body text,
                                 bytes bytea, updated_at timestamptz not null);
        insert into app.things
        select i, case when i % 7 > 0 then (hashint8(i)::numeric * (10 ^ (i % 5))::numeric / 10000)::numeric(14, 2) end,
               case when i % 3 > 0 then (hashint8(i) / 2147483.7)::numeric(9, 6) end,
               case when i % 9999 = 0 then repeat(md5(i::text), 32768) else left('"\\N,\n' || i, (i % 9)::int) end,
               case when i % 9999 = 0 then decode(repeat('00ff000a', 262144), 'hex') else int8send(i) end, now()
        from generate_series(1::bigint, 150000) as i
        """
    )
    settings = new_lake()
    result = land(settings)
    assert (result.error, result.rows) == (None, 150_000)
    # THEN a digest over every value of every column is the same on both sides
    digest = """
        select {column}, md5(string_agg(id || ':' || coalesce({text}, 'null'), ',' order by id)) from {source}
    """
    with duckdb.connect() as connection:
        for column, postgres, duck in [
            ("amount", "amount::text", "amount::varchar"),
            ("rate", "rate::text", "rate::varchar"),
            ("body", "md5(body)", "md5(body)"),
            ("bytes", "md5(bytes)", "md5(bytes)"),
        ]:
            query = digest.replace("{column}", f"'{column}'")
            assert (
                connection.execute(
                    query.format(text=duck, source=f"read_parquet('{files(settings)[0]}')")
                ).fetchone()
                == database.execute(query.format(text=postgres, source="app.things")).fetchone()
            )


@pytest.mark.parametrize("policy", ["float", "decimal(77,2)", "decimal(9,10)", "decimal(9)"])
def test_a_policy_for_numeric_that_is_none_is_refused(
    database: psycopg.Connection, new_lake: Callable[[], Settings], policy: str
) -> None:
    database.execute("create table app.things (id bigint, free numeric, updated_at timestamptz)")
    table = TableConfig(**{**vars(THINGS), "options": {"schema": "app", "numeric": policy}})
    assert f"says numeric: {policy}" in land(new_lake(), table).error


UNFIT = [
    ("numeric(14,2)", "NaN"),
    ("numeric(18)", "NaN"),
    ("numeric(38,10)", "NaN"),
    ("numeric(76,20)", "NaN"),
    ("date", "infinity"),
    ("date", "-infinity"),
    ("timestamp", "infinity"),
    ("timestamptz", "-infinity"),
    ("timestamptz", "294247-01-10 04:00:54.775807+00"),
    ("timestamp", "294276-12-31"),
    ("time", "24:00:00"),
    ("integer[]", "{{1,2},{3,4}}"),
    ("integer[]", "[0:1]={1,2}"),
    ("text[]", "{{a}}"),
    ("numeric(14,2)[]", "{1,NaN,NULL}"),
    ("date[]", "{2025-01-01,NULL,infinity}"),
    ("timestamptz[]", "{2025-01-01,294270-01-01}"),
    ("time[]", "{24:00}"),
]


def test_each_value_that_cannot_be_held_becomes_a_dead_letter(
    database: psycopg.Connection, new_lake: Callable[[], Settings]
) -> None:
    # GIVEN a row for each of them, where all else is null, and one that is null throughout
    kinds = sorted({kind for kind, _ in UNFIT})
    listed = ", ".join(f'"{kind}" {kind}' for kind in kinds)
    database.execute(
        f"create table app.things (id int primary key, updated_at timestamptz not null, {listed})"
    )
    for i, (kind, text) in enumerate(UNFIT):
        database.execute(
            f'insert into app.things (id, updated_at, "{kind}") values ({i}, now(), %s)', (text,)
        )
    database.execute("insert into app.things values (1000, now())")
    settings = new_lake()
    result = land(settings)
    # THEN each has its letter, which names the column, and says what PostgreSQL holds
    assert (result.error, result.rows) == (None, 1)
    letters = {int(json.loads(letter.origin)["id"]): letter for letter in dead_letters(settings)}
    assert sorted(letters) == list(range(len(UNFIT)))
    for i, (kind, _) in enumerate(UNFIT):
        assert letters[i].reason.startswith(f"{kind}: ")
        (held,) = database.execute(f'select to_json("{kind}") from app.things where id = {i}').fetchone()
        assert json.loads(letters[i].payload)[kind] == held
