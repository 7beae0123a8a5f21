"""Lands exchange rates of the central bank's PTAX service: every bulletin of every configured currency.

Weekends and holidays have no bulletin and get no row: what to use on such a day is for the models to say.
The real service is at https://olinda.bcb.gov.br; its oddities that matter here:

- parameters of the OData function stand in single quotes, dates are MM-DD-YYYY;
- a time has no zone (it is São Paulo's) and none to six digits of a second;
- a day without bulletins is an empty list, not an error.

Its `$skip` counts from the start of a list that may grow between two pages, so it is not used: each request
is for some days and must be answered whole, in whatever order; one that fills its `$top` is halved.
"""

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ingestion.config import TableConfig
from ingestion.errors import IngestionError
from ingestion.http import HttpService, manners
from ingestion.lake import TIMESTAMP, BatchWriter, DeadLetter
from ingestion.records import EXTRA, BadRecord, Field, decimal, from_json, shape, text, to_json
from ingestion.run import Run
from ingestion.settings import BUSINESS_ZONE

SCHEMA = pa.schema(
    [
        ("currency", pa.string()),
        ("buy", pa.decimal128(18, 8)),
        ("sell", pa.decimal128(18, 8)),
        ("quoted_at", TIMESTAMP),
        ("bulletin", pa.string()),
        EXTRA,
    ]
)
KEY = ("currency", "quoted_at", "bulletin")
PAGE_ROWS = 1000
PAGE_DAYS = 180  # five bulletins on each business day: some 640 rows
OVERLAP_DAYS = 3
_RESOURCE = (
    "/olinda/servico/PTAX/versao/v1/odata/"
    "CotacaoMoedaPeriodo(moeda=@moeda,dataInicial=@dataInicial,dataFinalCotacao=@dataFinalCotacao)"
)
_CURRENCY = re.compile(r"[A-Z]{3}", re.ASCII)
_EXACT_RATE = decimal(18, 8)


def _rate(value: Any) -> Decimal:
    rate = _EXACT_RATE(value)
    if rate <= 0:
        raise ValueError
    return rate


def _local_time(value: Any) -> datetime:
    local = datetime.fromisoformat(value)
    if local.tzinfo is not None or local.year < 1970:
        raise ValueError
    return local.replace(tzinfo=BUSINESS_ZONE).astimezone(UTC)


FIELDS = (
    Field("cotacaoCompra", "buy", _rate),
    Field("cotacaoVenda", "sell", _rate),
    Field("dataHoraCotacao", "quoted_at", _local_time),
    Field("tipoBoletim", "bulletin", text),
)
# Rates against the dollar: they follow from the others.
IGNORED = ("paridadeCompra", "paridadeVenda")


def schema(table: TableConfig, run: Run) -> pa.Schema:
    """The columns of a rate in the lake."""
    return SCHEMA


def extract(table: TableConfig, run: Run, out: BatchWriter) -> None:
    """Write the bulletins up to the run's day that the lake does not hold.

    A currency begins at `start_date`, later runs a few days before its newest landed bulletin, so that
    bulletins published late are found. A bulletin that is not as promised becomes a dead letter.

    Raises:
        IngestionError: a setting is wrong, or the service cannot be asked.
    """
    landed = run.lake.read(table.source, table.table, list(KEY))
    firsts = {currency: _first_day(table, currency, landed) for currency in _currencies(table)}
    _land(table, run, out, landed, firsts)


def replay(table: TableConfig, run: Run, letters: list[DeadLetter], out: BatchWriter) -> None:
    """Land what can be landed of `letters`: as they are if they are as promised by now, else asked for again.

    Where a letter does not say from which day it is, everything since `start_date` is asked for.

    Raises:
        IngestionError: a setting is wrong, or the service cannot be asked.
    """
    landed = run.lake.read(table.source, table.table, list(KEY))
    repaired: list[dict[str, Any]] = []
    firsts: dict[str, date] = {}
    asked = []
    for letter in letters:
        currency, bulletin = from_json(letter.origin)["currency"], from_json(letter.payload)
        out.extracted += 1
        try:
            repaired.append(_row(bulletin, currency, run.extract_date))
            out.retire(letter)
        except BadRecord:
            day = _day(bulletin)
            if day is None or day > run.extract_date:
                day = _start_date(table)
            firsts[currency] = min(day, firsts.get(currency, day))
            asked.append((letter, currency))
    troubled = _land(table, run, out, landed, firsts, repaired)
    for letter, currency in asked:
        if currency in troubled:
            out.reject_again(letter, letter.reason)
        else:
            out.skip(1)
            out.retire(letter)


