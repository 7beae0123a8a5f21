"""Lands credit scores: asks the bureau about everyone who consented and whose last score is no longer fresh.

Each record is paid for, so nobody whose score is younger than `ttl_days` is asked about, and nobody at
all without a consent in force. The bureau monitors: it answers what it recorded of a person since the last
time. A person it knows nothing of has no score that could be fresh, and is asked about at every run.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from itertools import islice
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from psycopg import sql

from ingestion.config import TableConfig
from ingestion.errors import IngestionError
from ingestion.http import HttpService
from ingestion.lake import TIMESTAMP, BatchWriter
from ingestion.run import Run
from ingestion.settings import BUSINESS_ZONE

SCHEMA = pa.schema(
    [
        ("cpf", pa.string()),
        ("score", pa.int32()),
        ("score_version", pa.string()),
        ("negative_records", pa.int32()),
        ("total_debt", pa.decimal128(14, 2)),
        ("queried_at", TIMESTAMP),
    ]
)
TTL_DAYS = 30
BATCH_SIZE = 500  # the most people the bureau takes in one request
_CPF = re.compile(r"[0-9]{11}", re.ASCII)

# The earliest consent in force at the end of the day: the bureau monitors from that moment on.
_SUBJECTS = sql.SQL("""
    select c.cpf, min(k.granted_at)
    from {schema}.customers as c
    join {schema}.consents as k using (customer_id)
    where k.scope = 'bureau'
      and k.granted_at < %(end)s
      and (k.revoked_at is null or k.revoked_at >= %(end)s)
      and (k.expires_at is null or k.expires_at >= %(end)s)
    group by c.cpf
    order by c.cpf
""")


@dataclass(frozen=True)
class Subject:
    """A person to ask about: since when the consent is in force, and the newest record already landed."""

    cpf: str
    consented_at: datetime
    after: datetime | None


def schema(table: TableConfig, run: Run) -> pa.Schema:
    """The columns of a score in the lake."""
    return SCHEMA


def extract(table: TableConfig, run: Run, out: BatchWriter) -> None:
    """Write the scores that the bureau has recorded and the lake does not hold.

    Raises:
        IngestionError: a setting is missing, the bureau cannot be asked, or a record of it is not valid.
    """
    landed = run.lake.read(table.source, table.table, ["cpf", "queried_at"])
    fresh_for = timedelta(days=table.options.get("ttl_days", TTL_DAYS))
    subjects = _subjects(table, run, _newest(landed), fresh_for)
    if not subjects:
        return
    key = run.settings.bureau_api_key.get_secret_value()
    if not key:
        raise IngestionError(
            "BUREAU_API_KEY is not set; set it, or start the sandbox with `python -m sandbox up`"
        )
    pages = []
    with HttpService(
        "credit bureau",
        run.settings.bureau_url,
        "BUREAU_URL",
        headers={"X-Api-Key": key},
        key_setting="BUREAU_API_KEY",
    ) as service:
        asked = 0
        for batch in _batches(subjects, table.options.get("batch_size", BATCH_SIZE)):
            run.progress(f"{asked:,} of {len(subjects):,} people asked")
            pages += [_to_table(page, batch, service) for page in _pages(service, batch)]
            asked += len(batch)
    answered = pa.concat_tables(pages)
    rows = _not_landed(answered, landed)
    out.extracted += answered.num_rows
    out.skip(answered.num_rows - rows.num_rows)
    out.write(rows.sort_by([("queried_at", "ascending"), ("cpf", "ascending")]))


def _subjects(
    table: TableConfig, run: Run, newest: dict[str, datetime], fresh_for: timedelta
) -> list[Subject]:
    """Who has to be asked about at the end of the run's day, in the order of their CPF."""
    end = datetime.combine(run.extract_date + timedelta(days=1), time(), BUSINESS_ZONE)
    schema = table.options.get("schema", "app")
    try:
        consents = run.postgres.execute(
            _SUBJECTS.format(schema=sql.Identifier(schema)), {"end": end}
        ).fetchall()
    except psycopg.ProgrammingError:
        raise IngestionError(
            f"{table.name}: PostgreSQL has no readable tables customers and consents in schema {schema};"
            " name their schema in sources.yml"
        ) from None
    return [
        Subject(cpf, consented_at, newest.get(cpf))
        for cpf, consented_at in consents
        if cpf not in newest or newest[cpf] + fresh_for < end
    ]


