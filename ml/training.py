"""Makes a scorecard of labelled orders: bands from the data, weight of evidence, logistic regression, points.

Siddiqi, "Credit Risk Scorecards" (2006), is the source of the method: weight of evidence, information value,
and points by base odds and points to double the odds.
"""

import math
from dataclasses import dataclass, replace
from datetime import date

import numpy as np

from ml.card import MISSING, Band, Scorecard, ScorecardError

BASE_SCORE, BASE_ODDS, POINTS_TO_DOUBLE_ODDS = 600, 20.0, 40
_QUANTILES = 20
_DEFAULTS_PER_QUANTILE = 5
"""Few defaults make few bands: with one or two in each, points would be those of chance."""
_FOLDS = 5
_FEWEST_DEFAULTS = 20
_LEAST_INFORMATION = 0.01
"""Information value below which a feature is left out, beyond what chance alone gives it."""
_BOOTSTRAPS = 1_000


@dataclass(frozen=True)
class Orders:
    """Labelled orders, one per row, ordered by `order_id`; arrays of equal length."""

    order_id: np.ndarray
    customer_id: np.ndarray
    requested_date: np.ndarray
    """datetime64[D]."""
    values: dict[str, np.ndarray]
    """Feature → float64, NaN where unknown."""
    defaulted: np.ndarray
    """bool."""

    def __len__(self) -> int:
        return len(self.defaulted)

    def take(self, rows: np.ndarray) -> "Orders":
        """These rows of them."""
        return Orders(
            self.order_id[rows],
            self.customer_id[rows],
            self.requested_date[rows],
            {name: column[rows] for name, column in self.values.items()},
            self.defaulted[rows],
        )


@dataclass(frozen=True)
class Fit:
    """What training found: points per band, and how well they rank orders they have not seen."""

    bands: tuple[Band, ...]
    base_points: int
    left_out: dict[str, str]
    """Feature → why it has no points."""
    gini: float
    gini_low: float
    gini_high: float
    """95 % of bootstrap samples lie between these."""
    ks: float


def train(orders: Orders, seed: int) -> Fit:
    """Fit a scorecard to all orders, and measure it by five-fold cross-validation.

    The orders of a customer are in one fold, so nobody is scored by points that their own loans have shaped.

    Raises:
        ScorecardError: too few orders defaulted, or no feature tells good from bad.
    """
    defaults = int(orders.defaulted.sum())
    if min(defaults, len(orders) - defaults) < _FEWEST_DEFAULTS:
        raise ScorecardError(
            f"{defaults} of {len(orders)} labelled orders defaulted; a scorecard needs at least"
            f" {_FEWEST_DEFAULTS} that did and {_FEWEST_DEFAULTS} that did not"
        )
    random = np.random.Generator(np.random.PCG64(seed))
    bands, base_points, left_out = _fit(orders)
    if not bands:
        raise ScorecardError(
            f"no feature tells the {defaults} defaults from the rest of {len(orders)} orders"
        )
    customers, customer = np.unique(orders.customer_id, return_inverse=True)
    fold = (random.permutation(len(customers)) % _FOLDS)[customer]
    unseen = np.zeros(len(orders))
    for number in range(_FOLDS):
        rest_bands, rest_base, _ = _fit(orders.take(np.flatnonzero(fold != number)))
        here = np.flatnonzero(fold == number)
        unseen[here] = points(rest_bands, rest_base, orders.take(here))
    low, high = _interval(unseen, orders.defaulted, customer, random)
    return Fit(
        bands=bands,
        base_points=base_points,
        left_out=left_out,
        gini=gini(unseen, orders.defaulted),
        gini_low=low,
        gini_high=high,
        ks=ks(unseen, orders.defaulted),
    )


def scorecard(name: str, valid_from: date | None, orders: Orders, fit: Fit) -> Scorecard:
    """The scorecard that a fit makes."""
    return Scorecard(
        scorecard_version=name,
        valid_from=valid_from,
        trained_from=orders.requested_date.min().item(),
        trained_until=orders.requested_date.max().item(),
        orders=len(orders),
        defaults=int(orders.defaulted.sum()),
        base_points=fit.base_points,
        base_score=BASE_SCORE,
        base_odds=BASE_ODDS,
        points_to_double_odds=POINTS_TO_DOUBLE_ODDS,
        bands=fit.bands,
    )


