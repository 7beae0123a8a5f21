"""The lake by itself: what a batch and its dead letters promise, without a source."""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from ingestion import audit
from ingestion.config import TableConfig
from ingestion.errors import IngestionError
from ingestion.lake import ROW_GROUP_ROWS, TIMESTAMP, BatchWriter, Lake
from ingestion.storage import _S3File, open_storage

THINGS = TableConfig("app", "things", "postgres", ("id",), "at", may_be_empty=True)
THINGS_SCHEMA = pa.schema([("id", pa.int64()), ("at", TIMESTAMP)])


def land(lake: Lake, number: int, act: Callable[[BatchWriter], None]) -> None:
    """Commit one batch of `THINGS`, filled by `act`."""
    with lake.begin(THINGS, THINGS_SCHEMA, f"{number:08d}", date(2026, 1, number)) as out:
        act(out)


def test_a_dead_letter_is_open_until_it_is_retired_and_never_twice(tmp_path):
    lake = Lake.open(str(tmp_path / "lake"), "synthetic")

    def reject(out: BatchWriter) -> None:
        out.extracted += 2
        out.reject('{"id": "x"}', "id is no number", origin="things.jsonl:1")
        out.reject('{"id": "x"}', "id is no number", origin="things.jsonl:1")

    land(lake, 1, reject)
    (first,) = lake.dead_letters("app", "things")
    assert (first.reason, first.attempts, first.origin) == ("id is no number", 1, "things.jsonl:1")
    manifest = lake.last_manifest("app", "things")
    assert (manifest["extracted"], manifest["skipped"], manifest["rejected"]) == (2, 1, 1)

    def try_again(out: BatchWriter) -> None:
        out.extracted += 1
        out.reject_again(first, "still no number")

    land(lake, 2, try_again)
    (second,) = lake.dead_letters("app", "things")
    assert (second.attempts, second.reason) == (2, "still no number")
    assert second.first_seen_at == first.first_seen_at < second.last_tried_at

    def succeed(out: BatchWriter) -> None:
        out.extracted += 1
        out.write(pa.table([[1], [None]], schema=THINGS_SCHEMA))
        out.retire(second)

    land(lake, 3, succeed)
    assert lake.dead_letters("app", "things") == []


def test_dead_letters_count_only_once_their_batch_is_there(tmp_path):
    lake = Lake.open(str(tmp_path / "lake"), "synthetic")

    def reject(out: BatchWriter) -> None:
        out.extracted += 1
        out.reject("{}", "no id", origin="1")
        # Publishing the batch fails, after its dead letters were published.
        (tmp_path / "lake" / out.path).mkdir(parents=True)

    with pytest.raises(IsADirectoryError):
        land(lake, 1, reject)
    assert list((tmp_path / "lake" / "dead_letter").rglob("*.parquet"))
    assert lake.dead_letters("app", "things") == []


def test_a_batch_whose_records_do_not_add_up_is_refused(tmp_path):
    lake = Lake.open(str(tmp_path / "lake"), "synthetic")

    def lose_one(out: BatchWriter) -> None:
        out.extracted += 2
        out.write(pa.table([[1], [None]], schema=THINGS_SCHEMA))

    with pytest.raises(IngestionError, match="2 records were extracted, but 1 written"):
        land(lake, 1, lose_one)
    assert lake.batches("app", "things") == []


def rows_of(*rows: tuple[int, datetime | None]) -> pa.Table:
    return pa.table([[i for i, _ in rows], [at for _, at in rows]], schema=THINGS_SCHEMA)


def test_a_deleted_record_has_not_landed_any_more(tmp_path):
    lake = Lake.open(str(tmp_path / "lake"), "synthetic")
    at = datetime(2026, 1, 1, tzinfo=UTC)

    def write(*rows: tuple[int, datetime], deleted: bool = False) -> Callable[[BatchWriter], None]:
        def act(out: BatchWriter) -> None:
            out.extracted += len(rows)
            out.write(rows_of(*rows), deleted=deleted)

        return act

    land(lake, 1, write((1, at), (2, at)))
    land(lake, 2, write((2, at), deleted=True))
    assert lake.landed_since(THINGS, at, ["id"]).to_pydict() == {"id": [1]}
    assert lake.last_manifest("app", "things")["deleted"] == 1
    assert lake.read("app", "things", ["id", "_source_deleted"]).to_pydict() == {
        "id": [1, 2, 2],
        "_source_deleted": [False, False, True],
    }
    land(lake, 3, write((2, at)))
    assert sorted(lake.landed_since(THINGS, at, ["id"])["id"].to_pylist()) == [1, 2]


