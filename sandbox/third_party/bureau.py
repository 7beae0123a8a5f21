"""The credit bureau: a batch look-up by CPF that monitors people from the day they consented.

A person's records lie 30 days apart from `consented_at` on, and each is a function of
(seed, cpf, number of the record). So the bureau stores nothing: it computes the page it is asked for.
"""

import json
import re
import zlib
from datetime import UTC, datetime
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np

from sandbox.third_party.answers import Answer, Refusal
from sandbox.worlds.risk import latent_risk, noise

PATH = "/v1/scores/batch"
MAX_SUBJECTS = 500
PAGE_RECORDS = 200
INTERVAL = 30 * 86_400_000_000  # microseconds

_NOTHING_KNOWN = -(2**63)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CPF = re.compile(r"[0-9]{11}", re.ASCII)
_TOKEN = re.compile(r"([0-9]{1,3})\.([0-9]{1,6})\.([0-9a-f]{8})", re.ASCII)
_NEW_MODEL = int(datetime(2025, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000


class _Request(NamedTuple):
    cpfs: list[str]
    consented_at: np.ndarray  # microseconds since 1970
    after: np.ndarray  # the same, or _NOTHING_KNOWN
    fingerprint: str
    position: tuple[int, int]  # subject and record number the page begins with


def answer(seed: int, day_end: datetime, body: bytes) -> Answer:
    """Scores of the people in `body`, one page of them.

    Args:
        seed: the world's seed.
        day_end: first moment that is not yet known to the bureau.
        body: the request as JSON.

    Raises:
        Refusal: the request is malformed.
    """
    request = _parse(body)
    first, count = _due(request, _microseconds(day_end))
    ends = np.cumsum(count)
    total = int(ends[-1]) if len(ends) else 0
    rows = np.arange(min(total, PAGE_RECORDS))
    subject = np.searchsorted(ends, rows, side="right")
    number = first[subject] + rows - (ends - count)[subject]

    token = None
    if total > PAGE_RECORDS:
        # A position, not an offset: records that appear between two pages shift nothing.
        following = int(np.searchsorted(ends, PAGE_RECORDS, side="right"))
        record = int(first[following] + PAGE_RECORDS - (ends - count)[following])
        token = f"{following}.{record}.{request.fingerprint}"
    data = _records(seed, np.array(request.cpfs, dtype="U11")[subject], request.consented_at[subject], number)
    return Answer(
        status=200,
        body=msgspec.json.encode({"data": data, "next_page_token": token}),
        note=f"subjects={len(request.cpfs)} records={len(data)}",
    )


def no_data() -> Answer:
    """What a bureau says that has heard of nobody."""
    return Answer(200, b'{"data": [], "next_page_token": null}', note="records=0")


def check(body: bytes) -> None:
    """Refuse a malformed request, as `answer` does, and compute nothing."""
    _parse(body)


def _due(request: _Request, day_end: int) -> tuple[np.ndarray, np.ndarray]:
    """Number of the first record wanted of each subject, and how many from there on."""
    start = request.consented_at
    known = (np.maximum(request.after, start - INTERVAL) - start) // INTERVAL + 1
    subject, number = request.position
    index = np.arange(len(start))
    first = np.where(index == subject, np.maximum(known, number), known)
    published = np.where(start < day_end, (day_end - 1 - start) // INTERVAL + 1, 0)
    return first, np.where(index < subject, 0, np.maximum(published - first, 0))


def _records(
    seed: int, cpfs: np.ndarray, consented_at: np.ndarray, number: np.ndarray
) -> list[dict[str, Any]]:
    risk = latent_risk(seed, cpfs)

    def wobble(salt: int) -> np.ndarray:
        return noise(seed, cpfs, number * 4 + salt)  # salt 0 of record 0 is the latent risk itself

    score = np.clip(np.rint(620 - 140 * risk + 35 * wobble(1)), 0, 1000).astype(int)
    negative = np.floor(np.clip((risk + 0.4 * wobble(2)) * 2.5 - 1.5, 0, 12)).astype(int)
    debt_cents = np.rint(wobble(3) ** 2 * 300_000 + negative * 80_000).astype(int)
    queried_at = consented_at + number * INTERVAL
    version = np.where(queried_at < _NEW_MODEL, "PF-4.1", "PF-4.2")
    stamps = np.datetime_as_string(queried_at.astype("M8[us]"), timezone="UTC")
    columns = (cpfs, score, version, negative, debt_cents / 100, stamps)
    names = ("cpf", "score", "score_version", "negative_records", "total_debt", "queried_at")
    return [dict(zip(names, row, strict=True)) for row in zip(*(c.tolist() for c in columns), strict=True)]


class _Subject(msgspec.Struct, gc=False):
    cpf: Annotated[str, msgspec.Meta(pattern=r"^[0-9]{11}\Z")]
    consented_at: Annotated[datetime, msgspec.Meta(tz=True)]
    after: Annotated[datetime, msgspec.Meta(tz=True)] | None = None


class _Body(msgspec.Struct):
    subjects: Annotated[list[_Subject], msgspec.Meta(max_length=MAX_SUBJECTS)]
    page_token: Any = None


_DECODER = msgspec.json.Decoder(_Body)


def _parse(body: bytes) -> _Request:
    try:
        sound = _DECODER.decode(body)
    except ValueError:
        cpfs, consented_at, after, page_token = _read(body)
    else:
        cpfs = [s.cpf for s in sound.subjects]
        consented_at = [_microseconds(s.consented_at) for s in sound.subjects]
        after = [_NOTHING_KNOWN if s.after is None else _microseconds(s.after) for s in sound.subjects]
        page_token = sound.page_token
    if len(set(cpfs)) != len(cpfs):
        raise Refusal(422, "subjects: a cpf is there twice")
    fingerprint = f"{zlib.crc32(repr((cpfs, consented_at, after)).encode()):08x}"
    position = _position(page_token, fingerprint)
    return _Request(
        cpfs, np.array(consented_at, dtype=np.int64), np.array(after, dtype=np.int64), fingerprint, position
    )


def _read(body: bytes) -> tuple[list[str], list[int], list[int], Any]:
    """A body step by step, to say what is wrong with it."""
    try:
        document = json.loads(body)
    except ValueError:
        raise Refusal(422, "the body is not JSON") from None
    if not isinstance(document, dict) or not isinstance(document.get("subjects"), list):
        raise Refusal(422, "the body must be an object with a list `subjects`")
    subjects = document["subjects"]
    if len(subjects) > MAX_SUBJECTS:
        raise Refusal(422, f"subjects: at most {MAX_SUBJECTS} in a request")
    cpfs, consented_at, after = [], [], []
    for number, subject in enumerate(subjects):
        if not isinstance(subject, dict):
            raise Refusal(422, f"subjects[{number}] must be an object")
        cpf = subject.get("cpf")
        if not isinstance(cpf, str) or not _CPF.fullmatch(cpf):
            raise Refusal(422, f"subjects[{number}].cpf must be a text of 11 digits")
        cpfs.append(cpf)
        consented_at.append(_timestamp(subject, number, "consented_at"))
        known = subject.get("after") is not None
        after.append(_timestamp(subject, number, "after") if known else _NOTHING_KNOWN)
    return cpfs, consented_at, after, document.get("page_token")


def _timestamp(subject: dict[str, Any], number: int, field: str) -> int:
    try:
        moment = datetime.fromisoformat(subject[field])
        if moment.tzinfo is not None:
            return _microseconds(moment)
    except (KeyError, TypeError, ValueError, OverflowError):
        pass
    raise Refusal(422, f"subjects[{number}].{field} must be an ISO 8601 time with its zone")


def _position(token: Any, fingerprint: str) -> tuple[int, int]:
    if token is None:
        return 0, 0
    match = _TOKEN.fullmatch(token) if isinstance(token, str) else None
    if match is None or match[3] != fingerprint:
        raise Refusal(422, "page_token belongs to another request")
    return int(match[1]), int(match[2])


def _microseconds(moment: datetime) -> int:
    passed = moment - _EPOCH
    return (passed.days * 86_400 + passed.seconds) * 1_000_000 + passed.microseconds
