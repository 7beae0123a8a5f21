"""Files of records: exact fates of lines, each file once by content, broken and drifting input, replay."""

import base64
import gzip
import json
import os
import random
import re
import shutil
import threading
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingestion import drop, files
from ingestion.config import TableConfig
from ingestion.errors import IngestionError
from ingestion.json_lines import JsonParser
from ingestion.lake import BatchWriter, Lake
from ingestion.lines import CsvParser, CsvSplitter, Layout, LineSplitter
from ingestion.run import Run
from ingestion.settings import Settings
from tests.soak import files as soak

COLUMNS = {
    "id": {"type": "text", "required": True},
    "n": "bigint",
    "amount": "numeric(14,2)",
    "flag": "boolean",
    "ratio": "double",
    "day": "date",
    "at": {"type": "timestamptz", "required": True},
    "doc": "json",
}
AT = "2026-01-01T10:00:00Z"
MOMENT = datetime(2026, 1, 1, 10, tzinfo=UTC)


def table(folder: Path | str = ".", **options: Any) -> TableConfig:
    """A table of files in `folder`, as sources.yml would declare it."""
    defaults = {"location": str(folder), "quiet_seconds": 0, "columns": COLUMNS}
    return TableConfig(
        "drop", "things", "files", ("id",), "at", may_be_empty=True, options=defaults | options
    )


def record(number: int, **changes: Any) -> dict[str, Any]:
    return {"id": f"r{number}", "n": number, "at": AT} | changes


def jsonl(*records: Any) -> bytes:
    """Lines of JSON; text and bytes are taken as they are."""
    lines = (r if isinstance(r, bytes) else json.dumps(r, ensure_ascii=False).encode() for r in records)
    return b"".join(line + b"\n" for line in lines)