def test_a_row_dated_in_the_future_does_not_move_the_watermark_there(tmp_path):
    lake = Lake.open(str(tmp_path / "lake"), "synthetic")
    future = datetime(2126, 1, 1, tzinfo=UTC)

    def write(out: BatchWriter) -> None:
        out.extracted += 1
        out.write(rows_of((1, future)))

    land(lake, 1, write)
    land(lake, 2, lambda out: None)
    manifest = lake.last_manifest("app", "things")
    assert manifest["watermark_to"] < datetime.now(UTC).isoformat() < manifest["cursor_max"]
    # and it is still found by who reads from the watermark
    assert lake.landed_since(THINGS, datetime(2100, 1, 1, tzinfo=UTC), ["id"]).num_rows == 1


def test_a_batch_that_is_no_increment_leaves_the_watermark_and_is_never_empty(tmp_path):
    lake = Lake.open(str(tmp_path / "lake"), "synthetic")
    land(lake, 1, lambda out: None)
    with lake.begin(THINGS, THINGS_SCHEMA, "00000002", date(2026, 1, 2), is_increment=False) as out:
        pass
    assert not out.published
    with lake.begin(THINGS, THINGS_SCHEMA, "00000002", date(2026, 1, 2), is_increment=False) as out:
        out.extracted += 1
        out.write(rows_of((1, datetime(2026, 1, 1, tzinfo=UTC))))
    assert out.published
    assert lake.last_manifest("app", "things")["watermark_to"] is None


# ---------------------------------------------------------------- on a folder and on S3


@pytest.fixture(params=["folder", "s3"])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    place = tmp_path / "lake" if request.param == "folder" else request.getfixturevalue("bucket") + "/lake"
    return Lake.open(str(place), "synthetic")


def things(*ids: int) -> pa.Table:
    """Rows whose cursor is their id in seconds."""
    return pa.table(
        [pa.array(ids, pa.int64()), pa.array([i * 10**6 for i in ids], TIMESTAMP)], schema=THINGS_SCHEMA
    )


def land_rows(lake: Lake, number: int, rows: pa.Table, table: TableConfig = THINGS) -> None:
    with lake.lock(), lake.begin(table, rows.schema, f"{number:08d}", date(2026, 1, number)) as out:
        out.extracted += rows.num_rows
        out.write(rows)


def test_a_lake_reads_back_what_was_landed(lake: Lake) -> None:
    assert (lake.next_batch_id(), lake.last_extract_date(), lake.last_manifest("app", "things")) == (
        "00000001",
        None,
        None,
    )
    assert lake.read("app", "things", ["id"]).num_rows == 0
    land_rows(lake, 1, things(1, 2, 3))
    land_rows(lake, 2, things(3, 4))
    assert [str(p) for p in lake.batches("app", "things")] == [
        "raw/app/things/extract_date=2026-01-01/00000001.parquet",
        "raw/app/things/extract_date=2026-01-02/00000002.parquet",
    ]
    assert lake.read("app", "things", ["id", "_batch_id"]).to_pydict() == {
        "id": [1, 2, 3, 3, 4],
        "_batch_id": ["00000001"] * 3 + ["00000002"] * 2,
    }
    since = datetime.fromtimestamp(3, UTC)
    assert lake.landed_since(THINGS, since, ["id"])["id"].to_pylist() == [3, 4]
    assert [m["rows"] for m in lake.manifests("app", "things")] == [3, 2]
    assert lake.last_manifest("app", "things")["watermark_from"] == "1970-01-01T00:00:03+00:00"
    assert (lake.next_batch_id(), lake.last_extract_date()) == ("00000003", date(2026, 1, 2))
    # opened again, it is the same; of another world, it is refused
    assert Lake.open(lake.root, "synthetic").next_batch_id() == "00000003"
    with pytest.raises(IngestionError, match="belongs to the world synthetic, not berka"):
        Lake.open(lake.root, "berka")