def _land(
    table: TableConfig,
    run: Run,
    out: BatchWriter,
    landed: pa.Table,
    firsts: dict[str, date],
    rows: Sequence[dict[str, Any]] = (),
) -> set[str]:
    """Write `rows`, counted already, and each currency's bulletins from its first day on.

    Returns the currencies with a bulletin that was not as promised.
    """
    answered, troubled = list(rows), set()
    wanted = [(currency, first) for currency, first in firsts.items() if first <= run.extract_date]
    if wanted:
        with HttpService(
            "central bank's PTAX service", run.settings.fx_url, "FX_URL", **manners(table)
        ) as service:
            for currency, first in wanted:
                run.progress(f"{currency} from {first}")
                for bulletin in _bulletins(service, currency, first, run.extract_date):
                    out.extracted += 1
                    try:
                        answered.append(_row(bulletin, currency, run.extract_date))
                    except BadRecord as problem:
                        troubled.add(currency)
                        origin = to_json({"currency": currency})
                        out.reject(to_json(bulletin), str(problem), origin=origin)
    known = set(zip(*(landed[c].to_pylist() for c in KEY), strict=True))
    new = []
    for row in answered:
        key = tuple(row[c] for c in KEY)
        if key in known:
            out.skip(1)
        else:
            known.add(key)
            new.append(row)
    order = [(c, "ascending") for c in ("quoted_at", "currency", "bulletin")]
    out.write(pa.Table.from_pylist(new, SCHEMA).sort_by(order))
    return troubled


def _currencies(table: TableConfig) -> list[str]:
    currencies = table.options.get("currencies") or []
    if not isinstance(currencies, list) or not all(
        isinstance(c, str) and _CURRENCY.fullmatch(c) for c in currencies
    ):
        raise IngestionError(f"{table.name}: currencies in sources.yml must be a list of codes such as USD")
    return currencies


def _first_day(table: TableConfig, currency: str, landed: pa.Table) -> date:
    """The first day to ask for: `start_date`, or some days before the newest bulletin in the lake."""
    start = _start_date(table)
    if landed.num_rows == 0:
        return start
    newest = pc.max(landed["quoted_at"].filter(pc.equal(landed["currency"], currency))).as_py()
    if newest is None:
        return start
    following = newest.astimezone(BUSINESS_ZONE).date() + timedelta(days=1)
    return max(start, following - timedelta(days=table.options.get("overlap_days", OVERLAP_DAYS)))


def _start_date(table: TableConfig) -> date:
    start = table.options.get("start_date")
    try:
        return date.fromisoformat(str(start))
    except ValueError:
        raise IngestionError(
            f"{table.name}: start_date in sources.yml must be a date such as 2024-01-01"
        ) from None


def _bulletins(service: HttpService, currency: str, first: date, last: date) -> Iterator[Any]:
    """Every bulletin of the days from `first` to `last`."""
    days = [
        (day, min(day + timedelta(days=PAGE_DAYS - 1), last))
        for day in (first + timedelta(days=n) for n in range(0, (last - first).days + 1, PAGE_DAYS))
    ]
    while days:
        begin, end = days.pop(0)
        # Written out: the real service wants `$`, `@` and quotes as they are, and a space as %20, not as +.
        answer = service.get(
            f"{_RESOURCE}?@moeda='{currency}'&@dataInicial='{begin:%m-%d-%Y}'"
            f"&@dataFinalCotacao='{end:%m-%d-%Y}'&$format=json&$orderby=dataHoraCotacao%20asc&$top={PAGE_ROWS}"
        )
        if not isinstance(answer, dict) or not isinstance(answer.get("value"), list):
            raise service.unexpected("without a list `value`")
        if len(answer["value"]) < PAGE_ROWS:
            yield from answer["value"]
        elif begin == end:
            raise service.unexpected(f"with {PAGE_ROWS} bulletins of {currency} on one day")
        else:
            middle = begin + (end - begin) // 2
            days[:0] = [(begin, middle), (middle + timedelta(days=1), end)]


def _row(bulletin: Any, currency: str, last: date) -> dict[str, Any]:
    row = {"currency": currency, **shape(bulletin, FIELDS, IGNORED)}
    if row["quoted_at"].astimezone(BUSINESS_ZONE).date() > last:
        raise BadRecord("dataHoraCotacao is later than was asked for")
    return row


def _day(bulletin: Any) -> date | None:
    """The local day of a bulletin that may be anything."""
    try:
        return _local_time(bulletin["dataHoraCotacao"]).astimezone(BUSINESS_ZONE).date()
    except (LookupError, TypeError, ValueError, ArithmeticError):
        return None
