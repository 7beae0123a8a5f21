"""Command line of the scorecard: `python -m ml.scorecard --help`."""

import contextlib
import os
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import duckdb
import numpy as np
import typer
import yaml
from rich.console import Console
from rich.table import Table

from ml import card
from ml.card import Scorecard, ScorecardError
from ml.training import Fit, Orders, scorecard, train

ROOT = Path(__file__).resolve().parents[1]

app = typer.Typer(
    help="The credit scorecard: train a version from the warehouse, show one.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_out = Console()
_err = Console(stderr=True)

Seeds = Annotated[Path, typer.Option(help="Folder of scorecard.csv and scorecard_points.csv.")]


@app.command("train")
def train_command(
    version: Annotated[str, typer.Option(help="Name of the new version, such as 2026.1.")],
    warehouse: Annotated[
        Path | None,
        typer.Option(help="DuckDB file with marts.ml_credit_risk_features; default from WAREHOUSE."),
    ] = None,
    valid_from: Annotated[
        str | None,
        typer.Option(
            help="First day it is in force (YYYY-MM-DD). Left out: a candidate, in force on no day."
        ),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(
            help="Last day on which labels were due (YYYY-MM-DD); default that of the latest request."
        ),
    ] = None,
    label: Annotated[
        str,
        typer.Option(
            help="`default_12m`: default within 12 months of disbursement. `outcome`: loans that have ended,"
            " defaulted or paid off, where the ledger is too short for the other."
        ),
    ] = "default_12m",
    allow_backfilled: Annotated[
        bool,
        typer.Option(
            "--allow-backfilled",
            help="Also learn from orders whose attributes landed only after the request, as those of a"
            " history do that was landed at once.",
        ),
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of the folds and of the bootstrap.")] = 1,
    replace: Annotated[bool, typer.Option("--replace", help="Write over a version of this name.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Report only; write nothing.")] = False,
    seeds: Seeds = card.SEEDS,
) -> None:
    """Train a version and write it into the seeds, for a person to review and commit.

    The same orders and seed give the same files. Gini and KS are those of orders that the points were not
    trained on (five-fold cross-validation by customer), with a 95 % interval by bootstrap over customers.
    """
    with _errors():
        first_day = _day(valid_from, "--valid-from")
        orders = read_orders(_warehouse(warehouse), label, _day(until, "--until"), allow_backfilled)
        with _err.status(f"training on {len(orders)} orders …"):
            fit = train(orders, seed)
        trained = scorecard(version, first_day, orders, fit)
        _report(trained, fit)
        if dry_run:
            return
        written = _add(trained, seeds, replace)
        _out.print(f"{written}: review it, then `dbt build`", soft_wrap=True, highlight=False)


@app.command()
def show(
    version: Annotated[str | None, typer.Option(help="Which version; default the last one.")] = None,
    seeds: Seeds = card.SEEDS,
) -> None:
    """Show the bands and points of a version."""
    with _errors():
        cards = card.load(seeds)
        name = version or list(cards)[-1]
        if name not in cards:
            raise ScorecardError(f"there is no scorecard {name}, only {', '.join(cards)}")
        _print(cards[name])


def features() -> list[str]:
    """The features that a scorecard may look at: `scorecard_features` of `dbt_project.yml`."""
    return yaml.safe_load((ROOT / "dbt_project.yml").read_text(encoding="utf-8"))["vars"][
        "scorecard_features"
    ]


_LABELS = {
    "default_12m": """
        select order_id, label_default as defaulted
        from marts.ml_credit_risk_features
        where label_default is not null and label_due_on <= $until
    """,
    "outcome": """
        select order_id, repayment_outcome = 'defaulted' as defaulted
        from marts.credit_decisions
        where repayment_outcome in ('defaulted', 'paid_off') and requested_date <= $until
    """,
}


def read_orders(warehouse: Path, label: str, until: date | None, allow_backfilled: bool) -> Orders:
    """Labelled orders of a DuckDB warehouse.

    A label counts from the day it is due: of younger loans only those are known that went wrong, or were
    repaid, early.

    Args:
        warehouse: a DuckDB file with the schema `marts`.
        label: a key of `_LABELS`.
        until: the last day on which labels were due; None is the day of the latest request.
        allow_backfilled: also orders whose attributes landed after the request.

    Raises:
        ScorecardError: there is no such file, mart or label, or nothing to learn from.
    """
    if label not in _LABELS:
        raise ScorecardError(f"--label is {label!r}; give one of {', '.join(_LABELS)}")
    if not warehouse.exists():
        raise ScorecardError(f"{warehouse} does not exist: run `dbt build` first, or give --warehouse")
    names = features()
    columns = ", ".join(f"cast(f.{name} as double) as {name}" for name in names)
    try:
        with duckdb.connect(str(warehouse), read_only=True) as connection:
            if until is None:
                query = "select max(requested_date) from marts.ml_credit_risk_features"
                (until,) = connection.execute(query).fetchone()
            # the names are those of dbt_project.yml, the conditions ours
            query = f"""
                select
                    f.order_id, f.customer_id, f.requested_date, f.is_backfilled, labels.defaulted, {columns}
                from marts.ml_credit_risk_features as f
                inner join ({_LABELS[label]}) as labels using (order_id)
                order by f.order_id
            """  # noqa: S608
            found = connection.execute(query, {"until": until}).fetchnumpy()
    except duckdb.Error as error:
        raise ScorecardError(f"{warehouse} has no features to read: {error}") from error
    rows = _orders(found, names)
    kept = np.ones(len(rows), bool) if allow_backfilled else ~np.asarray(found["is_backfilled"], bool)
    if len(rows) and not kept.any():
        raise ScorecardError(
            f"all of {len(rows)} labelled orders have attributes that landed after the request"
            " (is_backfilled), which may say more than was known then; --allow-backfilled learns from them"
            " all the same"
        )
    return rows.take(np.flatnonzero(kept))


def _orders(found: dict[str, Any], names: list[str]) -> Orders:
    return Orders(
        order_id=np.asarray(found["order_id"]),
        customer_id=np.asarray(found["customer_id"]),
        requested_date=np.asarray(found["requested_date"]).astype("M8[D]"),
        values={name: np.ma.filled(found[name].astype(float), np.nan) for name in names},
        defaulted=np.asarray(found["defaulted"], bool),
    )


def _add(trained: Scorecard, seeds: Path, replace: bool) -> str:
    """Write a version beside the others; says what was done."""
    cards = card.load(seeds) if (seeds / card.CARDS).exists() else {}
    name = trained.scorecard_version
    if cards.get(name) == trained:
        return f"{name} is in {seeds} already, unchanged"
    if name in cards and not replace:
        raise ScorecardError(
            f"{seeds} has another {name}; a version that has decided must stay: choose a new name, or"
            " --replace"
        )
    card.save(cards | {name: trained}, seeds)
    return f"{name} is written into {seeds / card.CARDS} and {card.POINTS}"


def _report(trained: Scorecard, fit: Fit) -> None:
    _print(trained)
    for feature, reason in fit.left_out.items():
        _out.print(f"left out: {feature} ({reason})", soft_wrap=True, highlight=False)
    _out.print(
        f"on orders it was not trained on: Gini {fit.gini:.3f} (95 %: {fit.gini_low:.3f} to"
        f" {fit.gini_high:.3f}), KS {fit.ks:.3f}",
        soft_wrap=True,
        highlight=False,
    )
    if fit.gini_low <= 0:
        _out.print("the interval holds 0: these orders cannot show that it is better than chance")


def _print(shown: Scorecard) -> None:
    in_force = f"in force from {shown.valid_from}" if shown.valid_from else "a candidate"
    name = f"scorecard {shown.scorecard_version}, {in_force}"
    table = Table(title=f"{name}: {shown.base_points} points, and of each feature")
    for name, justify in (
        ("feature", "left"),
        ("values", "left"),
        ("points", "right"),
        ("defaulted", "right"),
    ):
        table.add_column(name, justify=justify)
    previous = None
    for band in shown.bands:
        first = band.feature != previous
        previous = band.feature
        low = "" if band.min_value is None else f"from {band.min_value:g} "
        high = "" if band.max_value is None else f"below {band.max_value:g}"
        values = "unknown" if band.band == card.MISSING else (low + high).strip() or "any"
        table.add_row(
            band.feature if first else "", values, f"{band.points:+}", f"{band.defaults} of {band.orders}"
        )
    _out.print(table)
    _out.print(
        f"trained on {shown.orders} orders requested from {shown.trained_from} to {shown.trained_until}, of"
        f" which {shown.defaults} defaulted; {shown.base_score} points are odds of {shown.base_odds:g} to 1,"
        f" {shown.points_to_double_odds} more double them",
        soft_wrap=True,
        highlight=False,
    )


def _warehouse(given: Path | None) -> Path:
    if given is not None:
        return given
    world = os.environ.get("WORLD") or "synthetic"
    default = "warehouse.duckdb" if world == "synthetic" else f"warehouse-{world}.duckdb"
    return Path(os.environ.get("WAREHOUSE") or default)


def _day(text: str | None, option: str) -> date | None:
    try:
        return date.fromisoformat(text) if text else None
    except ValueError as error:
        raise ScorecardError(f"{option} is {text!r}; give it as YYYY-MM-DD") from error


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except ScorecardError as error:
        _err.print(f"error: {error}", style="red", soft_wrap=True, markup=False, highlight=False)
        raise typer.Exit(1) from error
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "sklearn":
            raise
        _err.print("error: training needs scikit-learn, which `make setup-dev` installs", style="red")
        raise typer.Exit(1) from error


if __name__ == "__main__":
    app()