def test_a_run_that_holds_the_lock_knows_what_it_has_committed(lake: Lake) -> None:
    def land_one(table: str, batch_id: str) -> None:
        with lake.begin(
            TableConfig("app", table, "x", ("id",), "at"), THINGS_SCHEMA, batch_id, date(2026, 1, 1)
        ) as out:
            out.extracted += 1
            out.write(things(int(batch_id)))

    with lake.lock():
        for table, batch_id in (("things", "00000001"), ("others", "00000001"), ("things", "00000002")):
            land_one(table, batch_id)
            assert lake.batches("app", table)[-1].stem == batch_id
        # one whose publishing failed may be there or not: then the lake itself is asked
        with pytest.raises(RuntimeError), lost_answers(lake):
            land_one("things", "00000003")
        assert [b.stem for b in lake.batches("app", "things")] == ["00000001", "00000002", "00000003"]
        assert lake.next_batch_id() == "00000004"
        held = lake.all_batches()
    assert lake.all_batches() == held
    assert len(held) == 4


@contextmanager
def lost_answers(lake: Lake) -> Iterator[None]:
    """Publishing succeeds, and its answer is lost."""
    create = lake.storage.create

    def lose(*arguments: object, **options: object) -> object:
        upload = create(*arguments, **options)
        publish = upload.publish

        def publish_and_lose() -> None:
            publish()
            raise RuntimeError("the answer was lost")

        upload.publish = publish_and_lose
        return upload

    lake.storage.create = lose
    yield
    lake.storage.create = create


def test_a_place_with_something_else_in_it_is_refused(bucket: str) -> None:
    storage = open_storage(f"{bucket}/lake")
    storage.put("thesis.doc", b"mine")
    with pytest.raises(IngestionError, match="is not empty and not a lake"):
        Lake.open(f"{bucket}/lake", "synthetic")
    # a neighbour whose name begins alike is no matter
    Lake.open(f"{bucket}/lak", "synthetic")


def test_columns_that_come_go_and_change_are_read_together(lake: Lake) -> None:
    def rows(**columns: pa.Array) -> pa.Table:
        return pa.table({**dict(zip(THINGS_SCHEMA.names, things(1).columns, strict=True)), **columns})

    land_rows(lake, 1, rows(n=pa.array([1], pa.int32()), kind=pa.array([7])))
    land_rows(lake, 2, rows(n=pa.array([2**40]), kind=pa.array(["b"]), new=pa.array([Decimal("1.50")])))
    land_rows(lake, 3, rows(n=pa.array([3]), kind=pa.array(["c"]), new=pa.array([Decimal("1.250")])))
    read = lake.read("app", "things", ["new", "n", "kind", "never"])
    assert read.to_pydict() == {
        "new": [None, Decimal("1.500"), Decimal("1.250")],
        "n": [1, 2**40, 3],
        "kind": ["7", "b", "c"],
        "never": [None] * 3,
    }


