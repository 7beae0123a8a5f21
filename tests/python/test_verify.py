"""`verify` finds what is wrong with a lake, names each record and file, and shows no personal data."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import psycopg
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from conftest import ROOT, Pipeline

from ingestion import audit
from ingestion.config import TableConfig
from ingestion.lake import MANIFEST_KEY, BatchWriter, Lake, _ParquetFile
from ingestion.run import run
from ingestion.settings import Settings
from ingestion.verify import FINDINGS_SHOWN, Verified, report, verify

OPTIONS = {"schema": "app", "overlap_seconds": 3600}
THINGS = TableConfig("app", "things", "postgres", ("id", "part"), "updated_at", options=OPTIONS)
SECRETS = TableConfig(
    "app", "things", "postgres", ("id", "part"), "updated_at", options=OPTIONS | {"pii": True}
)
DAY = date(2026, 1, 1)


@pytest.fixture
def database(app_schema: psycopg.Connection) -> psycopg.Connection:
    app_schema.execute(
        "create table app.things (id bigint, part text, name text, amount numeric(14, 2), labels text[],"
        " updated_at timestamptz not null, primary key (id, part))"
    )
    app_schema.execute(
        "insert into app.things select i, 'p' || i % 3, 'Maria ' || i, i / 7.0, array['a', null],"
        " timestamptz '2025-01-01' + i * interval '1 minute' from generate_series(1, 500) as i"
    )
    return app_schema


@pytest.fixture(params=["folder", "s3"])
def settings(request: pytest.FixtureRequest, server: str, tmp_path: Path) -> Settings:
    lake = (
        str(tmp_path / "lake") if request.param == "folder" else request.getfixturevalue("bucket") + "/lake"
    )
    return Settings(lake=lake, source_dsn=server, extract_date=DAY)


@pytest.fixture
def local(server: str, tmp_path: Path) -> Settings:
    return Settings(lake=str(tmp_path / "lake"), source_dsn=server, extract_date=DAY)


def land(settings: Settings, day: int = 0) -> Lake:
    settings.extract_date = DAY + timedelta(days=day)
    assert [r.error for r in run(settings, [THINGS])] == [None]
    return Lake.open(settings.lake, "synthetic")


def two_days(settings: Settings, database: psycopg.Connection) -> Lake:
    """A lake of two batches: 500 rows, then 20 that changed and one that is new."""
    land(settings)
    database.execute(
        "update app.things set name = name || '!', updated_at = timestamptz '2025-02-01' + id * interval '1 s'"
        " where id <= 20"
    )
    database.execute("insert into app.things values (501, 'p', null, null, null, '2025-02-02')")
    return land(settings, 1)


def check(settings: Settings, lake: Lake, table: TableConfig = THINGS, *, source: bool = True) -> Verified:
    (verified,) = verify(lake, [table], settings.source_dsn.get_secret_value() if source else None)
    return verified


def findings(verified: Verified) -> set[tuple[str, str]]:
    return {(f.problem, f.where) for f in verified.findings}


def rewrite(lake: Lake, number: int, change: Callable[[pa.Table], pa.Table], *, forged: bool) -> str:
    """Change rows of a batch's file; `forged`: with a manifest, and an audit, that fit."""
    batch = lake.batches("app", "things")[number]
    with lake.storage.open(str(batch)) as file:
        parquet = pq.ParquetFile(file)
        rows, manifest = parquet.read(), json.loads(parquet.metadata.metadata[MANIFEST_KEY])
    rows = change(rows)
    with lake.storage.lock():
        writer = _ParquetFile(lake.storage, str(batch), rows.schema, replace=True)
        writer.write(rows)
        if forged:
            counts = {"rows": rows.num_rows, "extracted": rows.num_rows + manifest["skipped"]}
            writer.publish(manifest | counts)
        else:
            writer.open().add_key_value_metadata({MANIFEST_KEY.decode(): json.dumps(manifest)})
            writer.open().close()
            writer._sink.upload.publish()
    if forged:
        (row,) = audit.rows(lake, [batch])
        data = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist([row], audit.SCHEMA), data)
        lake.storage.put(f"{audit.FOLDER}/{batch.stem}.parquet", data.getvalue().to_pybytes(), replace=True)
    return str(batch)


