"""Lands credit scores: asks the bureau about everyone who consented and whose last score is no longer fresh.

Each answer is paid for, so nobody whose score is younger than `ttl_days` is asked about, and nobody at
all without a consent in force. The bureau monitors: it answers what it recorded of a person since the last
time. Of whom it then had nothing new, it is asked again after `recheck_days`; these people are in the
manifest of the batch, as keyed hashes. Answers are in the spool until they are committed, so a run that
dies has paid for nothing twice but what was on the wire.
"""

import hmac
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from datetime import UTC, date, datetime, time, timedelta
from itertools import chain as joined
from itertools import islice
from threading import Lock
from typing import Any

import psycopg
import pyarrow as pa
from psycopg import sql

from ingestion.config import TableConfig
from ingestion.errors import IngestionError
from ingestion.http import HttpService, Refused, manners
from ingestion.lake import TIMESTAMP, BatchWriter, DeadLetter
from ingestion.records import EXTRA, BadRecord, Field, decimal, from_json, moment, shape, text, to_json, whole
from ingestion.run import Run
from ingestion.settings import BUSINESS_ZONE
from ingestion.spool import Chain, Spool

SCHEMA = pa.schema(
    [
        ("cpf", pa.string()),
        ("score", pa.int32()),
        ("score_version", pa.string()),
        ("negative_records", pa.int32()),
        ("total_debt", pa.decimal128(14, 2)),
        ("queried_at", TIMESTAMP),
        EXTRA,
    ]
)
TTL_DAYS = 30
RECHECK_DAYS = 7
BATCH_SIZE = 500  # the most people the bureau takes in one request
ENDPOINT = "/v1/scores/batch"
_CPF = re.compile(r"[0-9]{11}", re.ASCII)
_KEY = ["cpf", "queried_at"]
_LONG_AGO = datetime.min.replace(tzinfo=UTC)

# The earliest consent in force at the end of the day: the bureau monitors from that moment on.
_SUBJECTS = sql.SQL("""
    select c.cpf, min(k.granted_at)
    from {schema}.customers as c
    join {schema}.consents as k using (customer_id)
    where k.scope = 'bureau'
      and k.granted_at < %(end)s
      and (k.revoked_at is null or k.revoked_at >= %(end)s)
      and (k.expires_at is null or k.expires_at >= %(end)s)
      and (%(cpfs)s::text[] is null or c.cpf = any(%(cpfs)s))
    group by c.cpf
    order by c.cpf
""")


def _cpf(value: Any) -> str:
    if not isinstance(value, str) or not _CPF.fullmatch(value):
        raise ValueError
    return value


def _recorded_at(value: Any) -> datetime:
    at = moment(value)
    if at.year < 1970:
        raise ValueError
    return at


FIELDS = (
    Field("cpf", "cpf", _cpf),
    Field("score", "score", whole(0, 1000)),
    Field("score_version", "score_version", text, required=False),
    Field("negative_records", "negative_records", whole(0, 2**31 - 1), required=False),
    Field("total_debt", "total_debt", decimal(14, 2), required=False),
    Field("queried_at", "queried_at", _recorded_at),
)


def schema(table: TableConfig, run: Run) -> pa.Schema:
    """The columns of a score in the lake."""
    return SCHEMA


def extract(table: TableConfig, run: Run, out: BatchWriter) -> None:
    """Write the scores that the bureau has recorded and the lake does not hold.

    A record that is not as promised becomes a dead letter; the others land.

    Raises:
        IngestionError: a setting is missing, or the bureau cannot be asked.
    """
    with _Inquiry(table, run, out) as inquiry:
        newest = inquiry.newest()
        for dead in run.lake.dead_letters(table.source, table.table):
            letter = _Letter(dead, inquiry.latest)
            # What waits for `replay` is not asked for a second time meanwhile.
            if letter.key and letter.key[1] > newest.get(letter.key[0], _LONG_AGO):
                newest[letter.key[0]] = letter.key[1]
        fresh_for = timedelta(days=table.options.get("ttl_days", TTL_DAYS))
        in_vain = inquiry.asked_in_vain()
        inquiry.ask(
            _subject(cpf, consented_at, newest.get(cpf))
            for cpf, consented_at in inquiry.consents().items()
            if cpf not in inquiry.under_way
            and (cpf not in newest or newest[cpf] + fresh_for < inquiry.end)
            and inquiry.keyed_hash(cpf) not in in_vain
        )
        inquiry.land()


