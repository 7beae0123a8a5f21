"""A lake's objects in a folder and on S3 (moto's server): whole or absent, and one writer at a time."""

import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest
from conftest import ROOT

from ingestion.errors import IngestionError
from ingestion.storage import PART_BYTES, S3Storage, Storage, open_storage

NAME = "raw/app/things/extract_date=2026-01-01/00000001.parquet"
LEASE_SECONDS = 2


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return (
        str(tmp_path / "lake") if request.param == "folder" else request.getfixturevalue("bucket") + "/lake"
    )


@pytest.fixture
def storage(place: str) -> Storage:
    return open_storage(place)


@pytest.fixture
def s3(bucket: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[], S3Storage]:
    """Makes storages of one and the same lake, as different runs would, with a short lease."""
    monkeypatch.setenv("LAKE_LEASE_SECONDS", str(LEASE_SECONDS))
    return lambda: open_storage(f"{bucket}/lake")


@pytest.fixture
def run(s3: object, bucket: str) -> Iterator[Callable[[str], subprocess.Popen]]:
    """Starts another run: a process that holds the lake's lock, then does `act` when told to."""
    started: list[subprocess.Popen] = []

    def start(act: str = "") -> subprocess.Popen:
        script = (
            "import sys; from ingestion.storage import open_storage\n"
            f"s = open_storage('{bucket}/lake')\n"
            "with s.lock():\n"
            f"    upload = s.create('{NAME}'); upload.write(b'theirs'); upload._send()\n"
            "    print('holds', flush=True); sys.stdin.readline()\n"
            f"    {act or 'upload.publish()'}\n"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", script],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout.readline() == "holds\n", process.stderr.read()
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def hold(storage: Storage, patience: float = 10) -> object:
    """Enter the lock as soon as it is free."""
    deadline = time.monotonic() + patience
    while True:
        lock = storage.lock()
        try:
            lock.__enter__()
            return lock
        except IngestionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def test_an_object_is_whole_or_absent(storage: Storage) -> None:
    assert storage.is_new()
    with storage.lock():
        upload = storage.create(NAME)
        upload.write(b"half")
        assert storage.names("raw") == []
        upload.write(b" and half")
        upload.publish()
        upload.discard()
        left = storage.create(NAME.replace("01.parquet", "02.parquet"))
        left.write(b"never")
        left.discard()
        left.discard()
    assert storage.names("raw") == storage.names("raw/app/things") == [NAME]
    assert storage.names("raw/app/thing") == storage.names("nothing") == []
    assert storage.read(NAME) == b"half and half"
    assert not storage.is_new()


def test_a_file_is_read_in_any_part(storage: Storage) -> None:
    content = os.urandom(200_000)
    with storage.lock():
        upload = storage.create(NAME)
        upload.write(content)
        upload.publish()
    with storage.open(NAME) as file:
        assert file.seek(0, io.SEEK_END) == len(content)
        for start, size in ((0, 10), (150_000, 100_000), (70_000, 1), (199_990, 10), (200_000, 5)):
            file.seek(start)
            assert file.read(size) == content[start : start + size]
        file.seek(0)
        assert file.read() == content


def test_what_is_absent_is_no_file(storage: Storage) -> None:
    for read in (storage.read, storage.open):
        with pytest.raises(FileNotFoundError):
            read("lakehouse.json")


def test_a_small_object_takes_a_free_name_only(storage: Storage) -> None:
    assert storage.put("lakehouse.json", b"first")
    assert not storage.put("lakehouse.json", b"second")
    assert storage.read("lakehouse.json") == b"first"
    assert storage.put("lakehouse.json", b"third", replace=True)
    assert storage.read("lakehouse.json") == b"third"


def test_one_works_and_the_other_says_so(place: str, storage: Storage) -> None:
    with storage.lock(), pytest.raises(IngestionError, match="another run is writing to the lake"):
        hold(open_storage(place), patience=0)
    # the first has finished
    with open_storage(place).lock():
        pass


def test_dead_letters_can_be_replaced_and_batches_cannot(bucket: str) -> None:
    storage = open_storage(f"{bucket}/lake")
    with storage.lock():
        for name, replace in ((NAME, False), (f"dead_letter/{NAME}", True)):
            for content in (b"first", b"second"):
                upload = storage.create(name, replace=replace)
                upload.write(content)
                if name == NAME and content == b"second":
                    with pytest.raises(IngestionError, match="PreconditionFailed"):
                        upload.publish()
                    upload.discard()
                else:
                    upload.publish()
    assert storage.read(NAME) == b"first"
    assert storage.read(f"dead_letter/{NAME}") == b"second"


def test_a_large_object_goes_in_parts(bucket: str) -> None:
    storage = open_storage(f"{bucket}/lake")
    with storage.lock():
        upload = storage.create(NAME)
        for _ in range(5):
            upload.write(bytes(PART_BYTES // 2))
            assert len(upload._buffer) < PART_BYTES
        parts = storage.client.list_parts(**upload._upload)["Parts"]
        assert [p["Size"] for p in parts] == [PART_BYTES, PART_BYTES]
        upload.publish()
    with storage.open(NAME) as file:
        assert file.seek(0, io.SEEK_END) == 5 * PART_BYTES // 2


def test_a_key_of_ones_own_encrypts_everything(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKE_KMS_KEY_ID", "alias/lake")
    storage = open_storage(f"{bucket}/lake")
    storage.put("lakehouse.json", b"{}")
    with storage.lock():
        upload = storage.create(NAME)
        upload.write(b"rows")
        upload.publish()
    for name in ("lakehouse.json", "lease.json", NAME):
        head = storage.client.head_object(Bucket=storage.bucket, Key=storage.key(name))
        assert (head["ServerSideEncryption"], head["SSEKMSKeyId"]) == ("aws:kms", "alias/lake"), name


def test_uploads_of_dead_runs_are_ended_and_no_others(bucket: str) -> None:
    storage = open_storage(f"{bucket}/lake")
    uploads = [
        storage.key(NAME),
        storage.key(f"dead_letter/{NAME}"),
        storage.key("processed/x"),
        "lake2/raw/x",
    ]
    for key in uploads:
        storage.client.create_multipart_upload(Bucket=storage.bucket, Key=key)
    with storage.lock():
        left = storage.client.list_multipart_uploads(Bucket=storage.bucket)["Uploads"]
    assert sorted(u["Key"] for u in left) == ["lake/processed/x", "lake2/raw/x"]


def test_a_run_that_was_killed_blocks_for_its_lease_only(s3: Callable, run: Callable) -> None:
    other = run()
    other.kill()
    other.wait()
    with pytest.raises(IngestionError, match="if it died, its hold ends by itself"):
        hold(s3(), patience=0)
    began = time.monotonic()
    hold(s3())
    # S3's clock has whole seconds, which cost up to two more
    assert time.monotonic() - began < LEASE_SECONDS + 2.5


def test_a_lease_is_renewed_while_its_run_works(s3: Callable, run: Callable) -> None:
    other = run()
    time.sleep(LEASE_SECONDS + 2.5)
    with pytest.raises(IngestionError, match="another run"):
        hold(s3(), patience=0)
    other.communicate("\n", timeout=20)
    assert other.returncode == 0
    assert s3().read(NAME) == b"theirs"


@pytest.mark.parametrize(
    ("act", "says"),
    [
        ("upload.publish()", "lost its hold of the lake"),
        ("upload.write(b'more'); upload._send()", "lost its hold of the lake"),
        # The clock is not all there is: also a run that does not look at it cannot publish any more.
        ("s.lease.check = lambda: None; upload.publish()", "cannot be used"),
        (f"s.create('{NAME}')", "lost its hold of the lake"),
    ],
    ids=["publish", "send", "publish without looking", "begin"],
)
def test_a_run_that_lost_its_lease_cannot_publish(s3: Callable, run: Callable, act: str, says: str) -> None:
    # GIVEN a run that stands still, and another that takes over, lands and ends
    slow = run(act)
    slow.send_signal(signal.SIGSTOP)
    mine = s3()
    lock = hold(mine)
    upload = mine.create(NAME.replace("things", "others"))
    upload.write(b"mine")
    upload.publish()
    lock.__exit__(None, None, None)
    # WHEN the first goes on
    slow.send_signal(signal.SIGCONT)
    _, errors = slow.communicate("\n", timeout=30)
    # THEN it fails, and what it had begun is not there
    assert says in errors
    assert slow.returncode == 1
    assert mine.names("raw") == [NAME.replace("things", "others")]
    assert "Uploads" not in mine.client.list_multipart_uploads(Bucket=mine.bucket)


def test_two_that_take_over_at_once(s3: Callable, run: Callable) -> None:
    other = run()
    other.kill()
    other.wait()
    time.sleep(LEASE_SECONDS + 2)
    got: list[str] = []
    ready = threading.Barrier(4)

    def take() -> None:
        storage = s3()
        ready.wait()
        try:
            with storage.lock():
                got.append("held")
                time.sleep(1)
        except IngestionError:
            got.append("left")

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == ["held", "left", "left", "left"]


def test_an_answer_that_was_lost_is_no_lost_lease(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """boto3 repeats a request whose answer was lost; the second one finds the first one's object."""
    storage = open_storage(f"{bucket}/lake")
    put_if = storage.put_if

    def lose_answer(*arguments: object) -> None:
        put_if(*arguments)

    monkeypatch.setattr(storage, "put_if", lose_answer)
    with storage.lock():
        lease = storage.lease
        assert lease._put({"IfMatch": lease._etag}, held=True)
        # what another run wrote is not ours
        theirs = b'{"run": "another", "held": true, "seconds": 60}'
        storage.client.put_object(Bucket=storage.bucket, Key=storage.key("lease.json"), Body=theirs)
        assert not lease._put({"IfMatch": lease._etag}, held=True)


def test_a_bucket_that_is_not_there_is_one_line(bucket: str) -> None:
    with pytest.raises(IngestionError, match=r"LAKE=s3://absent/lake cannot be used: NoSuchBucket; check"):
        open_storage("s3://absent/lake").is_new()


def test_boto3_is_no_burden_on_a_local_lake() -> None:
    script = (
        "import sys; from ingestion.lake import Lake; from ingestion import run;"
        "print([m for m in ('boto3', 'botocore', 'duckdb') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_the_bucket_is_of_this_machine(bucket: str) -> None:
    assert "127.0.0.1" in boto3.client("s3").meta.endpoint_url
