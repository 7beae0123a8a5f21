"""The central bank's PTAX service: the resource `CotacaoMoedaPeriodo` in the format of the real one.

Rates are a random walk, the same for a seed whatever is asked and however far the world has come.
As in reality the closing rate is the mean of the day's four windows, other currencies are quoted
through the dollar, and there is no bulletin on weekends and bank holidays.
"""

import re
from datetime import date, datetime
from functools import lru_cache
from threading import Lock
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote

import numpy as np

from sandbox.third_party.answers import Answer, Refusal
from sandbox.worlds.risk import mix, noise

PATH = (
    "/olinda/servico/PTAX/versao/v1/odata/"
    "CotacaoMoedaPeriodo(moeda=@moeda,dataInicial=@dataInicial,dataFinalCotacao=@dataFinalCotacao)"
)
FIRST_DAY = date(2023, 12, 1)
BULLETINS = ("Abertura", "Intermediário", "Intermediário", "Intermediário", "Fechamento")

_CONTEXT = "https://was-p.bcnet.bcb.gov.br/olinda/servico/PTAX/versao/v1/odata$metadata#_CotacaoMoedaPeriodo"
_OPENING_HOURS = np.array([10, 11, 12, 13])
_DOLLAR = 4.9191  # reais, on the first day
_SPREAD = 0.0006


class _Currency(NamedTuple):
    """`quote` A: units of the currency per dollar; B: dollars per unit."""

    quote: str
    parity: float
    daily_move: float
    decimals: int = 4


_CURRENCIES = {
    "USD": _Currency("B", 1.0, 0.0),
    "EUR": _Currency("B", 1.0885, 0.0045),
    "GBP": _Currency("B", 1.2665, 0.0045),
    "AUD": _Currency("B", 0.6645, 0.006),
    "CAD": _Currency("A", 1.3531, 0.004),
    "CHF": _Currency("A", 0.8745, 0.0045),
    "CZK": _Currency("A", 22.3480, 0.005, decimals=5),
    "JPY": _Currency("A", 147.5200, 0.006, decimals=5),
}


class Ptax:
    """The service of one world; thread-safe."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._lock = Lock()
        self._sheets: dict[tuple[str, int], _Sheet] = {}

    def answer(self, world_date: date, query: str) -> Answer:
        """The bulletins a query string asks for, none after `world_date`.

        Raises:
            Refusal: the query is malformed.
        """
        wanted = parse_query(query)
        rows: list[str] = []
        last = min(wanted.last, world_date)
        if wanted.currency in _CURRENCIES and wanted.first <= last:
            sheet = self._sheet(wanted.currency, world_date.year)
            begin = np.searchsorted(sheet.days, np.datetime64(wanted.first), side="left")
            end = np.searchsorted(sheet.days, np.datetime64(last), side="right")
            rows = sheet.rows[begin * len(BULLETINS) : end * len(BULLETINS)]
            if wanted.descending:
                rows = rows[::-1]
            rows = rows[wanted.skip :]
            rows = rows if wanted.top is None else rows[: wanted.top]
        return _answer(wanted, rows)

    def _sheet(self, currency: str, year: int) -> "_Sheet":
        with self._lock:
            if (currency, year) not in self._sheets:
                self._sheets[currency, year] = _quote(self._seed, currency, year)
            return self._sheets[currency, year]


class Query(NamedTuple):
    """What a request asks for."""

    currency: str
    first: date
    last: date
    top: int | None
    skip: int
    descending: bool


def parse_query(query: str) -> Query:
    """Read an OData query string.

    Raises:
        Refusal: a parameter is missing, malformed or not supported.
    """
    given = dict(parse_qsl(query, keep_blank_values=True))
    known = {"@moeda", "@dataInicial", "@dataFinalCotacao", "$format", "$top", "$skip", "$orderby"}
    if not given.keys() <= known:
        raise Refusal(400, f"only these parameters are supported: {', '.join(sorted(known))}")
    if given.get("$format", "json") != "json":
        raise Refusal(400, "$format must be json")
    order = given.get("$orderby", "dataHoraCotacao").split()
    if order[:1] != ["dataHoraCotacao"] or order[1:] not in ([], ["asc"], ["desc"]):
        raise Refusal(400, "$orderby must be dataHoraCotacao, asc or desc")
    return Query(
        currency=_quoted(given, "@moeda"),
        first=_date(given, "@dataInicial"),
        last=_date(given, "@dataFinalCotacao"),
        top=_count(given, "$top"),
        skip=_count(given, "$skip") or 0,
        descending=order[1:] == ["desc"],
    )


def no_data(query: str) -> Answer:
    """What the service says about a time or a currency it has no bulletin of."""
    return _answer(parse_query(query), [])


def is_path(path: str) -> bool:
    """Whether a request's path, percent-encoded or not, is that of the service."""
    return unquote(path) == PATH


