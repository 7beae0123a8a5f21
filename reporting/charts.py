"""What the page shows: questions to the marts, and a chart of each answer."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any

import altair as alt
import duckdb

WIDTH, HEIGHT = 400, 270
# Told apart in print, by the colour-blind, and on light and dark ground.
COLORS = ["#2f7ed8", "#e0762f", "#2a9d74", "#b25fc9", "#c94a55", "#8a8f98"]
# From the oldest to the newest.
AGES = ["#8a8f98", "#7a86c8", "#2f7ed8", "#2596ab", "#2a9d74", "#c2a01f", "#e0762f", "#c94a55"]
RISKS = {
    "low": "#2a9d74",
    "medium": "#d9a227",
    "high": "#e0762f",
    "late": "#c94a55",
    "defaulted": "#8d2a3a",
    "unknown": "#8a8f98",
}


@dataclass(frozen=True)
class Figure:
    """One chart, the numbers behind it, and what to think of them."""

    title: str
    term_pt: str
    note: str
    columns: list[str]
    rows: list[tuple]
    chart: alt.TopLevelMixin


@dataclass(frozen=True)
class Report:
    """All figures, with the few numbers that come first."""

    as_of: date
    currency: str
    headlines: list[tuple[str, str, str]]
    """(what, value, beside it)."""
    figures: list[Figure]


def read(connection: duckdb.DuckDBPyConnection) -> Report | None:
    """Ask the marts; a question without an answer has no figure. None if no money ever moved.

    Args:
        connection: A warehouse that dbt built.

    Raises:
        duckdb.Error: A mart is absent.
    """
    asker = _Asker(connection)
    main = asker.rows(
        "select currency, max(month) from marts.monthly_cash_flow"
        " group by 1 order by sum(disbursed_amount) desc limit 1"
    )
    if not main:
        return None
    (currency, last_month) = main[0]
    as_of = (asker.rows("select max(as_of_date) from marts.customer_360") or [(last_month,)])[0][0]
    figures = [
        figure
        for make in (
            _net_cash_flow,
            _in_and_out,
            _approval,
            _reasons,
            _vintages,
            _exposure,
            _funnel,
            _segments,
        )
        if (figure := make(asker, currency))
    ]
    return Report(as_of or last_month, currency, list(_headlines(asker, currency)), figures)


class _Asker:
    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection

    def rows(self, sql: str, *values: object) -> list[tuple]:
        return self._connection.execute(sql, list(values)).fetchall()


def short(amount: Decimal | float | None) -> str:
    """An amount in thousands or millions: 1.23 M."""
    if amount is None:
        return "–"
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(amount) >= size:
            return f"{float(amount) / size:,.2f} {unit}"
    return f"{float(amount):,.0f}"


def percent(share: float | None) -> str:
    """A fraction in percent, or a dash."""
    return "–" if share is None else f"{100 * share:.1f} %"


def _headlines(asker: _Asker, currency: str) -> Iterator[tuple[str, str, str]]:
    for month, net, received in asker.rows(
        "select month, net_cash_flow, received_amount from marts.ml_cash_flow_forecast"
        " where currency = ? and net_cash_flow is not null order by month desc limit 1",
        currency,
    ):
        yield f"Net cash flow, {month:%b %Y}", short(net), f"received {short(received)} {currency}"
    for month, net, low, high in asker.rows(
        "select month, net_cash_flow_forecast, net_cash_flow_low, net_cash_flow_high"
        " from marts.ml_cash_flow_forecast where currency = ? and net_cash_flow is null"
        " and net_cash_flow_forecast is not null order by month limit 1",
        currency,
    ):
        yield f"Forecast, {month:%b %Y}", short(net), f"80 %: {short(low)} to {short(high)}"
    for rate, decided in asker.rows(
        "select cast(sum(orders_approved) as double) / sum(orders_approved + orders_rejected),"
        " sum(orders_approved + orders_rejected) from marts.approval_funnel"
        " group by month having sum(orders_approved + orders_rejected) > 0 order by month desc limit 1"
    ):
        yield "Approval rate, last month", percent(rate), f"of {decided:,} decisions"
    for overdue, outstanding in asker.rows(
        "select sum(overdue_amount), sum(outstanding_amount) from marts.scr_monthly_position"
        " where currency = ? and month = (select max(month) from marts.scr_monthly_position)",
        currency,
    ):
        if outstanding:
            yield "Outstanding", short(outstanding), f"overdue {short(overdue)} {currency}"


# ------------------------------------------------------------------ figures


def _months(format: str = "%b %y") -> alt.X:
    # A month is its first day in UTC: in the reader's time zone it would be the evening before.
    return alt.X(
        "month:T",
        title=None,
        scale=alt.Scale(type="utc"),
        axis=alt.Axis(format=format, tickCount=6, grid=False),
    )


def _data(columns: list[str], rows: list[tuple]) -> alt.InlineData:
    def plain(value: Any) -> Any:
        return (
            value.isoformat()
            if isinstance(value, date)
            else float(value)
            if isinstance(value, Decimal)
            else value
        )

    return alt.InlineData([dict(zip(columns, map(plain, row), strict=True)) for row in rows])


def _sized(chart: alt.TopLevelMixin) -> alt.TopLevelMixin:
    return chart.properties(width=WIDTH, height=HEIGHT)


def _color(field: str, **more: Any) -> alt.Color:
    legend = alt.Legend(title=None, orient="top", columns=3)
    return alt.Color(f"{field}:N", legend=legend, **({"scale": alt.Scale(range=COLORS)} | more))


def _net_cash_flow(asker: _Asker, currency: str) -> Figure | None:
    columns = ["month", "net", "forecast", "low", "high"]
    rows = asker.rows(
        "select month, net_cash_flow, net_cash_flow_forecast, net_cash_flow_low, net_cash_flow_high"
        " from marts.ml_cash_flow_forecast where currency = ? order by month desc limit 24",
        currency,
    )[::-1]
    if not rows:
        return None
    data = _data(columns, rows)
    band = (
        alt.Chart(data)
        .mark_area(opacity=0.22, color=COLORS[1])
        .encode(x=_months(), y=alt.Y("low:Q", title=None, axis=alt.Axis(format="~s")), y2="high:Q")
    )
    lines = (
        alt.Chart(data)
        .transform_fold(["net", "forecast"], ["what", "value"])
        .transform_filter("isValid(datum.value)")
        .mark_line(strokeWidth=2)
        .encode(
            x=_months(),
            y=alt.Y("value:Q", title=None),
            color=_color("what", scale=alt.Scale(domain=["net", "forecast"], range=COLORS[:2])),
            strokeDash=alt.StrokeDash(
                "what:N", legend=None, scale=alt.Scale(domain=["net", "forecast"], range=[[1, 0], [5, 3]])
            ),
        )
    )
    scores = asker.rows(
        "select distinct beats_baseline, mean_absolute_error, baseline_mean_absolute_error, months_compared"
        " from marts.ml_cash_flow_forecast where currency = ?",
        currency,
    )
    beats, ours, theirs, compared = scores[0]
    note = "There is not yet a year to compare the forecast with."
    if compared:
        verdict = "better" if beats else "no better"
        note = (
            f"Over {compared} months the forecast, made a month before, was {verdict} than taking the same"
            f" month of the year before: mean error {short(ours)} against {short(theirs)} {currency}."
            " Shaded: the 80 % interval."
        )
    return Figure(
        f"Net cash flow and its forecast, {currency}",
        "fluxo de caixa projetado",
        note,
        columns,
        rows,
        _sized(band + lines),
    )


def _in_and_out(asker: _Asker, currency: str) -> Figure | None:
    columns = ["month", "received", "disbursed", "overdue"]
    rows = asker.rows(
        "select month, received_amount, disbursed_amount, overdue_amount"
        " from marts.monthly_cash_flow where currency = ? order by month desc limit 24",
        currency,
    )[::-1]
    if not rows:
        return None
    chart = (
        alt.Chart(_data(columns, rows))
        .transform_fold(columns[1:], ["what", "value"])
        .transform_filter("isValid(datum.value)")
        .mark_line(strokeWidth=2)
        .encode(
            x=_months(),
            y=alt.Y("value:Q", title=None, axis=alt.Axis(format="~s")),
            color=_color("what", sort=columns[1:]),
        )
    )
    note = (
        "Overdue is the unpaid part of instalments that were due at each month's end; the last month runs"
        " until today."
    )
    return Figure(
        f"Received, disbursed, overdue, {currency}", "fluxo de caixa", note, columns, rows, _sized(chart)
    )


def _approval(asker: _Asker, currency: str) -> Figure | None:
    columns = ["month", "decided", "approved", "approval_rate"]
    rows = asker.rows(
        "select month, sum(orders_approved + orders_rejected), sum(orders_approved),"
        " cast(sum(orders_approved) as double) / sum(orders_approved + orders_rejected)"
        " from marts.approval_funnel group by 1 having sum(orders_approved + orders_rejected) > 0"
        " order by 1 desc limit 24"
    )[::-1]
    if not rows:
        return None
    chart = (
        alt.Chart(_data(columns, rows))
        .mark_line(strokeWidth=2, point=alt.OverlayMarkDef(size=18, color=COLORS[0]), color=COLORS[0])
        .encode(
            x=_months(),
            y=alt.Y("approval_rate:Q", title=None, axis=alt.Axis(format="%"), scale=alt.Scale(domain=[0, 1])),
        )
    )
    note = "Approved of all that were approved or rejected, by the month of the decision."
    return Figure("Approval rate", "taxa de aprovação", note, columns, rows, _sized(chart))


def _reasons(asker: _Asker, currency: str) -> Figure | None:
    columns = ["reason", "orders"]
    rows = asker.rows(
        "select reasons.reason, count(*) from marts.credit_decisions"
        " cross join unnest(split(reason_codes, ', ')) as reasons (reason)"
        " where status = 'rejected' group by 1 order by 2 desc, 1 limit 10"
    )
    if not rows:
        return None
    chart = _bars(columns, rows, COLORS[4])
    note = "Reasons of refused requests; a request may have several."
    return Figure("Why we refuse", "motivos de recusa", note, columns, rows, _sized(chart))


def _bars(columns: list[str], rows: list[tuple], color: str) -> alt.Chart:
    return (
        alt.Chart(_data(columns, rows))
        .mark_bar(color=color, cornerRadiusEnd=2)
        .encode(
            y=alt.Y(f"{columns[0]}:N", title=None, sort=None, axis=alt.Axis(labelLimit=150)),
            x=alt.X(f"{columns[1]}:Q", title=None, axis=alt.Axis(format="~s", tickCount=5)),
        )
    )


def _vintages(asker: _Asker, currency: str) -> Figure | None:
    columns = ["quarter", "age", "loans", "default_rate"]
    # an age that only the older months of a quarter have reached would bend its line
    rows = asker.rows(
        """
        with
        quarters as (
            select
                date_trunc('quarter', vintage_month) as quarter_begins, months_on_book, loans, loans_defaulted
            from marts.loan_vintages
            where currency = ?
        ),
        complete as (
            select
                quarter_begins, months_on_book, sum(loans) as loans, sum(loans_defaulted) as defaulted,
                count(*) as months
            from quarters
            group by 1, 2
        )
        select
            year(quarter_begins) || ' Q' || quarter(quarter_begins), months_on_book, loans, defaulted / loans
        from complete
        qualify months = max(months) over (partition by quarter_begins)
        order by quarter_begins, months_on_book
        """,
        currency,
    )
    kept = sorted({row[0] for row in rows})[-8:]
    rows = [row for row in rows if row[0] in kept]
    if not rows:
        return None
    chart = (
        alt.Chart(_data(columns, rows))
        .mark_line(strokeWidth=2)
        .encode(
            x=alt.X(
                "age:Q",
                title="months since disbursement",
                axis=alt.Axis(grid=False, tickMinStep=1, tickCount=8),
            ),
            y=alt.Y("default_rate:Q", title=None, axis=alt.Axis(format="%")),
            color=alt.Color(
                "quarter:N",
                scale=alt.Scale(range=AGES),
                legend=alt.Legend(title=None, orient="top", columns=4),
            ),
        )
    )
    note = (
        "Share of the loans of each quarter that have ever been in default, as they grow older. Lines that"
        " rise earlier are worse."
    )
    return Figure(f"Vintages, {currency}", "safras", note, columns, rows, _sized(chart))


def _exposure(asker: _Asker, currency: str) -> Figure | None:
    columns = ["month", "currency", "exposure", "effect_of_10_percent"]
    rows = asker.rows(
        "select month, currency, exposure_amount, effect_10pct_amount from marts.fx_exposure"
        " where exposure_amount is not null"
        " and month > (select max(month) - interval 24 month from marts.fx_exposure)"
        " order by 1, 2"
    )
    if not rows:
        return None
    book, effect = asker.rows(
        "select max(book_currency), sum(effect_10pct_amount) from marts.fx_exposure"
        " where month = (select max(month) from marts.fx_exposure)"
    )[0]
    chart = (
        alt.Chart(_data(columns, rows))
        .mark_area(opacity=0.75)
        .encode(
            x=_months(),
            y=alt.Y("exposure:Q", title=None, stack=True, axis=alt.Axis(format="~s")),
            color=_color("currency"),
        )
    )
    note = (
        f"Outstanding in foreign currency, in {book}. If the currencies fall by 10 % today, {short(effect)}"
        f" {book} are lost."
    )
    return Figure("Foreign exposure", "risco cambial", note, columns, rows, _sized(chart))


def _funnel(asker: _Asker, currency: str) -> Figure | None:
    found = asker.rows(
        "select sum(sessions), sum(sessions_with_simulation), sum(sessions_with_order_started),"
        " sum(sessions_with_order_submitted), min(month), max(month) from marts.engagement_monthly"
        " where month > (select max(month) - interval 3 month from marts.engagement_monthly)"
    )
    if not found or not found[0][0]:
        return None
    *steps, first, last = found[0]
    columns = ["step", "sessions"]
    rows = list(zip(("visit", "simulation", "order begun", "order sent"), map(int, steps), strict=True))
    chart = _bars(columns, rows, COLORS[0])
    share = percent(rows[-1][1] / rows[0][1])
    note = f"Sessions from {first:%b %Y} to {last:%b %Y} by how far they came; {share} send an order."
    return Figure("From visit to order", "engajamento", note, columns, rows, _sized(chart))


def _segments(asker: _Asker, currency: str) -> Figure | None:
    columns = ["segment", "risk", "customers"]
    rows = asker.rows(
        "select segments.segment, segments.risk_segment, count(*) from marts.customer_segments as segments"
        " inner join reference.segment_rules as rules on segments.segment = rules.segment"
        " group by 1, 2, rules.priority order by rules.priority, 2"
    )
    if not rows:
        return None
    chart = (
        alt.Chart(_data(columns, rows))
        .mark_bar()
        .encode(
            y=alt.Y("segment:N", title=None, sort=list(dict.fromkeys(row[0] for row in rows))),
            x=alt.X("customers:Q", title=None, axis=alt.Axis(format="~s", tickCount=5)),
            color=_color("risk", scale=alt.Scale(domain=list(RISKS), range=list(RISKS.values()))),
            order=alt.Order("risk:N"),
        )
    )
    note = (
        "Customers by how lately, how often and how much they borrowed, and by risk; what each segment means"
        " is in the seed segment_rules."
    )
    return Figure("Segments", "segmentos", note, columns, rows, _sized(chart))