def replay(table: TableConfig, run: Run, letters: list[DeadLetter], out: BatchWriter) -> None:
    """Land what can be landed of `letters`.

    A record that is as promised by now lands as it is. For any other the bureau is asked again, which is
    paid for: about its person, or about everyone of the request where the record does not say whose it is.

    Raises:
        IngestionError: a setting is missing, or the bureau cannot be asked.
    """
    with _Inquiry(table, run, out) as inquiry:
        consents = inquiry.consents()
        known = inquiry.keys()
        about: dict[str, datetime] = {}
        unresolved = []
        for dead in letters:
            letter = _Letter(dead, inquiry.latest)
            if letter.row:
                inquiry.take([letter.record], letter.people)
                out.retire(letter.letter)
                continue
            out.extracted += 1
            if letter.key in known:
                out.skip(1)
                out.retire(letter.letter)
                continue
            unresolved.append(letter)
            since = letter.at - timedelta(microseconds=1) if letter.at else _LONG_AGO
            for cpf in letter.people & consents.keys():
                about[cpf] = min(since, about.get(cpf, since))
        inquiry.ask(_subject(cpf, consents[cpf], about[cpf]) for cpf in sorted(about))
        inquiry.land()
        known = inquiry.keys()
        for letter in unresolved:
            if not letter.people & consents.keys():
                out.reject_again(letter.letter, "no consent in force, so the bureau cannot be asked again")
            elif letter.people & inquiry.troubled:
                out.reject_again(letter.letter, letter.letter.reason)
            elif letter.key and letter.key not in known:
                out.reject_again(letter.letter, "asked again, the bureau does not give this record")
            else:
                out.skip(1)
                out.retire(letter.letter)


class _Letter:
    """A dead letter of ours: whose record it may be, and what of it can be read."""

    def __init__(self, letter: DeadLetter, latest: datetime) -> None:
        self.letter = letter
        self.record = from_json(letter.payload)
        self.row: dict[str, Any] | None = None
        if isinstance(self.record, dict) and self.record.keys() == {"record", "asked_about"}:
            self.people = set(self.record["asked_about"])
            self.record = self.record["record"]
        else:
            self.people = {self.record["cpf"]}
            with suppress(BadRecord):
                self.row = _row(self.record, latest)
        self.at = _time_of(self.record, latest)
        """When the bureau recorded it, where it says so."""
        self.key = (*self.people, self.at) if self.at and len(self.people) == 1 else None


