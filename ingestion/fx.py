"""Lands exchange rates of the central bank's PTAX service: every bulletin of every configured currency.

Weekends and holidays have no bulletin and get no row: what to use on such a day is for the models to say.
The real service is at https://olinda.bcb.gov.br; its oddities that matter here:

- parameters of the OData function stand in single quotes, dates are MM-DD-YYYY;
- a time has no zone (it is São Paulo's) and none to six digits of a second;
- a day without bulletins is an empty list, not an error.
"""

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ingestion.config import TableConfig
from ingestion.errors import IngestionError
from ingestion.http import HttpService
from ingestion.lake import TIMESTAMP, BatchWriter
from ingestion.run import Run
from ingestion.settings import BUSINESS_ZONE

SCHEMA = pa.schema(
    [
        ("currency", pa.string()),
        ("buy", pa.decimal128(18, 8)),
        ("sell", pa.decimal128(18, 8)),
        ("quoted_at", TIMESTAMP),
        ("bulletin", pa.string()),
    ]
)
KEY = ("currency", "quoted_at", "bulletin")
PAGE_ROWS = 1000
OVERLAP_DAYS = 3
_RESOURCE = (
    "/olinda/servico/PTAX/versao/v1/odata/"
    "CotacaoMoedaPeriodo(moeda=@moeda,dataInicial=@dataInicial,dataFinalCotacao=@dataFinalCotacao)"
)
_CURRENCY = re.compile(r"[A-Z]{3}", re.ASCII)


def schema(table: TableConfig, run: Run) -> pa.Schema:
    """The columns of a rate in the lake."""
    return SCHEMA


def extract(table: TableConfig, run: Run, out: BatchWriter) -> None:
    """Write the bulletins up to the run's day that the lake does not hold.

    A currency begins at `start_date`, later runs a few days before its newest landed bulletin, so that
    bulletins published late are found.

    Raises:
        IngestionError: a setting is wrong, the service cannot be asked, or an answer of it is not valid.
    """
    landed = run.lake.read(table.source, table.table, list(KEY))
    wanted = [(c, _first_day(table, c, landed)) for c in _currencies(table)]
    wanted = [(currency, first) for currency, first in wanted if first <= run.extract_date]
    if not wanted:
        return
    known = set(zip(*(landed[c].to_pylist() for c in KEY), strict=True))
    rows: list[dict[str, Any]] = []
    with HttpService("central bank's PTAX service", run.settings.fx_url, "FX_URL") as service:
        for currency, first in wanted:
            run.progress(f"{currency} from {first}")
            for bulletin in _bulletins(service, currency, first, run.extract_date):
                row = _to_row(bulletin, currency)
                if row is None:
                    raise service.unexpected(f"with something that is no bulletin of {currency}")
                key = tuple(row[c] for c in KEY)
                out.extracted += 1
                if key in known:
                    out.skip(1)
                else:
                    known.add(key)
                    rows.append(row)
    order = [(c, "ascending") for c in ("quoted_at", "currency", "bulletin")]
    out.write(pa.Table.from_pylist(rows, SCHEMA).sort_by(order))


def _currencies(table: TableConfig) -> list[str]:
    currencies = table.options.get("currencies") or []
    if not isinstance(currencies, list) or not all(
        isinstance(c, str) and _CURRENCY.fullmatch(c) for c in currencies
    ):
        raise IngestionError(f"{table.name}: currencies in sources.yml must be a list of codes such as USD")
    return currencies


def _first_day(table: TableConfig, currency: str, landed: pa.Table) -> date:
    """The first day to ask for: `start_date`, or some days before the newest bulletin in the lake."""
    start = table.options.get("start_date")
    if isinstance(start, datetime) or not isinstance(start, date):
        raise IngestionError(f"{table.name}: start_date in sources.yml must be a date such as 2024-01-01")
    if landed.num_rows == 0:
        return start
    newest = pc.max(landed["quoted_at"].filter(pc.equal(landed["currency"], currency))).as_py()
    if newest is None:
        return start
    following = newest.astimezone(BUSINESS_ZONE).date() + timedelta(days=1)
    return max(start, following - timedelta(days=table.options.get("overlap_days", OVERLAP_DAYS)))


def _bulletins(service: HttpService, currency: str, first: date, last: date) -> Iterator[Any]:
    """Every bulletin of the days from `first` to `last`, page by page."""
    # Written out: the real service wants `$`, `@` and quotes as they are, and a space as %20, not as +.
    query = (
        f"?@moeda='{currency}'&@dataInicial='{first:%m-%d-%Y}'&@dataFinalCotacao='{last:%m-%d-%Y}'"
        f"&$format=json&$orderby=dataHoraCotacao%20asc&$top={PAGE_ROWS}"
    )
    skip = 0
    while True:
        answer = service.get(f"{_RESOURCE}{query}&$skip={skip}")
        if not isinstance(answer, dict) or not isinstance(answer.get("value"), list):
            raise service.unexpected("without a list `value`")
        yield from answer["value"]
        if len(answer["value"]) < PAGE_ROWS:
            return
        skip += PAGE_ROWS


def _to_row(bulletin: Any, currency: str) -> dict[str, Any] | None:
    """The bulletin as a row of `SCHEMA`, or None when it is not what the service promises."""
    try:
        kind = bulletin["tipoBoletim"]
        local = datetime.fromisoformat(bulletin["dataHoraCotacao"])
        buy, sell = _rate(bulletin["cotacaoCompra"]), _rate(bulletin["cotacaoVenda"])
    except (KeyError, TypeError, ValueError):
        return None
    if not isinstance(kind, str) or not kind or local.tzinfo is not None:
        return None
    quoted_at = local.replace(tzinfo=BUSINESS_ZONE).astimezone(UTC)
    return {"currency": currency, "buy": buy, "sell": sell, "quoted_at": quoted_at, "bulletin": kind}


def _rate(value: Any) -> Decimal:
    """An exact rate.

    Raises:
        ValueError: it is no positive number that fits decimal(18, 8).
    """
    if type(value) is int:
        value = Decimal(value)
    if type(value) is not Decimal or not 0 < value < 10**10 or value != round(value, 8):
        raise ValueError("not a rate")
    return value.quantize(Decimal("1e-8"))