class Place:
    """A lake and a drop folder, and the runs between them."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.drop = folder / "drop"
        self.drop.mkdir()
        self.lake = Lake.open(str(folder / "lake"), "synthetic")
        self.table = table(self.drop, **options)
        self.day = date(2026, 1, 1)

    def declare(self, **options: Any) -> None:
        """Change what sources.yml says."""
        self.table = replace(self.table, options=self.table.options | options)

    def put(self, name: str, content: bytes) -> None:
        path = self.drop / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def _batch(self, act: Callable[[Run, BatchWriter], None]) -> BatchWriter:
        with self.lake.lock():
            run = Run(Settings(), self.lake, self.day, self.lake.next_batch_id(), None)
            schema = files.schema(self.table, run)
            with self.lake.begin(self.table, schema, run.batch_id, run.extract_date) as out:
                act(run, out)
        return out

    def land(self) -> BatchWriter:
        return self._batch(lambda run, out: files.extract(self.table, run, out))

    def replay(self) -> BatchWriter:
        letters = self.lake.dead_letters("drop", "things")
        return self._batch(lambda run, out: files.replay(self.table, run, letters, out))

    def rows(self, columns: str = "_source_file, _source_line, id") -> list[tuple]:
        with duckdb.connect() as connection:
            connection.execute("set timezone = 'UTC'")
            paths = [f"{self.lake.root}/{p}" for p in self.lake.batches("drop", "things")]
            return connection.execute(
                f"select {columns} from read_parquet($1, union_by_name = true, hive_partitioning = true)"
                " order by _batch_id, _source_file, _source_line",
                [paths],
            ).fetchall()

    def letters(self) -> dict[str, str]:
        """Origin → reason of the open dead letters."""
        return {x.origin: x.reason for x in self.lake.dead_letters("drop", "things")}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


# ---------------------------------------------------------------- JSON, line by line

NOT_JSON = "not JSON"


@pytest.mark.parametrize(
    ("change", "column", "expected"),
    [
        ('"n": 9223372036854775807', "n", 2**63 - 1),
        ('"n": 9223372036854775808', None, "n is no bigint"),
        ('"n": 1.0', None, "n is no bigint"),
        ('"n": "1"', None, "n is no bigint"),
        ('"n": true', None, "n is no bigint"),
        ('"n": null', "n", None),
        ('"amount": 12.3', "amount", Decimal("12.30")),
        ('"amount": "12.3"', "amount", Decimal("12.30")),
        ('"amount": 999999999999.99', "amount", Decimal("999999999999.99")),
        ('"amount": 1e2', "amount", Decimal("100.00")),
        ('"amount": 12.345', None, "amount is no numeric"),
        ('"amount": 1000000000000', None, "amount is no numeric"),
        ('"amount": "12,3"', None, "amount is no numeric"),
        ('"amount": ""', None, "amount is no numeric"),
        ('"ratio": 0.1', "ratio", 0.1),
        ('"ratio": 1', "ratio", 1.0),
        ('"ratio": NaN', None, NOT_JSON),
        ('"ratio": 1e999', None, "ratio is no double"),
        ('"flag": false', "flag", False),
        ('"flag": "false"', None, "flag is no boolean"),
        ('"day": "2026-02-28"', "day", date(2026, 2, 28)),
        ('"day": "2026-02-30"', None, "day is no date"),
        ('"at": "2026-01-01T07:00:00.123456-03:00"', "at", MOMENT.replace(microsecond=123456)),
        ('"at": "2026-01-01 10:00:00.100000000Z"', "at", MOMENT.replace(microsecond=100000)),
        ('"at": "2026-01-01T10:00:00"', None, "at is no timestamptz"),
        ('"at": "2026-01-01T10:00:00.0000001Z"', None, "at is no timestamptz"),
        ('"at": 1767261600', None, "at is no timestamptz"),
        ('"at": null', None, "at is missing"),
        ('"id": ""', "id", ""),
        ('"id": 7', None, "id is no text"),
        ('"id": "\\u0063af\\u00e9 \\ud83d\\ude00"', "id", "café 😀"),
        ('"id": "\\ud83d"', None, NOT_JSON),
        ('"doc": {"a": 1.10, "big": 123456789012345678901234567890, "é": [null]}', "doc", '{"a": 1.10, "big": 123456789012345678901234567890, "é": [null]}'),
        ('"doc": "null"', "doc", '"null"'),
        ('"doc": {"a": 01}', None, NOT_JSON),
        ('"doc": [1,]', None, NOT_JSON),
        ('"doc": ' + "[" * 5000 + "]" * 5000, None, NOT_JSON),
        ('"other": {"x": 1.10}', "_extra", '{"other":{"x": 1.10}}'),
        ('"other": null', "_extra", '{"other":null}'),
        ('"n" : 5', "n", 5),
        ('"id": "a\\":b"', "id", 'a":b'),
        ('"id": "a", "id": "b"', None, "a field is there twice"),
        ('"i\\u0064": "b"', None, "a field is there twice"),
        ('"other": 1, "other": 2', None, "a field is there twice"),
        ('"id" : "b"', None, "a field is there twice"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("neighbours", [0, 3], ids=["alone", "in a block"])
def test_what_a_json_value_becomes(change: str, column: str | None, expected: Any, neighbours: int) -> None:
    twice = expected == "a field is there twice"
    base = {k: v for k, v in record(1).items() if k != "n" and (twice or not change.startswith(f'"{k}"'))}
    line = (json.dumps(base)[:-1] + (", " if base else "") + change + "}").encode()
    lines = [jsonl(record(i))[:-1] for i in range(neighbours)] + [line]
    parsed = JsonParser(Layout.of(table()), ()).parse(b"\n".join(lines) + b"\n")
    if column is None:
        assert parsed.bad == {neighbours: expected}
        assert parsed.rows.num_rows == neighbours
    else:
        assert parsed.bad == {}
        value = parsed.rows[column].to_pylist()[neighbours]
        assert value == expected
        assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"[1]", "no JSON object"),
        (b"{}", "id is missing"),
        (b'{"id": "a"', NOT_JSON),
        (b'{"id": "a"} {"id": "b"}', NOT_JSON),
        (b"\x00", NOT_JSON),
        (b'{"id": "caf\xe9"}', "not UTF-8"),
        (b'{"doc": "caf\xe9"}', "not UTF-8"),
        (b'{"other": "caf\xe9"}', "not UTF-8"),
    ],
)
def test_a_line_that_is_no_record(line: bytes, reason: str) -> None:
    parsed = JsonParser(Layout.of(table()), ()).parse(jsonl(record(0), line, record(2)))
    assert parsed.bad == {1: reason}
    assert parsed.index.to_pylist() == [0, 2]


def test_two_values_in_one_line_and_one_over_two_lines_do_not_pass_for_two_lines() -> None:
    one = json.dumps(record(1))
    data = f'{one}{one}\n{{"id": "x", "doc": {{"a": 1}}\n, "at": "{AT}"}}\n'.encode()
    parsed = JsonParser(Layout.of(table()), ()).parse(data)
    assert parsed.bad == {0: NOT_JSON, 1: NOT_JSON, 2: NOT_JSON}
    # The second line is as long as the record that would be taken for it.
    whole, begun = f'{{"id":"b","at":"{AT}"}}', f'{{"id":"b","at":"{AT}",'
    assert_a_block_is_its_lines([(whole * 2).encode(), begun.encode(), b'"n":1}'])


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8), st.sampled_from([AT, "2026-01-01", "1.5", '":', "é"]),
)  # fmt: skip
values = st.recursive(scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text("ab:\" ", max_size=3), v, max_size=3), max_leaves=5)  # fmt: skip
objects = st.dictionaries(
    st.sampled_from([*COLUMNS, "new", 'q":', "é", "", "a.b", "\x00"]), values, max_size=8
)


@st.composite
def lines(draw: st.DrawFn) -> bytes:
    """Mostly sound records, with a value of any type here and there."""
    fields = draw(st.sampled_from([record(1), record(2, amount=1.5, doc={"a": 1}), {}])) | draw(objects)
    style = draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,", " :")]))
    text = json.dumps(fields, ensure_ascii=draw(st.booleans()), separators=style)
    return draw(st.sampled_from([text, text, text, text, text[:-1], text + text, f" {text}\r", ""])).encode()


def assert_a_block_is_its_lines(block: list[bytes]) -> None:
    """Read a block twice, the second time with what the first has taught, and its lines one by one."""
    layout = Layout.of(table())
    rows, bad = [], {}
    for i, line in enumerate(block):
        # The definition: every line by itself.
        alone = JsonParser(layout, ())
        alone._has_blocks = False
        one = alone.parse(line + b"\n")
        rows += [(i, row) for row in one.rows.to_pylist()]
        bad |= dict.fromkeys([i] * len(one.bad), one.bad.get(0))
    parser = JsonParser(layout, ())
    for _ in range(2):
        found = parser.parse(b"".join(line + b"\n" for line in block))
        assert found.bad == bad
        assert list(zip(found.index.to_pylist(), found.rows.to_pylist(), strict=True)) == rows


@settings(deadline=None, max_examples=60)
@given(st.lists(lines(), max_size=6))
def test_a_block_gives_what_its_lines_give_one_by_one(block: list[bytes]) -> None:
    assert_a_block_is_its_lines(block)


def test_what_must_not_pass_for_a_regular_line() -> None:
    """Lines that are cut where others are, and are something else."""
    at = f'"at":"{AT}"'.encode()
    block = [
        b'{"id":"a",' + at + b"}",
        b'{"id":"a",' + at + b',"id":"b"}', b'{"id":"a","id":"b", ' + at + b"}",
        b'{"id": "a", "n": null, "n": 5, ' + at + b"}", b'{"id":"a","n":5,"n":null,' + at + b"}",
        b'{"doc":{"a":1},"doc": {"b":2},"id":"a",' + at + b"}", b'{"id":"a","x":{"id":"b"},' + at + b"}",
        b'{"id":"\\u0061",' + at + b"}", b'{"id":"a b  c",' + at + b',"":0}', b'{"\\u0069d":"a",' + at + b"}",
        b'{"id":"a","n":-0,' + at + b"}", b'{"id":"a","ratio":1e-400,' + at + b"}",
        b'{"id":"a","ratio":1e999,"amount":1.234,' + at + b"}", b'{"id":"a","ratio":"1","n":null,' + at + b"}",
        b'{"id":"a","amount":"1\\u0032.5",' + at + b"}", b'{"id":"a","amount":"null",' + at + b"}",
        b'{"id":"a","amount":true,"doc":null,' + at + b"}", b'{"id":"a","doc":"","amount":"",' + at + b"}",
        b'{"id":"a",\t"doc":{"a":\t\t\t\t1},' + at + b"}", b'{"id":"a","doc":[\t\t\t\t],"":0,' + at + b"}",
        b'{"id":"a","doc":[\r\r\r\r\r],"":0,' + at + b"}", b'{"id":"a","doc":[\r],\r' + at + b"\r}\r",
        b'{"id":"a",' + at + b"}\r", b'{"id":"a",' + at + b"} ", b' {"id":"a",' + at + b"}", b"\r", b"{}", b"}{", b"{",
        b'{"id":"a",' + at + b'}{"id":"b",' + at + b"}", b'{"id":"a","doc":{"a":1}', b'{"b":2},' + at + b"}",
        b'{"id":"a}', b'{b",' + at + b"}", b'{"id":"\\ud83d",' + at + b"}", b'{"id":"a","doc":"\\ud83d",' + at + b"}",
        b'{"x":1,"id":"a",' + at + b"}", b'{"id":"a";' + at + b"}", b'{"id":"a",,' + at + b"}", b'{,"id":"a",' + at + b"}",
        b'{"id":"a","n":007,' + at + b"}", b'{"id":"a","n":+7,' + at + b"}", b'{"id":"a","n":,' + at + b"}",
        b'{"id":"a","n":nulL,' + at + b"}", b'{"id":"a","ratio":01.5,' + at + b"}", b'{"id":"a","amount":1.,' + at + b"}",
        b'{"id":"a\tb",' + at + b"}", b'{"id":"a\x01",' + at + b"}", b'{"id":"a\x7f",' + at + b"}", b'{"id":"a"b",' + at + b"}",
        b'{"id":"a\\",' + at + b"}", b'{"id":"\\x",' + at + b"}", b'{"id":"a","doc":"\\x",' + at + b"}",
        b'{"id":"a","doc":1,2,' + at + b"}", b'{"id":"a","doc":{"id":1,' + at + b"}", b'{"doc":{"id":1},"id":"a",' + at + b"}",
        b'[{"id":"a",' + at + b"}]", b'{"id":"a",' + at + b"}}", b'{"id":"a",' + at + b"]", b'{"flag":tru,"id":"a",' + at + b"}",
        b'{"id":"a","n":9223372036854775808,' + at + b"}", b'{"id":"a","n":1.0,' + at + b"}",
        b'{"id":"a","x y":1,' + at + b"}", b'{"id":"a","x y": "  ",' + at + b"}", b'{"id":"a\xc3\xa9",' + at + b"}",
    ]  # fmt: skip
    assert_a_block_is_its_lines(block)
    for line in block:
        assert_a_block_is_its_lines([line])


def test_regular_lines_are_never_looked_at_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """GIVEN a block with one odd line WHEN it is read THEN it alone is decoded by itself."""
    parser, alone = JsonParser(Layout.of(table()), ()), []
    one_by_one = JsonParser._of_line
    parser.parse(jsonl(record(1, new=2)))  # a name that nobody declared is known from then on
    monkeypatch.setattr(JsonParser, "_of_line", lambda self, x: (alone.append(x), one_by_one(self, x))[1])
    sound = [record(i, id='São "x"\n', doc={"a": ["{}", 1.0], "id": 1}, new=None) for i in range(40)]
    other = [b'{"at": "2026-01-01T10:00:00Z", "id":"a"}', b'{"id": "a"', b'{"id": "\\\\"}\r']
    parsed = parser.parse(jsonl(*sound, *other, *sound))
    assert alone == other[1:2]
    assert parsed.rows.num_rows == 81
    assert parsed.bad == {41: NOT_JSON, 42: "at is missing"}


def test_unknown_fields_are_kept_in_one_order() -> None:
    block = jsonl(record(1, size=[1], colour=None), record(2), record(3, colour="blue", size=[1.10]))
    rows = JsonParser(Layout.of(table()), ()).parse(block).rows
    assert rows["_extra"].to_pylist() == [
        '{"colour":null,"size":[1]}',
        None,
        '{"colour":"blue","size":[1.1]}',
    ]


def test_latin_1_is_read_where_it_is_declared_and_utf_8_is_not_taken_for_it() -> None:
    parser = JsonParser(Layout.of(table(encoding="latin-1")), ())
    data = jsonl(record(1, id="são"), record(2)).decode().encode("latin-1")
    parsed = parser.parse(data + jsonl(record(3, id="são")) + b'{"id": "\x80"}\n')
    assert parsed.rows["id"].to_pylist() == ["são", "r2"]
    assert parsed.bad == {2: "UTF-8, where latin-1 is declared", 3: "not Latin-1"}


# ---------------------------------------------------------------- CSV, record by record


def read_csv(data: bytes, chunk: int = 1 << 20, **options: Any) -> tuple[list[dict], dict[int, str]]:
    """The rows by line, and what is wrong by line, of CSV fed in chunks."""
    layout = Layout.of(table(format="csv", **options))
    splitter = CsvSplitter(layout.delimiter, layout.max_line_bytes, header=layout.header)
    rows, bad = {}, {}
    pieces = [splitter.feed(data[i : i + chunk]) for i in range(0, len(data), chunk)]
    pieces.append(splitter.finish(broken=False)[0])
    for lines in pieces:
        bad |= {b.line: b.reason for b in lines.bad}
        parsed = (
            CsvParser(layout, None, splitter.header).parse(lines.data, lines.ends) if lines.data else None
        )
        if parsed:
            rows |= {
                lines.numbers[i]: r
                for i, r in zip(parsed.index.to_pylist(), parsed.rows.to_pylist(), strict=True)
            }
            bad |= {lines.numbers[i]: reason for i, reason in parsed.bad.items()}
    return rows, bad


CSV = {"id": {"type": "text", "required": True}, "name": "text", "amount": "numeric(14,2)"}
BRAZIL = {"delimiter": ";", "decimal": ",", "columns": CSV}


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_csv_as_it_comes(chunk: int) -> None:
    data = (
        b'amount;id;name;colour\r\n1.234,56;a;"x;""y""\r\nz";blue\r\n-5,1;b;;\r\n\r\n7;c;"";"a;b"\r\n'
        b'8;d;e\r\n9;f;g;h;i\r\n10;k";l;m\r\n11;"n"o;p;q\r\n12.5;r;s;t\r\n;u;v;w\r\n13;;v;w\r\n14;x;y;z'
    )
    rows, bad = read_csv(data, chunk, **BRAZIL)
    assert {line: (r["id"], r["name"], r["amount"], r["_extra"]) for line, r in rows.items()} == {
        2: ("a", 'x;"y"\r\nz', Decimal("1234.56"), '{"colour": "blue"}'),
        4: ("b", None, Decimal("-5.10"), '{"colour": null}'),
        6: ("c", "", Decimal("7.00"), '{"colour": "a;b"}'),
        12: ("u", "v", None, '{"colour": "w"}'),
        14: ("x", "y", Decimal("14.00"), '{"colour": "z"}'),
    }
    assert bad == {
        7: "3 fields, where 4 belong",
        8: "5 fields, where 4 belong",
        9: "no CSV record: a quote stands where none may, or is not closed",
        10: "no CSV record: a quote stands where none may, or is not closed",
        11: "amount is no numeric",
        13: "id is missing",
    }


def test_a_stray_quote_in_every_line_costs_no_more_than_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at, spans = [], CsvSplitter._spans
    monkeypatch.setattr(
        CsvSplitter, "_spans", lambda self, data: (looked_at.append(len(data)), spans(self, data))[1]
    )
    data = b"id;name;amount\n" + b'1;12" pipe;5,00\n' * 3000 + b"z;tube;1,00\n"
    rows, bad = read_csv(data, **BRAZIL)
    assert ([r["id"] for r in rows.values()], len(bad)) == (["z"], 3000)
    assert sum(looked_at) < 3000 * 8192


@pytest.mark.parametrize("chunk", [5, 1 << 20])
def test_a_quote_that_is_never_closed_costs_its_line_only(chunk: int) -> None:
    data = b'id;name;amount\na;"open;1\n' + b"".join(b'r%d;"x\ny";2\n' % i for i in range(20)) + b'z;"w;3\n'
    rows, bad = read_csv(data, chunk, max_line_bytes=100, **BRAZIL)
    assert [r["id"] for r in rows.values()] == [f"r{i}" for i in range(20)]
    assert list(bad) == [2, 43]


def test_csv_types_and_encodings() -> None:
    columns = {
        "id": "bigint", "flag": "boolean", "ratio": "double",
        "day": {"type": "date", "format": "%d/%m/%Y"},
        "at": {"type": "timestamptz", "format": "%d/%m/%Y %H:%M", "zone": "America/Sao_Paulo"},
        "doc": "json", "text": "text",
    }  # fmt: skip
    data = 'id,flag,ratio,day,at,doc,text\n1,TRUE,1e-3,31/12/2025,01/01/2026 07:00,"{""a"":1}",São\n"","","","","","",""\n'
    ends = [
        "x,,,,,,",
        "1.0,,,,,,",
        "0x10,,,,,,",
        ",yes,,,,,",
        ",,nan,,,,",
        ",,,2026-01-01,,,",
        ",,,,01/01/2026,,",
        ",,,,,{,",
    ]
    rows, bad = read_csv((data + "\n".join(ends)).encode("latin-1"), columns=columns, encoding="latin-1")
    first, second = rows.values()
    assert list(first.values())[:-1] == [1, True, 0.001, date(2025, 12, 31), MOMENT, '{"a":1}', "São"]
    assert list(second.values()) == [None, None, None, None, None, None, "", None]
    assert list(bad.values()) == [
        *["id is no bigint"] * 3, "flag is no boolean", "ratio is no double", "day is no date",
        "at is no timestamptz", "doc is no json",
    ]  # fmt: skip


def test_a_time_that_its_zone_skipped_is_refused() -> None:
    columns = {"at": {"type": "timestamptz", "zone": "America/Sao_Paulo"}}
    rows, bad = read_csv(b"at\n2018-11-04T00:30:00\n2018-11-04T01:30:00\n", columns=columns)
    assert [r["at"] for r in rows.values()] == [datetime(2018, 11, 4, 3, 30, tzinfo=UTC)]
    assert bad == {2: "at is no timestamptz"}


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.lists(st.text('a;"\n\r é', max_size=6), min_size=3, max_size=3), max_size=6),
    st.integers(1, 9),
)
def test_csv_that_is_written_right_is_read_back(table_of_texts: list[list[str]], chunk: int) -> None:
    def quoted(value: str) -> str:
        return '"' + value.replace('"', '""') + '"'

    data = "id;name;x\n" + "".join(";".join(map(quoted, row)) + "\n" for row in table_of_texts)
    rows, bad = read_csv(
        data.encode(), chunk, delimiter=";", columns={"id": "text", "name": "text", "x": "text"}
    )
    assert bad == {}
    assert [[r["id"], r["name"], r["x"]] for r in rows.values()] == table_of_texts


# ---------------------------------------------------------------- each file once, by content


def test_a_file_lands_once_by_content_and_a_late_one_on_the_day_it_arrives(place: Place) -> None:
    place.put("2026-01-01/10.jsonl.gz", gzip.compress(jsonl(record(1), record(2), record(1)), mtime=0))
    assert place.land().rows == 3
    assert place.land().rows == 0
    assert len(place.lake.batches("drop", "things")) == 1
    place.day = date(2026, 1, 2)
    place.put("2026-01-01/09-late.jsonl.gz", gzip.compress(jsonl(record(3))))
    place.put(
        "2026-01-02/10.jsonl.gz", gzip.compress(jsonl(record(1), record(2), record(1)), mtime=0)
    )  # the same bytes
    place.put("2026-01-02/11.jsonl", jsonl(record(4)))
    place.put("2026-01-02/12.jsonl", jsonl(record(4)))  # twice within a run
    assert place.land().rows == 2
    assert place.rows("_source_file, _source_line, id, extract_date") == [
        ("2026-01-01/10.jsonl.gz", 1, "r1", date(2026, 1, 1)),
        ("2026-01-01/10.jsonl.gz", 2, "r2", date(2026, 1, 1)),
        ("2026-01-01/10.jsonl.gz", 3, "r1", date(2026, 1, 1)),
        ("2026-01-01/09-late.jsonl.gz", 1, "r3", date(2026, 1, 2)),
        ("2026-01-02/11.jsonl", 1, "r4", date(2026, 1, 2)),
    ]


def backdate(path: Path, seconds: float = 60) -> None:
    """Let a file's time of modification lie back."""
    then = path.stat().st_mtime - seconds
    os.utime(path, (then, then))


