"""The lake by itself: what a batch and its dead letters promise, without a source."""

from collections.abc import Callable
from datetime import date

import pyarrow as pa
import pytest

from ingestion.config import TableConfig
from ingestion.errors import IngestionError
from ingestion.lake import TIMESTAMP, BatchWriter, Lake

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