def test_a_query_on_the_cursor_touches_few_row_groups(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = Lake.open(f"{bucket}/lake", "synthetic")
    count = 8 * ROW_GROUP_ROWS + 5
    with lake.lock(), lake.begin(THINGS, THINGS_SCHEMA, "00000001", date(2026, 1, 1)) as out:
        # GIVEN blocks that do not end where row groups do
        for start in range(0, count, 50_000):
            ids = pa.array(range(start, min(start + 50_000, count)), pa.int64())
            out.extracted += len(ids)
            out.write(pa.table([ids, pc.multiply(ids, 10**6).cast(TIMESTAMP)], schema=THINGS_SCHEMA))
    (batch,) = lake.batches("app", "things")
    with lake.storage.open(str(batch)) as handle:
        size, metadata = handle.size(), pq.read_metadata(handle)
    groups = [metadata.row_group(g) for g in range(metadata.num_row_groups)]
    # THEN a moment is in one row group, and the indexes that readers prune by are there
    assert [g.num_rows for g in groups] == [ROW_GROUP_ROWS] * 8 + [5]
    moment = datetime.fromtimestamp(3 * ROW_GROUP_ROWS + 7, UTC)
    cursors = [g.column(1) for g in groups]
    assert sum(c.statistics.min <= moment <= c.statistics.max for c in cursors) == 1
    assert {(c.has_column_index, c.has_offset_index, c.compression) for c in cursors} == {
        (True, True, "ZSTD")
    }
    # AND who asks for the newest rows fetches a small part of the file
    fetched: list[int] = []
    get = _S3File._get

    def count_bytes(file: _S3File, span: str) -> tuple[bytes, int]:
        answer = get(file, span)
        fetched.append(len(answer[0]))
        return answer

    monkeypatch.setattr(_S3File, "_get", count_bytes)
    newest = lake.landed_since(THINGS, datetime.fromtimestamp(count - 3, UTC), ["id"])
    assert newest["id"].to_pylist() == [count - 3, count - 2, count - 1]
    assert sum(fetched) < size / 5


# ---------------------------------------------------------------- the audit table


def audited(lake: Lake) -> list[tuple]:
    rows = audit.read(lake.storage).to_pylist()
    return sorted((r["batch_id"], r["table"], r["rows"], r["extract_date"]) for r in rows)


def test_every_batch_has_its_row_in_the_audit_table(lake: Lake) -> None:
    others = TableConfig("app", "others", "postgres", ("id",), "at")
    with lake.lock():
        for table in (THINGS, others):
            with lake.begin(table, THINGS_SCHEMA, "00000001", date(2026, 1, 1)) as out:
                out.extracted += 3
                out.write(things(5, 7))
                out.skip(1)
    land_rows(lake, 2, things(9))
    assert lake.storage.names("audit") == ["audit/batches/00000001.parquet", "audit/batches/00000002.parquet"]
    assert audited(lake) == [
        ("00000001", "others", 2, date(2026, 1, 1)),
        ("00000001", "things", 2, date(2026, 1, 1)),
        ("00000002", "things", 1, date(2026, 1, 2)),
    ]
    (row,) = (r for r in audit.read(lake.storage).to_pylist() if r["batch_id"] == "00000002")
    with lake.storage.open(row["file"]) as file:
        assert row["bytes"] == file.seek(0, io.SEEK_END)
    assert (row["watermark_from"].second, row["watermark_to"].second, row["skipped"]) == (7, 9, 0)
    assert row["seconds"] == (row["finished_at"] - row["started_at"]).total_seconds() > 0
    manifest = lake.last_manifest("app", "things")
    assert all(row[k] == manifest[k] for k in ("content_checksum", "schema_fingerprint", "extracted"))


def test_what_a_dead_run_did_not_record_the_next_one_does(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as died:
        died.setattr(audit, "record", lambda *_: None)
        land_rows(lake, 1, things(1))
    assert audited(lake) == []
    with lake.lock():
        assert audited(lake) == [("00000001", "things", 1, date(2026, 1, 1))]
    # the same as if the run had done it itself
    assert audit.read(lake.storage).to_pylist() == list(audit.rows(lake, lake.all_batches()))


def test_duckdb_reads_the_audit_table(tmp_path: Path) -> None:
    lake = Lake.open(str(tmp_path / "lake"), "synthetic")
    land_rows(lake, 1, things(1, 2))
    with duckdb.connect() as connection:
        found = connection.execute(
            f"select batch_id, sum(rows), max(watermark_to) from read_parquet('{lake.root}/audit/batches/*.parquet')"
            " group by batch_id"
        ).fetchall()
    assert found == [("00000001", 2, datetime.fromtimestamp(2, UTC))]


def test_the_id_of_a_batch_that_was_lost_is_not_used_again(tmp_path: Path) -> None:
    lake = Lake.open(str(tmp_path / "lake"), "synthetic")
    land_rows(lake, 1, things(1))
    (tmp_path / "lake" / lake.batches("app", "things")[0]).unlink()
    assert lake.next_batch_id() == "00000002"