def delete(rows: pa.Table) -> pa.Table:
    return rows.filter(pc.not_equal(rows["id"], 7))


def double(rows: pa.Table) -> pa.Table:
    return pa.concat_tables([rows, rows.filter(pc.equal(rows["id"], 7))])


def alter(rows: pa.Table) -> pa.Table:
    names = pc.if_else(pc.equal(rows["id"], 7), "Joana", rows["name"])
    return rows.set_column(rows.column_names.index("name"), "name", names)


def test_a_lake_that_is_whole(database: psycopg.Connection, settings: Settings) -> None:
    lake = two_days(settings, database)
    verified = check(settings, lake)
    assert verified.findings == []
    assert (verified.batches, verified.rows, verified.source_rows, verified.waiting) == (2, 521, 501, 0)
    # a day without news is a batch of zero rows
    lake = land(settings, 2)
    assert check(settings, lake).findings == []


@pytest.mark.parametrize("forged", [False, True], ids=["in the file alone", "with a manifest that fits"])
@pytest.mark.parametrize(
    ("change", "problem", "without_source"),
    [(delete, "missing", set()), (double, "doubled", {"doubled"}), (alter, "differs", set())],
    ids=["deleted", "doubled", "altered"],
)
def test_a_row_that_was_tampered_with_is_named(
    database: psycopg.Connection,
    local: Settings,
    change: Callable,
    problem: str,
    without_source: set,
    forged: bool,
) -> None:
    """The row is the newest version of its record, or the only one: its first batch is changed too."""
    lake = two_days(local, database)
    if change is delete:  # the version before it would still be there
        rewrite(lake, 0, delete, forged=True)
    name = rewrite(lake, 1, change, forged=forged)
    files = set() if forged else {("checksum", name)}
    if not forged and change is not alter:
        files |= {("rows", name)}
    found = findings(check(local, lake))
    assert found == files | {(problem, "id=7, part=p1")}
    kinds = {p for p, _ in findings(check(local, lake, source=False))}
    assert kinds == {p for p, _ in files} | without_source


def test_an_older_version_that_comes_back_is_named(database: psycopg.Connection, local: Settings) -> None:
    lake = two_days(local, database)
    rewrite(lake, 1, delete, forged=True)
    assert findings(check(local, lake)) == {("differs", "id=7, part=p1")}


def test_a_version_that_landed_again_is_named(database: psycopg.Connection, local: Settings) -> None:
    lake = land(local)
    # GIVEN a second batch that holds a row of the first once more
    with lake.lock():
        first = next(lake.blocks(lake.batches("app", "things")[0])).drop_columns(
            ["_batch_id", "_extracted_at", "_source_deleted"]
        )
        with lake.begin(THINGS, first.schema, lake.next_batch_id(), DAY) as out:
            out.extracted += 1
            out.write(first.filter(pc.equal(first["id"], 3)))
    (finding,) = check(local, lake).findings
    assert (finding.problem, finding.where) == ("doubled", "id=3, part=p0")
    assert finding.detail == "is the same in the batches 00000001 and 00000002"


def test_what_the_source_has_not_any_more_is_named(database: psycopg.Connection, local: Settings) -> None:
    lake = two_days(local, database)
    database.execute("delete from app.things where id = 9")
    assert findings(check(local, lake)) == {("extra", "id=9, part=p0")}
    # once its deletion has landed, all is well
    with lake.lock():
        rows = next(lake.blocks(lake.batches("app", "things")[1])).drop_columns(
            ["_batch_id", "_extracted_at", "_source_deleted"]
        )
        with lake.begin(THINGS, rows.schema, lake.next_batch_id(), DAY + timedelta(days=1)) as out:
            out.extracted += 1
            out.write(rows.filter(pc.equal(rows["id"], 9)), deleted=True)
    assert check(local, lake).findings == []
    # and a row that is there again, with the lake saying deleted, is missing
    database.execute("insert into app.things values (9, 'p0', null, null, null, '2025-01-01')")
    assert findings(check(local, lake)) == {("missing", "id=9, part=p0")}