def gini(score: np.ndarray, bad: np.ndarray) -> float:
    """How well a score ranks, from 0 (by chance) to 1: 2 AUC - 1, ties counted by half.

    Args:
        score: higher is a lower risk.
        bad: which orders are bad, or the probability of each that it is.

    Returns:
        NaN where there is no bad order, or no good one.
    """
    _, place = np.unique(score, return_inverse=True)
    return _gini(np.bincount(place, bad), np.bincount(place, 1 - np.asarray(bad, float)))


def _gini(bads: np.ndarray, goods: np.ndarray) -> float:
    """The same, from how many are bad and good at each score, the lowest first."""
    pairs = bads.sum() * goods.sum()
    if not pairs:
        return math.nan
    return float(1 - 2 * (bads * (np.cumsum(goods) - goods / 2)).sum() / pairs)


def _interval(
    score: np.ndarray, bad: np.ndarray, customer: np.ndarray, random: np.random.Generator
) -> tuple[float, float]:
    """Between which 95 % of the Ginis of bootstrap samples lie.

    Customers are drawn, not orders: the loans of one person share its risk.
    """
    _, place = np.unique(score, return_inverse=True)
    customers = int(customer.max()) + 1
    drawn = []
    for _ in range(_BOOTSTRAPS):
        times = np.bincount(random.integers(0, customers, customers), minlength=customers)[customer]
        drawn.append(_gini(np.bincount(place, times * bad), np.bincount(place, times * ~bad)))
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def ks(score: np.ndarray, bad: np.ndarray) -> float:
    """Kolmogorov-Smirnov: the largest distance between the distributions of bad and good scores."""
    _, place = np.unique(score, return_inverse=True)
    bads, goods = np.bincount(place, bad), np.bincount(place, ~bad)
    return float(np.abs(np.cumsum(bads) / bads.sum() - np.cumsum(goods) / goods.sum()).max())


def points(bands: tuple[Band, ...], base_points: int, orders: Orders) -> np.ndarray:
    """The score of each order."""
    total = np.full(len(orders), base_points)
    for band in bands:
        total[_is_in(band, orders.values[band.feature])] += band.points
    return total


def _fit(orders: Orders) -> tuple[tuple[Band, ...], int, dict[str, str]]:
    """Points per band, base points, and the features left out with the reason."""
    from sklearn.linear_model import LogisticRegression

    found, left_out = {}, {}
    for feature, values in orders.values.items():
        bands = make_bands(feature, values, orders.defaulted)
        evidence = [_evidence(band, orders) for band in bands]
        information = _information(bands, evidence, orders)
        if len(bands) < 2 + (bands[0].band == MISSING):
            left_out[feature] = "no two bands of it differ"
        elif information < _LEAST_INFORMATION:
            left_out[feature] = (
                f"information value {information:.3f} beyond chance, below {_LEAST_INFORMATION}"
            )
        else:
            found[feature] = bands, evidence
    while found:
        columns = []
        for feature, (bands, evidence) in found.items():
            column = np.zeros(len(orders))
            for band, weight in zip(bands, evidence, strict=True):
                column[_is_in(band, orders.values[feature])] = weight
            columns.append(column)
        model = LogisticRegression(C=10, tol=1e-10, max_iter=1_000)
        model.fit(np.column_stack(columns), orders.defaulted)
        weights = dict(zip(found, model.coef_[0], strict=True))
        worst = min(weights, key=weights.get)
        if weights[worst] > 0:
            break
        # more evidence of default must never be worth more points
        left_out[worst] = "says nothing that the others do not say"
        del found[worst]
    if not found:
        return (), 0, left_out
    factor = POINTS_TO_DOUBLE_ODDS / math.log(2)
    scored = tuple(
        replace(b, points=round(-factor * weights[feature] * weight))
        for feature, (bands, evidence) in found.items()
        for b, weight in zip(bands, evidence, strict=True)
    )
    base = round(BASE_SCORE - factor * (math.log(BASE_ODDS) + float(model.intercept_[0])))
    return scored, base, left_out