class _Inquiry:
    """What one run has to do with the bureau: what is answered already, and what it asks.

    A run that died may have left answers in the spool: they are taken first, and a request whose answer
    it had begun to read is gone on with.
    """

    def __init__(self, table: TableConfig, run: Run, out: BatchWriter) -> None:
        self.end = datetime.combine(run.extract_date + timedelta(days=1), time(), BUSINESS_ZONE)
        # No record can be later, whether the run's day is today's, long past or one of the sandbox's.
        self.latest = max(self.end, datetime.now(UTC)) + timedelta(days=1)
        self.under_way: set[str] = set()
        """People whose answer is only half read."""
        self.troubled: set[str] = set()
        """People with a record that was not as promised, or who may have one."""
        self._table, self._run, self._out = table, run, out
        self._key = run.settings.bureau_api_key.get_secret_value()
        self._landed = run.lake.read(table.source, table.table, list(_KEY))
        self._answered: list[pa.Table] = []
        self._bad: list[tuple[str, str, str, tuple[str, datetime] | None]] = []
        self._asked: set[str] = set()
        self._heard: set[str] = set()
        self._lock = Lock()
        self._spool = Spool(run.lake, table)
        self._unfinished: list[Chain] = []
        # The run's own connection sees what was when the run began; a consent may have been revoked since.
        self._now = psycopg.connect(run.settings.source_dsn.get_secret_value(), autocommit=True)

    def __enter__(self) -> "_Inquiry":
        try:
            consents = self.consents()
            for chain, pages in self._spool.chains():
                self._take_pages(chain, pages)
                people = {subject["cpf"] for subject in chain.request}
                if not chain.complete and people <= consents.keys():
                    self._unfinished.append(chain)
                    self.under_way |= people
        except BaseException:
            self._now.close()
            raise
        self._out.on_commit = self._spool.clear
        return self

    def __exit__(self, *error: object) -> None:
        self._now.close()

    def keyed_hash(self, cpf: str) -> str:
        """A name for a person that only who has the API key can trace back."""
        return hmac.digest(self._key.encode(), cpf.encode(), "sha256").hex()[:16]

    def consents(self, cpfs: list[str] | None = None) -> dict[str, datetime]:
        """CPF → since when there is a consent in force, of everyone (or of `cpfs`), at this moment."""
        name = self._table.options.get("schema", "app")
        try:
            query = _SUBJECTS.format(schema=sql.Identifier(name))
            return dict(self._now.execute(query, {"end": self.end, "cpfs": cpfs}).fetchall())
        except psycopg.ProgrammingError:
            raise IngestionError(
                f"{self._table.name}: PostgreSQL has no readable tables customers and consents in schema"
                f" {name}; name their schema in sources.yml"
            ) from None

    def newest(self) -> dict[str, datetime]:
        """The time of everyone's newest score that is landed or answered, be it one for the dead letters."""
        found = self._all_keys().group_by("cpf").aggregate([("queried_at", "max")])
        newest = dict(zip(found["cpf"].to_pylist(), found["queried_at_max"].to_pylist(), strict=True))
        for *_, key in self._bad:
            if key:
                newest[key[0]] = max(key[1], newest.get(*key))
        return newest

    def keys(self) -> set[tuple[str, datetime]]:
        """Every score that is landed or answered."""
        return _pairs(self._all_keys())

    def asked_in_vain(self) -> set[str]:
        """Keyed hashes of people of whom the bureau had nothing new, too short a time ago to ask again."""
        days = timedelta(days=self._table.options.get("recheck_days", RECHECK_DAYS))
        found = set(map(self.keyed_hash, self._asked - self._heard))
        for manifest in self._run.lake.manifests(self._table.source, self._table.table):
            if date.fromisoformat(manifest["extract_date"]) + days > self._run.extract_date:
                found.update(manifest.get("asked_in_vain", ()))
        return found

    def ask(self, subjects: Iterable[dict[str, Any]]) -> None:
        """Finish what another run began, then ask about `subjects`."""
        new = _batches(subjects, self._table.options.get("batch_size", BATCH_SIZE))
        chains = joined(self._unfinished, new)
        first = next(chains, None)
        if first is None:
            return
        if not self._key:
            raise IngestionError(
                "BUREAU_API_KEY is not set; set it, or start the sandbox with `python -m sandbox up`"
            )
        with HttpService(
            "credit bureau",
            self._run.settings.bureau_url,
            "BUREAU_URL",
            headers={"X-Api-Key": self._key},
            key_setting="BUREAU_API_KEY",
            **manners(self._table),
        ) as service:
            self._ask_all(service, joined([first], chains))

    def _ask_all(self, service: HttpService, chains: Iterator[Chain]) -> None:
        asked = 0
        concurrency = service.limits.concurrency
        with ThreadPoolExecutor(concurrency) as pool:
            waiting: set[Future[int]] = set()
            try:
                while True:
                    for chain in islice(chains, concurrency - len(waiting)):
                        waiting.add(pool.submit(self._follow, service, chain))
                    if not waiting:
                        return
                    done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    asked += sum(future.result() for future in done)
                    self._run.progress(f"{asked:,} people asked about")
            except BaseException:
                service.give_up()
                raise

    def _follow(self, service: HttpService, chain: Chain) -> int:
        """Read the whole answer to a request; returns about how many people it was."""
        resumed = chain.pages > 0
        if not resumed:
            consents = self.consents([subject["cpf"] for subject in chain.request])
            chain.request = [subject for subject in chain.request if subject["cpf"] in consents]
        tokens = {chain.token}
        while chain.request and not chain.complete:
            try:
                answer = service.post(ENDPOINT, {"subjects": chain.request, "page_token": chain.token})
            except Refused as refused:
                if resumed and refused.status not in (401, 403):
                    # The bureau has forgotten the token: the next run asks about these people anew.
                    break
                raise
            resumed = False
            if not isinstance(answer, dict) or not isinstance(answer.get("data"), list):
                raise service.unexpected("without a list `data`")
            token = answer.get("next_page_token")
            if token is not None and (not isinstance(token, str) or token in tokens):
                raise service.unexpected("with a page token that is no text or that it gave before")
            tokens.add(token)
            self._spool.add(chain, answer["data"], token)
            with self._lock:
                self._take_pages(chain, [answer["data"]])
        return len(chain.request)

    def _take_pages(self, chain: Chain, pages: list[list[Any]]) -> None:
        people = {subject["cpf"] for subject in chain.request}
        if chain.complete:
            self._asked |= people
        for page in pages:
            self.take(page, people)

    def take(self, records: list[Any], people: set[str]) -> None:
        """Sort the records of an answer about `people` into those that can be landed and the others."""
        self._out.extracted += len(records)
        rows = []
        for record in records:
            try:
                row = _row(record, self.latest)
                if row["cpf"] not in people:
                    raise BadRecord("cpf was not asked about")
                rows.append(row)
                self._heard.add(row["cpf"])
            except BadRecord as problem:
                self._set_aside(record, people, str(problem))
        self._answered.append(pa.Table.from_pylist(rows, SCHEMA))

    def _set_aside(self, record: Any, people: set[str], reason: str) -> None:
        cpf, at = _read(_cpf, record, "cpf"), _time_of(record, self.latest)
        origin = {"endpoint": ENDPOINT}
        if cpf in people:
            origin["person"] = self.keyed_hash(cpf)
            payload = to_json(record)
            people = {cpf}
        else:
            payload = to_json({"record": record, "asked_about": sorted(people)})
        self._heard |= people if len(people) == 1 else set()
        self.troubled |= people
        key = (cpf, at) if len(people) == 1 and cpf in people and at else None
        self._bad.append((payload, reason, to_json(origin), key))

    def land(self) -> None:
        """Give every record its fate: written, landed before, or among the dead letters."""
        answered = pa.concat_tables([SCHEMA.empty_table(), *self._answered])
        rows = _not_landed(answered, self._landed)
        self._out.skip(answered.num_rows - rows.num_rows)
        self._out.write(rows.sort_by([("queried_at", "ascending"), ("cpf", "ascending")]))
        known = self.keys() if self._bad else set()
        for payload, reason, origin, key in self._bad:
            if key in known:
                self._out.skip(1)  # another copy of it is as promised
            else:
                self._out.reject(payload, reason, origin=origin)
        in_vain = sorted(map(self.keyed_hash, self._asked - self._heard))
        if in_vain:
            self._out.extra["asked_in_vain"] = in_vain
            self._out.is_news = True

    def _all_keys(self) -> pa.Table:
        keys = pa.schema([SCHEMA.field(name) for name in _KEY])
        return pa.concat_tables([t.select(_KEY).cast(keys) for t in (self._landed, *self._answered)])