def test_what_came_after_the_last_run_is_no_finding(database: psycopg.Connection, local: Settings) -> None:
    lake = two_days(local, database)
    database.execute("insert into app.things values (600, 'p', null, null, null, '2025-03-01')")
    database.execute("update app.things set name = 'x', updated_at = '2025-03-01' where id = 1")
    verified = check(local, lake)
    assert (verified.findings, verified.waiting) == ([], 2)
    # a row that is older than the watermark should have been there
    database.execute("insert into app.things values (601, 'p', null, null, null, '2025-01-01')")
    assert findings(check(local, lake)) == {("missing", "id=601, part=p")}


def test_a_truncated_file_is_named(database: psycopg.Connection, local: Settings) -> None:
    lake = two_days(local, database)
    path = Path(local.lake, str(lake.batches("app", "things")[1]))
    for size in (path.stat().st_size // 2, 0):
        path.write_bytes(path.read_bytes()[:size])
        found = findings(check(local, lake, source=False))
        assert found == {("unreadable", str(lake.batches("app", "things")[1]))}
    # its rows are missing, too
    problems = check(local, lake).counts
    assert problems == {"unreadable": 1, "missing": 1, "differs": 20}


def test_a_byte_that_was_changed_is_named(database: psycopg.Connection, local: Settings) -> None:
    lake = two_days(local, database)
    path = Path(local.lake, str(lake.batches("app", "things")[0]))
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)
    assert "checksum" in {p for p, _ in findings(check(local, lake, source=False))}


def test_a_swapped_manifest_is_named(database: psycopg.Connection, local: Settings) -> None:
    lake = two_days(local, database)
    first, second = lake.batches("app", "things")
    manifest = lake.manifest(first)
    path = Path(local.lake, str(second))
    rows = pq.ParquetFile(path).read()
    with pq.ParquetWriter(path, rows.schema) as writer:
        writer.write_table(rows)
        writer.add_key_value_metadata({MANIFEST_KEY.decode(): json.dumps(manifest)})
    found = findings(check(local, lake))
    assert found == {(p, str(second)) for p in ("manifest", "checksum", "rows", "watermark", "audit")}


def test_a_whole_file_that_was_swapped_or_copied_is_named(
    database: psycopg.Connection, local: Settings
) -> None:
    lake = two_days(local, database)
    first, second = lake.batches("app", "things")
    copy = second.with_name("00000009.parquet")
    shutil.copy(Path(local.lake, str(first)), Path(local.lake, str(copy)))
    assert ("manifest", str(copy)) in findings(check(local, lake, source=False))


def test_a_file_that_is_gone_is_named(database: psycopg.Connection, settings: Settings) -> None:
    lake = two_days(settings, database)
    first = lake.batches("app", "things")[0]
    if "://" in settings.lake:
        lake.storage.client.delete_object(Bucket=lake.storage.bucket, Key=lake.storage.key(str(first)))
    else:
        Path(settings.lake, str(first)).unlink()
    found = check(settings, lake, source=False)
    assert ("gone", str(first)) in findings(found)
    assert found.counts["watermark"] == 1
    assert check(settings, lake).counts["missing"] == 480


def test_a_file_that_is_no_batch_is_named(database: psycopg.Connection, local: Settings) -> None:
    lake = land(local)
    stray = "raw/app/things/extract_date=2026-01-01/part-0.parquet"
    Path(local.lake, stray).write_bytes(b"")
    assert findings(check(local, lake)) == {("stray file", stray)}


