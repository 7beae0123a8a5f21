"""A scorecard as its seeds have it, and what it says of an order: no library, so that any service can score.

`seeds/scorecard.csv` has one row per version, `seeds/scorecard_points.csv` one per version, feature and band.
The warehouse scores with the same rows in SQL (`credit_scorecard_scores`) and gives the same points.
"""

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import date
from decimal import Decimal
from functools import cached_property
from pathlib import Path

SEEDS = Path(__file__).resolve().parents[1] / "seeds"
CARDS = "scorecard.csv"
POINTS = "scorecard_points.csv"
MISSING = 0
"""The number of the band of unknown values."""


class ScorecardError(Exception):
    """What is wrong with a scorecard, its data or the request, and what to do about it."""


@dataclass(frozen=True)
class Band:
    """Values from `min_value` up to but not including `max_value`; None is no bound. Band 0: unknown."""

    feature: str
    band: int
    min_value: float | None
    max_value: float | None
    points: int
    orders: int
    """Orders it was trained on."""
    defaults: int
    """How many of them defaulted."""

    def holds(self, value: float | None) -> bool:
        """Whether the value is of this band."""
        if value is None or self.band == MISSING:
            return value is None and self.band == MISSING
        above = self.min_value is None or value >= self.min_value
        return above and (self.max_value is None or value < self.max_value)


@dataclass(frozen=True)
class Score:
    """What a scorecard says of an order; a higher score is a lower risk."""

    scorecard_version: str
    score: int
    points: dict[str, int]
    """Points of each feature, in the scorecard's order; with the base points they sum to the score."""
    reasons: list[str]
    """Features that lost points against their best band, most first."""
    expected_default_rate: float


@dataclass(frozen=True)
class Scorecard:
    """One version: so many base points, and points for the band of each feature."""

    scorecard_version: str
    valid_from: date | None
    """None: a candidate, which decides nothing."""
    trained_from: date
    trained_until: date
    """First and last day of the requests it was trained on."""
    orders: int
    defaults: int
    base_points: int
    base_score: int
    """Score at which `base_odds` orders are repaid for each that defaults."""
    base_odds: float
    points_to_double_odds: int
    bands: tuple[Band, ...]

    @property
    def features(self) -> list[str]:
        """The features it looks at: columns of `ml_credit_risk_features`."""
        return list(self._bands_of)

    @cached_property
    def _bands_of(self) -> dict[str, list[Band]]:
        of: dict[str, list[Band]] = {}
        for band in self.bands:
            of.setdefault(band.feature, []).append(band)
        return of

    def score(self, values: Mapping[str, float | int | Decimal | None]) -> Score:
        """Score an order.

        Args:
            values: each of `features` as `ml_credit_risk_features` has it, None where it is unknown.

        Raises:
            ScorecardError: a feature is not in `values`, or its value is in no band.
        """
        points, lost = {}, {}
        for feature, bands in self._bands_of.items():
            if feature not in values:
                raise ScorecardError(f"{feature} is missing; give None where its value is unknown")
            value = None if values[feature] is None else float(values[feature])
            points[feature] = next((band.points for band in bands if band.holds(value)), None)
            if points[feature] is None:
                raise ScorecardError(
                    f"{feature}: {value} is in no band of scorecard {self.scorecard_version}"
                )
            lost[feature] = max(band.points for band in bands) - points[feature]
        total = self.base_points + sum(points.values())
        return Score(
            scorecard_version=self.scorecard_version,
            score=total,
            points=points,
            reasons=sorted((f for f in lost if lost[f] > 0), key=lambda f: (-lost[f], f)),
            expected_default_rate=self.default_rate(total),
        )

    def default_rate(self, score: int) -> float:
        """The share of orders of this score that is expected to default within 12 months."""
        odds = self.base_odds * math.pow(2, (score - self.base_score) / self.points_to_double_odds)
        return 1 / (1 + odds)


def load(folder: Path = SEEDS) -> dict[str, Scorecard]:
    """All versions, candidates too, by name.

    Raises:
        ScorecardError: a seed is missing or cannot be read.
    """
    points: dict[str, list[Band]] = {}
    cards = {}
    try:
        for row in _rows(folder / POINTS):
            version = row.pop("scorecard_version")
            points.setdefault(version, []).append(_typed(Band, row))
        for row in _rows(folder / CARDS):
            version = row["scorecard_version"]
            cards[version] = _typed(Scorecard, row, bands=tuple(points.get(version, ())))
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ScorecardError(
            f"the scorecard in {folder} cannot be read ({error}): train one by `python -m ml.scorecard train`"
        ) from error
    return cards


def in_force(cards: Mapping[str, Scorecard], day: date) -> Scorecard | None:
    """The version in force on a day (America/Sao_Paulo), or None before the first."""
    begun = [card for card in cards.values() if card.valid_from is not None and card.valid_from <= day]
    return max(begun, key=lambda card: card.valid_from, default=None)


def save(cards: Mapping[str, Scorecard], folder: Path = SEEDS) -> None:
    """Write both seeds anew."""
    _write(folder / CARDS, [_texts(card, without=("bands",)) for card in cards.values()])
    _write(
        folder / POINTS,
        [
            {"scorecard_version": card.scorecard_version} | _texts(band)
            for card in cards.values()
            for band in card.bands
        ],
    )


_READ = {
    str: str,
    int: int,
    float: float,
    date: date.fromisoformat,
    date | None: lambda text: date.fromisoformat(text) if text else None,
    float | None: lambda text: float(text) if text else None,
}


def _typed(kind: type, row: dict[str, str], **given: object) -> object:
    read = {
        field.name: _READ[field.type](row[field.name]) for field in fields(kind) if field.name not in given
    }
    return kind(**read, **given)


def _texts(record: object, without: tuple[str, ...] = ()) -> dict[str, str]:
    values = {f.name: getattr(record, f.name) for f in fields(record) if f.name not in without}
    return {name: "" if value is None else _text(value) for name, value in values.items()}


def _text(value: object) -> str:
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _write(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