def _subject(cpf: str, consented_at: datetime, after: datetime | None) -> dict[str, Any]:
    """A person to ask about: the bureau answers what it has recorded since the consent, and after `after`."""
    known = after is not None and after > _LONG_AGO
    return {"cpf": cpf, "consented_at": _to_iso(consented_at), "after": _to_iso(after) if known else None}


def _batches(subjects: Iterable[dict[str, Any]], size: int) -> Iterator[Chain]:
    rest = iter(subjects)
    while batch := list(islice(rest, size)):
        yield Chain(batch)


def _row(record: Any, latest: datetime) -> dict[str, Any]:
    row = shape(record, FIELDS)
    if row["queried_at"] > latest:
        raise BadRecord("queried_at lies in the future")
    return row


def _time_of(record: Any, latest: datetime) -> datetime | None:
    """When a record that may be anything was made; None when it does not say, or cannot be right."""
    at = _read(_recorded_at, record, "queried_at")
    return at if at and at <= latest else None


def _read(read: Callable[[Any], Any], record: Any, field: str) -> Any:
    """A field of a record that may be anything; None when it cannot be read."""
    try:
        return read(record[field])
    except (LookupError, TypeError, ValueError, ArithmeticError):
        return None


def _not_landed(rows: pa.Table, landed: pa.Table) -> pa.Table:
    """The rows whose (cpf, queried_at) the lake does not hold, each once."""
    places = rows.select(_KEY).append_column("place", pa.array(range(rows.num_rows), pa.int64()))
    first = places.group_by(_KEY).aggregate([("place", "min")])
    if landed.num_rows:
        keys = landed.select(_KEY).cast(first.select(_KEY).schema)
        first = first.join(keys, _KEY, join_type="left anti")
    return rows.take(first["place_min"].combine_chunks().sort())


def _pairs(keys: pa.Table) -> set[tuple[str, datetime]]:
    return set(zip(keys["cpf"].to_pylist(), keys["queried_at"].to_pylist(), strict=True))


def _to_iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