def test_dead_letters_that_are_gone_or_altered_are_named(
    database: psycopg.Connection, local: Settings
) -> None:
    lake = land(local)

    def reject(out: BatchWriter) -> None:
        out.extracted += 1
        out.reject('{"id": 900}', "amount: no number", origin='{"id": "900", "part": "p"}')

    schema = (
        next(lake.blocks(lake.batches("app", "things")[0]))
        .drop_columns(["_batch_id", "_extracted_at", "_source_deleted"])
        .schema
    )
    with lake.lock(), lake.begin(THINGS, schema, lake.next_batch_id(), DAY) as out:
        reject(out)
    assert check(local, lake).findings == []
    (name,) = lake.storage.names("dead_letter")
    path = Path(local.lake, name)
    whole = path.read_bytes()
    path.write_bytes(whole[:10])
    assert findings(check(local, lake)) == {("dead letters", name)}
    path.write_bytes(whole.replace(b"no number", b"a number!"))
    assert findings(check(local, lake)) == {("dead letters", name)}
    path.unlink()
    assert findings(check(local, lake)) == {("dead letters", name)}


def test_a_batch_whose_counts_do_not_add_up_is_named(database: psycopg.Connection, local: Settings) -> None:
    lake = two_days(local, database)
    batch = lake.batches("app", "things")[1]
    rows = next(lake.blocks(batch))
    manifest = lake.manifest(batch)
    with lake.storage.lock():
        writer = _ParquetFile(lake.storage, str(batch), rows.schema)
        writer.write(rows)
        writer.publish(
            manifest
            | {"extracted": 99, "watermark_to": "2024-01-01T00:00:00+00:00", "schema_fingerprint": "0" * 64}
        )
    problems = {p for p, _ in findings(check(local, lake, source=False))}
    assert problems == {"fates", "watermark", "schema"}


def test_keys_that_are_personal_are_not_shown_and_values_never(
    database: psycopg.Connection, local: Settings
) -> None:
    lake = two_days(local, database)
    rewrite(lake, 1, alter, forged=True)
    lines: list[str] = []
    for for_people in (True, False):
        dsn = local.source_dsn.get_secret_value()
        assert not report(lake, [SECRETS], dsn, for_people=for_people, write=lines.append)
    text = "\n".join(lines)
    assert "key sha256:" in text
    assert "id=7" not in text
    assert not any(value in text for value in ("Maria", "Joana", "p1"))


def test_too_many_findings_are_counted(database: psycopg.Connection, local: Settings) -> None:
    lake = two_days(local, database)
    database.execute("delete from app.things where id > 100 and id <= 300")
    verified = check(local, lake)
    assert verified.counts == {"extra": 200}
    assert len(verified.findings) == FINDINGS_SHOWN
    lines: list[str] = []
    report(lake, [THINGS], local.source_dsn.get_secret_value(), for_people=True, write=lines.append)
    assert f"… and {200 - FINDINGS_SHOWN} more" in lines[-1]


def test_columns_that_came_and_went_change_no_verdict(database: psycopg.Connection, local: Settings) -> None:
    two_days(local, database)
    database.execute("alter table app.things drop column labels, alter column amount type numeric(16, 3)")
    database.execute("alter table app.things add column branch text")
    database.execute("update app.things set branch = 'b', updated_at = '2025-03-01' where id = 1")
    lake = land(local, 2)
    assert check(local, lake).findings == []
    assert check(local, lake, source=False).findings == []


def test_the_command_line_names_what_is_wrong(
    tmp_path: Path, database: psycopg.Connection, local: Settings
) -> None:
    # tables that were never landed: nothing to verify without the source, and no error
    done = subprocess.run(
        [sys.executable, "-m", "ingestion", "verify", "--no-source", "--table", "central_bank"],
        cwd=ROOT,
        env=Pipeline("synthetic", tmp_path / "p", {"LAKE": local.lake}).env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    stray = Path(local.lake, "raw/central_bank/fx_rates/extract_date=2026-01-01/00000001.parquet")
    stray.parent.mkdir(parents=True)
    stray.write_bytes(b"PAR1")
    done = subprocess.run(
        [sys.executable, "-m", "ingestion", "verify", "--no-source"],
        cwd=ROOT,
        env=Pipeline("synthetic", tmp_path / "p", {"LAKE": local.lake}).env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    finding = next(json.loads(line) for line in done.stdout.splitlines() if 'finding"' in line)
    assert (finding["problem"], finding["table"]) == ("unreadable", "central_bank.fx_rates")