def _newest(landed: pa.Table) -> dict[str, datetime]:
    """The time of the newest landed score of each person."""
    if landed.num_rows == 0:
        return {}
    newest = landed.group_by("cpf").aggregate([("queried_at", "max")])
    return dict(zip(newest["cpf"].to_pylist(), newest["queried_at_max"].to_pylist(), strict=True))


def _batches(subjects: Iterable[Subject], size: int) -> Iterator[list[Subject]]:
    rest = iter(subjects)
    while batch := list(islice(rest, size)):
        yield batch


def _pages(service: HttpService, batch: list[Subject]) -> Iterator[list[Any]]:
    """Every page of the bureau's answer about some people."""
    subjects = [
        {"cpf": s.cpf, "consented_at": _to_iso(s.consented_at), "after": s.after and _to_iso(s.after)}
        for s in batch
    ]
    token = None
    tokens = set()
    while True:
        answer = service.post("/v1/scores/batch", {"subjects": subjects, "page_token": token})
        if not isinstance(answer, dict) or not isinstance(answer.get("data"), list):
            raise service.unexpected("without a list `data`")
        yield answer["data"]
        token = answer.get("next_page_token")
        if token is None:
            return
        if not isinstance(token, str) or token in tokens:
            raise service.unexpected("with a page token that is no text or that it gave before")
        tokens.add(token)


def _to_table(page: list[Any], batch: list[Subject], service: HttpService) -> pa.Table:
    asked = {s.cpf for s in batch}
    rows = []
    for number, record in enumerate(page, start=1):
        problem = _problem(record, asked)
        if problem:
            raise service.unexpected(f"with a record, number {number} of its page, whose {problem}")
        debt = Decimal(record["total_debt"]).quantize(Decimal("0.01"))
        rows.append({**record, "total_debt": debt, "queried_at": _to_utc(record["queried_at"])})
    return pa.Table.from_pylist(rows, SCHEMA)


def _problem(record: Any, asked: set[str]) -> str | None:
    """What is wrong with a record, without a value of it; None when it can be landed."""
    if not isinstance(record, dict):
        return "form is not an object"
    for field, is_valid in _RULES.items():
        if field not in record:
            return f"{field} is missing"
        if not is_valid(record[field]):
            return f"{field} has the wrong type or range"
    return None if record["cpf"] in asked else "cpf was not asked about"


def _is_whole(value: Any, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high


def _is_money(value: Any) -> bool:
    if type(value) is int:
        return abs(value) < 10**12
    if type(value) is not Decimal:
        return False
    return abs(value) < 10**12 and value == round(value, 2)


def _is_time(value: Any) -> bool:
    try:
        _to_utc(value)
    except (TypeError, ValueError, OverflowError):
        return False
    return True


_RULES: dict[str, Callable[[Any], bool]] = {
    "cpf": lambda v: isinstance(v, str) and bool(_CPF.fullmatch(v)),
    "score": lambda v: _is_whole(v, 0, 1000),
    "score_version": lambda v: isinstance(v, str) and v != "",
    "negative_records": lambda v: _is_whole(v, 0, 2**31 - 1),
    "total_debt": _is_money,
    "queried_at": _is_time,
}


def _not_landed(rows: pa.Table, landed: pa.Table) -> pa.Table:
    """The rows whose (cpf, queried_at) the lake does not hold, each once."""
    known: set[tuple[str, datetime]] = set()
    if landed.num_rows:
        # Only people who are in both can have a record twice.
        both = landed.filter(pc.is_in(landed["cpf"], rows["cpf"].unique()))
        known.update(zip(both["cpf"].to_pylist(), both["queried_at"].to_pylist(), strict=True))
    keep = []
    for key in zip(rows["cpf"].to_pylist(), rows["queried_at"].to_pylist(), strict=True):
        keep.append(key not in known)
        known.add(key)
    return rows.filter(pa.array(keep, pa.bool_()))


def _to_iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _to_utc(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("no time zone")
    return moment.astimezone(UTC)
