"""The page: figures as SVG in one HTML file that needs nothing else."""

import html
import re
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import altair as alt
import jinja2
import vl_convert
from markupsafe import Markup

from reporting.charts import Report

_TEMPLATE = Path(__file__).with_name("page.html")
# What is no data takes its colours from the page, which knows whether it is light or dark.
_CONFIG = {
    "background": None,
    "padding": {"left": 8, "right": 12, "top": 5, "bottom": 5},
    "font": "Arial, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelFontSize": 13,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "domain": False,
        "ticks": False,
        "labelPadding": 6,
    },
    "legend": {"labelFontSize": 13, "symbolSize": 80},
}


def render(report: Report, world: str) -> str:
    """The page as HTML."""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["cell"] = _cell
    # Vega escapes what it draws
    figures = [(figure, Markup(_svg(figure.chart, figure.title))) for figure in report.figures]  # noqa: S704
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    return template.render(report=report, figures=figures, world=world)


def picture(report: Report) -> bytes:
    """The figures of money and risk side by side, as a PNG on white."""
    shown = [f for f in report.figures if f.title.startswith(("Net cash", "Vintages"))]
    both = alt.hconcat(*(f.chart.properties(title=f.title) for f in shown)).resolve_scale(
        color="independent", strokeDash="independent"
    )
    spec = _spec(both) | {"background": "white"}
    return vl_convert.vegalite_to_png(spec, scale=1.5)


def _spec(chart: alt.TopLevelMixin) -> dict[str, Any]:
    return chart.to_dict() | {"config": _CONFIG}


def _svg(chart: alt.TopLevelMixin, title: str) -> str:
    """A chart as an SVG that fills the width it is given and is read out by its title."""
    fitted = _spec(chart) | {"autosize": {"type": "fit", "contains": "padding"}}
    svg = vl_convert.vegalite_to_svg(fitted)
    svg = re.sub(r'\s(?:width|height)="[\d.]+"', "", svg, count=2)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(title)}" ', 1)


def _cell(value: Any) -> str:
    """A value of a table."""
    if value is None:
        return "–"
    if isinstance(value, date):
        return f"{value:%Y-%m}"
    if isinstance(value, Decimal):
        return f"{value:,.2f}" if value % 1 else f"{value:,.0f}"
    if isinstance(value, float):
        return f"{100 * value:.1f} %"
    return f"{value:,}" if isinstance(value, int) else str(value)