def _answer(query: Query, rows: list[str]) -> Answer:
    body = f'{{"@odata.context":"{_CONTEXT}","value":[{",".join(rows)}]}}'
    period = f"{query.first:%Y-%m-%d}..{query.last:%Y-%m-%d}"
    return Answer(200, body.encode(), note=f"period={period} skip={query.skip} rows={len(rows)}")


def _quoted(given: dict[str, str], name: str) -> str:
    match = re.fullmatch(r"'([^']*)'", given.get(name, ""))
    if match is None:
        raise Refusal(400, f"{name} must be given in single quotes")
    return match[1]


def _date(given: dict[str, str], name: str) -> date:
    text = _quoted(given, name)
    try:
        if re.fullmatch(r"\d\d-\d\d-\d{4}", text, re.ASCII):
            return datetime.strptime(text, "%m-%d-%Y").date()
    except ValueError:
        pass
    raise Refusal(400, f"{name} must be a date in the form 'MM-DD-YYYY'")


def _count(given: dict[str, str], name: str) -> int | None:
    text = given.get(name)
    if text is None:
        return None
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII):
        raise Refusal(400, f"{name} must be a whole number, 0 or more")
    return int(text)


class _Sheet(NamedTuple):
    """A currency's bulletins: five JSON objects in `rows` for each of `days`."""

    days: np.ndarray
    rows: list[str]


@lru_cache(maxsize=8)
def business_days(year: int) -> np.ndarray:
    """Days with a bulletin from FIRST_DAY to the end of `year`."""
    import holidays  # 0.1 to 0.3 s to load, so only once somebody asks for a rate

    closed = holidays.financial_holidays("BVMF", years=range(FIRST_DAY.year, year + 1))
    # The exchange also rests on 24 December and the year's last business day; the central bank does not.
    closed_days = np.array([d for d in closed if d.month != 12 or d.day == 25], dtype="M8[D]")
    days = np.arange(FIRST_DAY, date(year + 1, 1, 1), dtype="M8[D]")
    return days[np.is_busday(days, holidays=closed_days)]


def _quote(seed: int, currency: str, year: int) -> _Sheet:
    days = business_days(year)
    number = days.astype(np.int64)
    dollar = _windows(seed, number, _DOLLAR, daily_move=0.009, walk=1)
    buy = np.round(np.column_stack([dollar, dollar.mean(axis=1)]), 4)
    sell = buy + _SPREAD
    how = _CURRENCIES[currency]
    if currency == "USD":
        parity_buy = parity_sell = np.ones_like(buy)
    else:
        walk = 100 + sorted(_CURRENCIES).index(currency) * 10
        parity = _windows(seed, number, how.parity, how.daily_move, walk)
        parity_buy = np.round(np.column_stack([parity, parity.mean(axis=1)]), 4)
        parity_sell = np.round(parity_buy * 1.0002, 4)
        if how.quote == "B":
            buy, sell = buy * parity_buy, sell * parity_sell
        else:
            buy, sell = buy / parity_sell, sell / parity_buy
    columns = [
        a.ravel().tolist()
        for a in (parity_buy, parity_sell, buy.round(how.decimals), sell.round(how.decimals))
    ]
    labels = BULLETINS * len(days)
    rows = [
        # Five decimals, trailing zeros included, as the real service writes them.
        f'{{"paridadeCompra":{pb:.4f},"paridadeVenda":{ps:.4f},"cotacaoCompra":{b:.5f},"cotacaoVenda":{s:.5f},'
        f'"dataHoraCotacao":"{at}","tipoBoletim":"{label}"}}'
        for pb, ps, b, s, at, label in zip(*columns, _publication_times(seed, days), labels, strict=True)
    ]
    return _Sheet(days, rows)


def _windows(seed: int, number: np.ndarray, start: float, daily_move: float, walk: int) -> np.ndarray:
    """Rates of the four windows of each day. Products, not powers: the same bits on every machine."""
    daily = start * np.cumprod(1 + daily_move * noise(seed, number, walk))
    within = noise(seed, number[:, None], np.arange(walk + 1, walk + 5))
    return daily[:, None] * (1 + daily_move * 0.25 * within)


def _publication_times(seed: int, days: np.ndarray) -> list[str]:
    """Local times: a few minutes into each window, the closing right after the last one."""
    salt = mix(np.uint64(seed % 2**64) ^ mix(np.arange(4, dtype=np.uint64)))
    delay = mix(days.astype(np.uint64)[:, None] ^ salt) % np.uint64(480_000)
    opening = _OPENING_HOURS * 3_600_000 + 120_000 + delay.astype(np.int64)
    moments = days[:, None].astype("M8[ms]") + np.column_stack([opening, opening[:, 3] + 4])
    texts = np.datetime_as_string(moments.ravel()).tolist()
    return [_without_zeros(t.replace("T", " ")) for t in texts]


def _without_zeros(text: str) -> str:
    """The real service drops trailing zeros of a fraction but keeps one digit."""
    whole, _, fraction = text.partition(".")
    return f"{whole}.{fraction.rstrip('0') or '0'}"