def test_a_file_that_did_not_change_is_not_opened_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "RACY_SECONDS", 0.0)
    place.put("a.jsonl", jsonl(record(1)))
    place.put("b.jsonl", jsonl(record(2)))
    place.land()
    opened = []
    open_file = drop.LocalDrop.open
    monkeypatch.setattr(drop.LocalDrop, "open", lambda self, e: opened.append(e.name) or open_file(self, e))
    place.land()
    assert opened == []
    # Same size, same time of modification, another content: the time of change tells.
    before = (place.drop / "a.jsonl").stat()
    place.put("a.jsonl", jsonl(record(3)))
    os.utime(place.drop / "a.jsonl", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert place.land().rows == 1
    assert opened == ["a.jsonl"]


def test_a_file_that_changed_a_moment_ago_is_looked_at_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A clock so coarse that the second change falls in the tick of the first.
    monkeypatch.setattr(
        drop, "entry_of", lambda name, stat, make=drop.entry_of: replace(make(name, stat), version="the same")
    )
    place.put("a.jsonl", jsonl(record(1)))
    place.land()
    place.put("a.jsonl", jsonl(record(2)))
    assert place.land().rows == 1


def test_what_was_seen_is_read_from_few_manifests(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "WHOLE_EVERY", 4)
    read = []
    manifest = Lake.manifest
    monkeypatch.setattr(Lake, "manifest", lambda *a: read.append(a) or manifest(*a))
    for day in range(1, 16):
        place.day = date(2026, 1, day)
        place.put(f"{day}.jsonl", jsonl(record(day)))
        read.clear()
        assert place.land().rows == 1
        assert len(read) <= 5
    place.day = date(2026, 1, 16)
    for day in range(1, 16):
        place.put(f"again-{day}.jsonl", jsonl(record(day)))
    assert place.land().rows == 0


def test_a_lake_of_the_first_version_knows_its_files(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.put("a.jsonl", jsonl(record(1)))
    digest = files.hashlib.sha256(jsonl(record(1))).hexdigest()
    with monkeypatch.context() as patch:
        patch.setattr(
            files._History, "keep_in", lambda self, out: out.extra.update(files={"a.jsonl": digest})
        )
        place.land()
    place.day = date(2026, 1, 2)
    assert place.land().rows == 0


def test_folders_that_are_being_written_are_left_alone(place: Place) -> None:
    for name in (
        ".a.jsonl",
        "a.jsonl.tmp",
        "a.jsonl.part",
        "_a.jsonl",
        ".hidden/a.jsonl",
        "_tmp/a.jsonl",
        "a.txt",
    ):
        place.put(name, jsonl(record(1, id=name)))
    place.declare(pattern="*.jsonl")
    assert place.land().rows == 0
    place.declare(marker="_SUCCESS")
    place.put("day/a.jsonl", jsonl(record(1)))
    assert place.land().rows == 0
    place.put("day/_SUCCESS", b"")
    assert place.land().rows == 1
    place.declare(marker=None, quiet_seconds=1.0)
    place.put("b.jsonl", jsonl(record(2)))
    assert place.land().rows == 0
    files.time.sleep(1.1)
    assert place.land().rows == 1


def test_a_file_that_changes_while_it_is_read_lands_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.put("a.jsonl", jsonl(record(1)))
    feed = LineSplitter.feed

    def write_meanwhile(self: LineSplitter, chunk: bytes) -> Any:
        place.put("a.jsonl", jsonl(record(1), record(2)))
        return feed(self, chunk)

    with monkeypatch.context() as patch:
        patch.setattr(LineSplitter, "feed", write_meanwhile)
        with pytest.raises(IngestionError, match=r"a\.jsonl changed while it was read; run again"):
            place.land()
    assert place.lake.batches("drop", "things") == []


def test_a_file_that_is_gone_or_changed_before_it_is_opened_waits_for_the_next_run(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.jsonl", "b.jsonl", "c.jsonl"):
        place.put(name, jsonl(record(1, id=name)))
    entries = drop.LocalDrop.entries

    def change_meanwhile(self: drop.LocalDrop) -> Any:
        found = list(entries(self))
        (place.drop / "a.jsonl").unlink(missing_ok=True)
        place.put("b.jsonl", jsonl(record(2, id="b.jsonl"), record(3, id="b.jsonl")))
        return iter(found)

    with monkeypatch.context() as patch:
        patch.setattr(drop.LocalDrop, "entries", change_meanwhile)
        assert place.land().rows == 1
    assert place.land().rows == 2


def test_files_in_a_bucket(place: Place, bucket: str) -> None:
    import boto3

    client, name = boto3.client("s3"), bucket.removeprefix("s3://")

    def put(key: str, data: bytes) -> None:
        client.put_object(Bucket=name, Key=key, Body=data)

    place.declare(location=f"{bucket}/partners/", pattern="*.jsonl*", marker="_SUCCESS")
    put("partners/a/1.jsonl.gz", gzip.compress(noisy(50)))
    put("partners/a/_skip.jsonl", jsonl(record(1)))
    put("elsewhere/b.jsonl", jsonl(record(1)))
    assert place.land().rows == 0
    put("partners/a/_SUCCESS", b"")
    assert place.land().rows == 50
    broken = gzip.compress(noisy(60))[:-2000]
    put("partners/a/2.jsonl.gz", broken)
    first = place.land()
    assert 0 < first.rows < 60
    assert place.land().extracted == 0
    put("partners/a/2.jsonl.gz", gzip.compress(noisy(60)))
    assert place.land().rows == 60 - first.rows
    assert place.letters() == {}
    place.declare(location="s3://no-such-bucket-at-all/x")
    with pytest.raises(
        IngestionError, match="location s3://no-such-bucket-at-all/x cannot be read: NoSuchBucket; check"
    ):
        place.land()


def test_files_that_are_taken_away_while_the_folder_is_listed_do_not_matter(place: Place) -> None:
    place.put("stays.jsonl", jsonl(record(1)))
    ended = threading.Event()

    def come_and_go() -> None:
        while not ended.is_set():
            for number in range(50):
                place.put(f"{number}/a.jsonl", b"")
            for number in range(50):
                shutil.rmtree(place.drop / str(number))

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        for _ in range(100):
            assert "stays.jsonl" in {e.name for e in drop.LocalDrop(place.drop).entries()}
    finally:
        ended.set()
        thread.join()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"location": "/nowhere"}, "location /nowhere is no folder"),
        ({"location": "$EVENT_LOG"}, "EVENT_LOG= is no folder; set it"),
        ({"format": "xml"}, "format must be one of jsonl, csv"),
        ({"encoding": "utf-16"}, "encoding must be one of"),
        ({"columns": {"id": "uuid"}}, "column id: type must be one of text"),
        ({"columns": {"id": {"type": "numeric(99,2)"}}}, "column id has no such precision or zone"),
        ({"columns": {"id": {"typ": "text"}}}, "column id takes type, required, zone and format"),
        ({"delimiter": "::"}, "delimiter must be one ASCII character"),
        ({"max_line_bytes": "1M"}, "max_line_bytes must be a number of bytes"),
        ({"variants": {"b": {"fields": {"x": "y"}}}}, "variant b maps x, which is no column"),
        ({"variants": {"b": {"path": "b/*"}}}, "variant b takes files, where and fields"),
    ],
)
def test_a_wrong_declaration_is_named(place: Place, options: dict[str, Any], message: str) -> None:
    place.declare(**options)
    with pytest.raises(IngestionError, match=re.escape(message)):
        place.land()