def make_bands(feature: str, values: np.ndarray, defaulted: np.ndarray) -> tuple[Band, ...]:
    """Bands of a feature, without points: quantiles, merged until the default rate only rises or only falls.

    The direction is that of the rank correlation with default. Unknown values are band 0, always there: an
    order can be scored whose value is unknown, though that of no order of the training data was.
    """
    known = ~np.isnan(values)
    cuts = _cuts(values[known], min(_QUANTILES, int(defaulted.sum()) // _DEFAULTS_PER_QUANTILE))
    place = np.searchsorted(cuts, values[known], side="right")
    orders = np.bincount(place, minlength=len(cuts) + 1).astype(float)
    bad = np.bincount(place, defaulted[known], minlength=len(cuts) + 1)
    rising = gini(-values[known], defaulted[known]) >= 0 if known.any() else True
    groups: list[list[float]] = []  # first quantile, orders, defaults
    for number in range(len(orders)):
        groups.append([number, orders[number], bad[number]])
        while len(groups) > 1 and not _in_order(groups[-2], groups[-1], rising):
            _, more, worse = groups.pop()
            groups[-1][1] += more
            groups[-1][2] += worse
    starts = [int(group[0]) for group in groups]
    bounds = [None, *(float(cuts[start - 1]) for start in starts[1:]), None]
    missing = int((~known).sum()), int(defaulted[~known].sum())
    return (
        Band(feature, MISSING, None, None, 0, *missing),
        *(
            Band(feature, n, bounds[n - 1], bounds[n], 0, int(group[1]), int(group[2]))
            for n, group in enumerate(groups, start=1)
        ),
    )


def _cuts(values: np.ndarray, quantiles: int) -> np.ndarray:
    """Bounds between quantiles, rounded to four digits: people read them. No quantile is empty."""
    if not len(values) or quantiles < 2:
        return np.array([])
    raw = np.quantile(values, np.linspace(0, 1, quantiles + 1)[1:-1], method="higher")
    cuts = np.unique([float(f"{cut:.4g}") for cut in raw])
    filled = np.bincount(np.searchsorted(cuts, values, side="right"), minlength=len(cuts) + 1)
    while (filled == 0).any():
        cuts = np.delete(cuts, max(int(np.flatnonzero(filled == 0)[0]) - 1, 0))
        filled = np.bincount(np.searchsorted(cuts, values, side="right"), minlength=len(cuts) + 1)
    return cuts


def _in_order(left: list[float], right: list[float], rising: bool) -> bool:
    """Whether two neighbours differ, in the right direction."""
    difference = right[2] * left[1] - left[2] * right[1]
    return difference > 0 if rising else difference < 0


def _evidence(band: Band, orders: Orders) -> float:
    """Weight of evidence of default: ln(share of the defaults / share of the rest); 0 where nobody was.

    Half an order of the average kind is added, so that no band is infinitely bad or good.
    """
    if not band.orders:
        return 0.0
    rate = orders.defaulted.mean()
    bad = (band.defaults + 0.5 * rate) / (orders.defaulted.sum() + 0.5 * rate)
    good = (band.orders - band.defaults + 0.5 * (1 - rate)) / ((~orders.defaulted).sum() + 0.5 * (1 - rate))
    return math.log(bad / good)


def _information(bands: tuple[Band, ...], evidence: list[float], orders: Orders) -> float:
    """Information value of a feature, less what chance is expected to give so many bands."""
    bads, goods = orders.defaulted.sum(), (~orders.defaulted).sum()
    value = sum(
        (b.defaults / bads - (b.orders - b.defaults) / goods) * weight
        for b, weight in zip(bands, evidence, strict=True)
    )
    filled = sum(band.orders > 0 for band in bands)
    return float(value - (filled - 1) * (1 / bads + 1 / goods))


def _is_in(band: Band, values: np.ndarray) -> np.ndarray:
    if band.band == MISSING:
        return np.isnan(values)
    low = -np.inf if band.min_value is None else band.min_value
    high = np.inf if band.max_value is None else band.max_value
    return (values >= low) & (values < high)