# ---------------------------------------------------------------- broken files, and what mends them


def pack(codec: str, data: bytes) -> bytes:
    return data if codec == "plain" else pa.compress(data, codec=codec, asbytes=True)


@pytest.mark.parametrize("codec", ["plain", "gzip", "zstd"])
def test_compression_is_told_by_content(place: Place, codec: str) -> None:
    # Two archives one after the other are one; names say nothing.
    place.put("a.bin", pack(codec, jsonl(record(1))) + pack(codec, b"\n\n" + jsonl(record(2))[:-1]))
    place.put("b.gz", b"")
    assert place.land().rows == 2
    assert place.rows() == [("a.bin", 1, "r1"), ("a.bin", 4, "r2")]
    assert place.letters() == {}


def noisy(count: int) -> bytes:
    """Records that do not compress well, so that a break falls between them."""
    draw = random.Random(5)
    return jsonl(*(record(i, noise=draw.randbytes(600).hex()) for i in range(count)))


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
def test_of_a_truncated_archive_the_whole_lines_land_and_the_rest_once_it_is_whole(
    place: Place, codec: str
) -> None:
    whole = pack(codec, noisy(1000))
    broken = whole[: len(whole) * 2 // 3]
    place.put("a.jsonl", broken)
    out = place.land()
    assert 0 < out.rows < 1000
    if codec == "gzip":
        assert out.rows == zlib.decompressobj(31).decompress(broken).count(b"\n")
    assert place.letters() == {f"a.jsonl:{out.rows + 1}-": f"the {codec} archive ends too early"}
    assert [line for _, line, _ in place.rows()] == list(range(1, out.rows + 1))
    assert place.land().extracted == 0
    assert place.replay().rows == 0
    assert len(place.letters()) == 1
    place.put("a.jsonl", whole)
    again = place.land()
    assert (again.extracted, again.rows, again.skipped) == (1000, 1000 - out.rows, out.rows)
    assert [(line, name) for _, line, name in place.rows()] == [(i + 1, f"r{i}") for i in range(1000)]
    assert place.letters() == {}


@pytest.mark.parametrize("where", ["within", "checksum"])
def test_of_a_damaged_archive_nothing_lands(place: Place, where: str) -> None:
    packed = bytearray(gzip.compress(noisy(100)))
    packed[len(packed) // 2 if where == "within" else -6] ^= 0xFF
    place.put("a.jsonl.gz", bytes(packed))
    place.put("b.jsonl.gz", gzip.compress(jsonl(record(1))))
    assert place.land().rows == 1
    assert place.letters() == {"a.jsonl.gz:1-": "the gzip archive is damaged"}
    place.put("a.jsonl.gz", gzip.compress(noisy(100)))
    assert place.land().rows == 100
    assert place.letters() == {}


def test_an_archive_larger_than_memory_may_hold_is_spooled(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, size in (("KEEP_BYTES", 1000), ("CHUNK_BYTES", 500), ("BLOCK_BYTES", 700)):
        monkeypatch.setattr(files, name, size)
    place.put("a.jsonl.gz", gzip.compress(noisy(50)))
    place.land()
    assert [(line, name) for _, line, name in place.rows()] == [(i + 1, f"r{i}") for i in range(50)]


def test_a_mended_file_lands_its_mended_lines_only(place: Place) -> None:
    good = [record(i) for i in range(10)]
    bad = b'{"id": "r3", "at": "never"}'
    place.put("a.jsonl", jsonl(*good[:3], bad, *good[4:], good[5]))
    assert place.land().rows == 10
    assert place.letters() == {"a.jsonl:4": "at is no timestamptz"}
    # A line is put before all others, and one more copy of a good one behind.
    place.put("a.jsonl", jsonl(record(99), *good, good[5], good[5]))
    out = place.land()
    assert (out.extracted, out.rows, out.skipped) == (13, 3, 10)
    assert Counter(row[2] for row in place.rows()) == Counter([f"r{i}" for i in [*range(10), 5, 5, 99]])
    assert place.letters() == {}


def test_a_file_that_grows_lands_what_is_new(place: Place) -> None:
    place.put("a.jsonl", jsonl(record(0)))
    for size in range(1, 5):
        place.put("a.jsonl", jsonl(*(record(i) for i in range(size + 1))))
        assert place.land().rows == (2 if size == 1 else 1)
    assert place.rows() == [("a.jsonl", i + 1, f"r{i}") for i in range(5)]


def test_of_dead_letters_only_those_of_changed_files_are_held(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GIVEN many dead letters WHEN one of the files changes THEN the others' payloads take no memory."""
    monkeypatch.setattr(files, "RACY_SECONDS", 0.0)
    place.put("many.jsonl", b"{\n" * 300)
    place.put("a.jsonl", b"{\n")
    place.land()
    read, dead_letters = [], Lake.dead_letters
    monkeypatch.setattr(Lake, "dead_letters", lambda *a: read.append(dead_letters(*a)) or read[-1])
    place.put("new.jsonl", b"{\n")
    place.land()
    assert read == []
    place.put("a.jsonl", jsonl(record(1)))
    place.land()
    assert [[letter.origin for letter in letters] for letters in read] == [["a.jsonl:1"]]
    assert len(place.letters()) == 301


def test_lines_of_hardly_any_bytes_come_in_small_blocks(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts, parse = [], JsonParser.parse
    monkeypatch.setattr(
        JsonParser, "parse", lambda self, data: (counts.append(data.count(b"\n")), parse(self, data))[1]
    )
    place.declare(columns={"id": "text", "at": "timestamptz"})
    place.put("a.jsonl", b"{}\n" * 150_000)
    assert place.land().rows == 150_000
    assert max(counts) < 50_000


def test_a_name_used_again_for_another_file_loses_no_dead_letter(place: Place) -> None:
    place.put("latest.jsonl", jsonl(record(1), record(2), b"{"))
    place.land()
    place.put("latest.jsonl", jsonl(record(3), record(4), record(5)))
    assert place.land().rows == 3
    assert place.letters() == {"latest.jsonl:3": NOT_JSON}


def test_a_line_too_long_is_a_dead_letter_and_lands_by_replay_once_it_may(place: Place) -> None:
    place.declare(max_line_bytes=1000)
    long = [record(2, id="x" * 2000), record(4, id="y" * 3_000_000)]
    place.put("a.jsonl", jsonl(record(1), long[0], record(3), long[1], record(5)))
    place.put("b.jsonl", jsonl(record(6))[:-1] + b" " * 2_000_000)
    assert place.land().rows == 3
    reason = "longer than max_line_bytes (1,000)"
    assert place.letters() == {"a.jsonl:2-2": reason, "a.jsonl:4-4": reason, "b.jsonl:1-1": reason}
    assert max(len(x.payload) for x in place.lake.dead_letters("drop", "things")) == 1000
    place.declare(max_line_bytes=4_000_000)
    assert place.land().rows == 0
    assert place.replay().rows == 3
    assert place.letters() == {}
    assert place.land().extracted == 0
    assert Counter((f, n) for f, n, _ in place.rows()) == Counter(
        [*(("a.jsonl", i) for i in range(1, 6)), ("b.jsonl", 1)]
    )


# ---------------------------------------------------------------- partners, versions, and replay

PARTNERS = {
    "north": {"files": "north/*", "fields": {"id": "ID", "at": "when"}},
    "south-2": {
        "files": "south/*",
        "where": {"version": 2},
        "fields": {"id": "event.id", "n": "event.count"},
    },
    "south-1": {"files": "south/*", "where": {"version": 1}, "fields": {"id": "number"}},
    "south": {"files": "south/*", "fields": {"id": "key"}},
}


def test_partners_and_versions_of_one_record_land_in_one_table(place: Place) -> None:
    place.declare(variants=PARTNERS)
    place.put("north/a.jsonl", jsonl({"ID": "n1", "when": AT, "n": 1, "id": "theirs"}))
    place.put("south/a.jsonl", jsonl(
        {"version": 2, "event": {"id": "s2", "count": 5, "more": 1}, "at": AT}, {"key": "s1", "at": AT, "n": 6},
        {"version": 2, "event": "s3", "at": AT}, {"version": 2, "event": {"id": 4}, "at": AT},
        {"version": True, "key": "s5", "at": AT},
    ))  # fmt: skip
    place.put("own/a.jsonl", jsonl(record(7)))
    place.land()
    rows = place.rows("_variant, id, n, _extra")
    assert rows == [
        ("north", "n1", 1, '{"id":"theirs"}'),
        (None, "r7", 7, None),
        ("south-2", "s2", 5, '{"event":{"id": "s2", "count": 5, "more": 1},"version":2}'),
        ("south", "s1", 6, None),
        ("south", "s5", None, '{"version":true}'),
    ]
    assert place.letters() == {"south/a.jsonl:3": "id is missing", "south/a.jsonl:4": "id is no text"}


def test_replay_lands_under_the_rules_of_today_and_nothing_twice(place: Place) -> None:
    place.put(
        "a.jsonl", jsonl(record(1), {"key": "old", "at": AT}, {"key": 5, "at": AT}, "café".encode("latin-1"))
    )
    assert place.land().rows == 1
    assert len(place.letters()) == 3
    assert place.replay().rows == 0
    assert {x.attempts for x in place.lake.dead_letters("drop", "things")} == {2}
    place.declare(variants={"old": {"fields": {"id": "key"}}, "new": {}})
    (place.drop / "a.jsonl").unlink()
    assert place.replay().rows == 1
    assert place.rows("_variant, _source_file, _source_line, id") == [
        (None, "a.jsonl", 1, "r1"),
        ("old", "a.jsonl", 2, "old"),
    ]
    assert place.letters() == {"a.jsonl:3": "id is no text", "a.jsonl:4": "not UTF-8"}
    # The mended file comes later: what replay landed is not landed again.
    place.put("a.jsonl", jsonl({"key": "r1", "at": AT}, {"key": "old", "at": AT}, {"key": "5", "at": AT}))
    assert place.land().rows == 2
    assert [x[1:] for x in place.rows()] == [(1, "r1"), (2, "old"), (1, "r1"), (3, "5")]


def test_replay_does_not_land_what_the_changed_file_has_landed(place: Place) -> None:
    place.put("a.jsonl", jsonl(record(1), {"key": "old", "at": AT}))
    place.land()
    place.declare(variants={"old": {"files": "*", "where": {"key": "old"}, "fields": {"id": "key"}}})
    # So little of it is as it was that the dead letter stays; yet its line is among what lands now.
    place.put("a.jsonl", jsonl(record(2), {"key": "old", "at": AT}, record(3)))
    assert place.land().rows == 3
    assert place.letters().keys() == {"a.jsonl:2"}
    assert place.replay().rows == 0
    assert place.letters() == {}
    assert Counter(row[2] for row in place.rows())["old"] == 1


def test_replay_of_an_encoding_declared_wrong(place: Place) -> None:
    place.put("a.jsonl", jsonl(record(1), record(2, id="São")).decode().encode("latin-1"))
    place.land()
    (letter,) = place.lake.dead_letters("drop", "things")
    assert base64.b64decode(letter.payload.removeprefix("base64:")) == jsonl(record(2, id="São"))[
        :-1
    ].decode().encode("latin-1")
    place.declare(encoding="latin-1")
    assert place.replay().rows == 1
    assert place.letters() == {}
    assert [x[2] for x in place.rows()] == ["r1", "São"]


def test_csv_is_replayed_with_its_header(place: Place) -> None:
    columns = {
        "id": {"type": "text", "required": True},
        "at": {"type": "timestamptz"},
        "amount": "numeric(14,2)",
    }
    place.declare(format="csv", delimiter=";", columns=columns)
    place.put("a.csv", f"\ufeffamount;id;at\r\n1.5;a;{AT}\r\n2,5;b;{AT}\r\n3;c\r\n".encode())
    place.put("b.csv", f"amount;key;at\n1;k;{AT}\n".encode())
    place.put("c.csv", b"id;id\n1;2\n")
    place.put("d.csv", b"id;at;amount\n")
    assert place.land().rows == 1
    assert place.letters() == {
        "a.csv:3": "amount is no numeric",
        "a.csv:4": "2 fields, where 3 belong",
        "b.csv:1-": "the header lacks id",
        "c.csv:1-": "the header names a column twice",
    }
    place.declare(decimal=",", variants={"b": {"files": "b*", "fields": {"id": "key"}}})
    assert place.replay().rows == 2
    assert place.letters().keys() == {"a.csv:4", "c.csv:1-"}
    assert place.rows("_source_file, _source_line, id, amount, _variant") == [
        ("a.csv", 2, "a", Decimal("1.50"), None),
        ("a.csv", 3, "b", Decimal("2.50"), None),
        ("b.csv", 2, "k", Decimal("1.00"), "b"),
    ]
    place.put("a.csv", f"amount;id;at\r\n1,5;a;{AT}\r\n2,5;b;{AT}\r\n3;c;\r\n".encode())
    assert place.land().rows == 1
    assert place.letters().keys() == {"c.csv:1-"}


# ---------------------------------------------------------------- the exact fate of every line


def test_the_fate_of_every_line_of_a_thousand_files_of_which_fifty_are_broken(tmp_path: Path) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    made = soak.make_files(1000, 50, seed)
    soak.drop(made, tmp_path / "drop")
    lake, things = Lake.open(str(tmp_path / "lake"), "synthetic"), soak.table(tmp_path / "drop")
    out = soak.batch(lake, things, soak.DAY, lambda run, out: files.extract(things, run, out))
    rows, letters = soak.expected(made)
    assert len(letters) == 5 * (4 + 6 * 3)
    assert soak.landed(lake) == rows
    assert soak.letters(lake) == letters
    assert (out.extracted, out.rows, out.rejected) == (
        rows.total() + len(letters),
        rows.total(),
        len(letters),
    )
    # The files come once more, whole: every line is there, once.
    soak.drop(made, tmp_path / "drop", mended=True)
    soak.batch(lake, things, soak.DAY, lambda run, out: files.extract(things, run, out))
    assert (soak.landed(lake), soak.letters(lake)) == soak.expected(made, mended=True)


def test_kill_9_at_random_moments_of_file_runs(tmp_path: Path) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    done = soak.campaign(8, 40, seed, tmp_path)
    assert sum(done.values()) == 8


def test_personal_data_is_in_payloads_of_dead_letters_only(
    place: Place, capfd: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
) -> None:
    secrets = ("123.456.789-09", "12345678909", "ana@example.com")
    caplog.set_level("DEBUG")
    lines = [
        {"cpf": "123.456.789-09", "email": "ana@example.com", "at": AT},
        record(1, at="ana@example.com"), record(2, n="12345678909"), record(3, amount="123.456.789-09"),
        {"123.456.789-09": 1, "ana@example.com": 2, "at": AT}, b'{"cpf": "12345678909", "cpf": "x"}',
        b"12345678909 ana@example.com", record(4, doc=1) | {"email": "\ud800"}, "cpf 12345678909 \u00e9".encode("latin-1"),
        record(5, id="ana@example.com" * 200),
    ]  # fmt: skip
    place.declare(max_line_bytes=1000)
    packed = gzip.compress(jsonl(*(json.dumps(x).encode() if isinstance(x, dict) else x for x in lines)))
    place.put("a.jsonl.gz", packed)
    place.put("b.jsonl.gz", packed[:-9])
    place.land()
    place.replay()
    place.declare(format="csv")
    place.put("c.csv", b"12345678909,ana@example.com\n1,2\n")
    place.land()
    letters = place.lake.dead_letters("drop", "things")
    assert len(letters) > 10
    assert any(s in x.payload for x in letters for s in secrets)
    manifests = json.dumps(place.lake.manifests("drop", "things"))
    shown = "".join(capfd.readouterr()) + caplog.text + manifests
    shown += "".join(x.origin + x.reason + x.dead_letter_id for x in letters)
    assert [s for s in secrets if s in shown] == []
