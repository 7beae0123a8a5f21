"""The credit marts against other means: raw files, the policy that decides in real time, the scorer in plain
Python, and what the generator alone knows of its people. Two worlds of two seeds.
"""

import csv
import math
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import cached_property
from itertools import pairwise, product
from pathlib import Path

import duckdb
import numpy as np
import pytest
from conftest import ROOT, Day, Pipeline
from test_marts import by, day_of, latest, month_of
from typer.testing import CliRunner, Result

from ml import card
from ml.card import Band, Scorecard, ScorecardError
from ml.scorecard import app
from ml.training import Orders, gini, ks, make_bands, scorecard, train
from realtime.features import Features
from realtime.policy import Inputs, decide, load_policies
from sandbox.worlds.synthetic import timeline as tl
from sandbox.worlds.synthetic.world import SyntheticWorld

DAY = timedelta(days=1)
MARTS = (
    "approval_funnel approval_funnel_by_partner refusal_reasons refusal_reasons_by_partner policy_backtest"
    " policy_backtest_by_partner scorecard_performance scorecard_stability"
).split()


@dataclass(frozen=True)
class World:
    """A built warehouse, the lake it was built from and the seed that both came from."""

    seed: int
    scale: float
    lake: Path
    warehouse: Path

    def rows(self, query: str) -> list[dict]:
        with duckdb.connect(str(self.warehouse), read_only=True) as connection:
            found = connection.sql(query)
            return [dict(zip(found.columns, row, strict=True)) for row in found.fetchall()]

    @cached_property
    def as_of(self) -> date:
        return max(
            date.fromisoformat(p.name.split("=")[1])
            for p in (self.lake / "raw/app/customers").glob("extract_date=*")
        )

    @cached_property
    def orders(self) -> list[dict]:
        return latest(self.lake, "app/credit_orders", ("order_id",), changes=True)


@pytest.fixture(scope="module")
def other_pipeline(new_pipeline) -> Pipeline:
    """The first day of another seed, built as far as the credit marts need it."""
    pipeline = new_pipeline("synthetic")
    pipeline.sandbox("up", "--scale", "0.1", "--seed", "11")
    pipeline.ingest()
    select = [f"+{name}" for name in MARTS]
    pipeline.dbt("build", "--exclude-resource-type", "test", "unit_test", "--select", *select)
    return pipeline


@pytest.fixture(scope="module", params=[7, 11])
def world(request: pytest.FixtureRequest) -> World:
    if request.param == 7:
        built: Day = request.getfixturevalue("synthetic_day2")
        return World(7, 0.1, built.lake, built.warehouse)
    pipeline: Pipeline = request.getfixturevalue("other_pipeline")
    return World(11, 0.1, pipeline.lake, pipeline.warehouse)


# ------------------------------------------------------------------ reasons of refusal


def test_refusal_reasons_are_what_the_evaluations_say(world: World) -> None:
    with (ROOT / "seeds/reason_code_mapping.csv").open(encoding="utf-8") as file:
        ours = {row["source_value"]: row["reason_code"] for row in csv.DictReader(file)}
    evaluations = by(latest(world.lake, "app/risk_evaluations", ("evaluation_id",)), "order_id")
    reasons, totals = defaultdict(list), Counter()
    for order in world.orders:
        if order["status"] != "rejected":
            continue
        place = month_of(day_of(order["decided_at"])), order["product"], order["partner_id"]
        before = [e for e in evaluations[order["order_id"]] if e["evaluated_at"] <= order["decided_at"]]
        last = max(
            before, key=lambda e: (e["evaluated_at"], e["created_at"], e["evaluation_id"]), default=None
        )
        totals[place] += 1
        codes = [ours[code] for code in (last["reason_codes"] or [])] if last else []
        for code in codes or ["not_given"]:
            reasons[*place, code].append(len(codes) <= 1)

    found = world.rows("from marts.refusal_reasons_by_partner")
    assert {
        (r["month"], r["product"], r["partner_id"], r["reason_code"]): (
            r["orders_rejected"],
            r["orders_rejected_for_it_alone"],
            r["orders_rejected_total"],
        )
        for r in found
    } == {place: (len(alone), sum(alone), totals[place[:-1]]) for place, alone in reasons.items()}
    assert any(not alone for alones in reasons.values() for alone in alones)
    together = world.rows(
        "select month, product, reason_code, orders_rejected::int n, orders_rejected_for_it_alone::int alone,"
        " rejected_share from marts.refusal_reasons"
    )
    summed, all_rejected = Counter(), Counter()
    for (month, sold, _, code), alone in reasons.items():
        summed[month, sold, code] += len(alone)
    for (month, sold, _), orders in totals.items():
        all_rejected[month, sold] += orders
    assert {(r["month"], r["product"], r["reason_code"]): r["n"] for r in together} == summed
    for row in together:
        assert row["rejected_share"] == row["n"] / all_rejected[row["month"], row["product"]]


def test_refusals_add_up_to_the_funnel(world: World) -> None:
    for suffix, keys in (("", "month, product"), ("_by_partner", "month, product, partner_id")):
        assert world.rows(
            f"select {keys}, max(orders_rejected_total) n from marts.refusal_reasons{suffix} group by all order by all"
        ) == world.rows(
            f"select {keys}, orders_rejected n from marts.approval_funnel{suffix}"
            " where orders_rejected > 0 order by all"
        )


# ------------------------------------------------------------------ backtest of the policy


def test_a_policy_decides_the_past_as_it_decides_in_real_time(world: World) -> None:
    """`realtime.policy.decide`, on every order and version, with the orders of the day before from the raw files."""
    policies = load_policies()
    earlier = by(world.orders, "customer_id")
    with (ROOT / "seeds/credit_policy.csv").open(encoding="utf-8") as file:
        versions = [row["policy_version"] for row in csv.DictReader(file)]
    with (ROOT / "seeds/reason_code_mapping.csv").open(encoding="utf-8") as file:
        ours = {row["source_value"]: row["reason_code"] for row in csv.DictReader(file)}
    backtest = {
        (r["order_id"], r["policy_version"]): r for r in world.rows("from marts.policy_backtest_decisions")
    }
    features = {r["order_id"]: r for r in world.rows("from marts.ml_credit_risk_features")}
    raw = {order["order_id"]: order for order in world.orders}
    assert len(backtest) == len(features) * len(versions) > 5_000
    seen = Counter()
    for (order_id, version), row in backtest.items():
        known, order = features[order_id], raw[order_id]
        terms = policies.terms(version, known["product_at_request"])
        accepted = (
            terms is not None
            and known["currency_at_request"] in terms.currencies.split()
            and terms.min_amount <= known["requested_amount_at_request"] <= terms.max_amount
            and terms.min_term_months <= known["term_months_at_request"] <= terms.max_term_months
        )
        recent = [
            other
            for other in earlier[order["customer_id"]]
            if order["created_at"] - DAY < other["created_at"] < order["created_at"]
        ]
        decision = decide(
            Inputs(
                policy_version=version,
                product=known["product_at_request"],
                currency=known["currency_at_request"],
                requested_amount=known["requested_amount_at_request"],
                term_months=known["term_months_at_request"],
                requested_at=known["requested_at"].replace(tzinfo=UTC),
                monthly_income=known["monthly_income"],
                has_bureau_consent=known["has_bureau_consent_at_request"],
                bureau_score=known["bureau_score_at_request"],
                bureau_score_version=None,
                bureau_queried_at=None,
                bureau_negative_records=known["bureau_negative_records_at_request"],
                customer_orders_24h=len(recent),
                customer_amount_24h=sum(
                    (o["requested_amount"] for o in recent if o["currency"] == order["currency"]), Decimal(0)
                ),
                device_orders_24h=0,
                features=Features(**{name: known[name] for name in Features.__struct_fields__}),
            ),
            policies,
        )
        said = decision.outcome if accepted else "not_accepted"
        expected = (
            said,
            ", ".join(ours[reason] for reason in decision.reasons) or None,
            decision.approved_amount,
            decision.interest_rate,
            swap_class(said, order["status"]),
        )
        names = ("decision", "decision_reasons", "offered_amount", "offered_rate", "swap_class")
        assert tuple(row[name] for name in names) == expected, (order_id, version)
        if known["bureau_score_at_request"] is not None:
            assert row["policy_score"] == decision.score
        in_force = policies.in_force(known["requested_at"].replace(tzinfo=UTC)).policy_version == version
        assert row["is_in_force"] == in_force
        seen[said] += 1
        seen[f"{said} by points"] += decision.model_version.startswith("scorecard-")
        seen[row["swap_class"]] += 1
        seen["less than asked"] += (decision.approved_amount or math.inf) < order["requested_amount"]
        seen[row["decision_reasons"]] += 1
    assert all(seen[f"{said} by points"] > 5 for said in ("approve", "reject", "review")), seen
    cases = "approve reject review kept_approval kept_rejection swap_in swap_out to_review undecided"
    assert all(seen[case] > 5 for case in (*cases.split(), "less than asked", "policy_limit")), seen


def swap_class(said: str, status: str) -> str:
    if status not in ("approved", "rejected"):
        return "undecided"
    names = {
        ("approve", "approved"): "kept_approval",
        ("approve", "rejected"): "swap_in",
        ("reject", "approved"): "swap_out",
        ("not_accepted", "approved"): "swap_out",
        ("review", "approved"): "to_review",
        ("review", "rejected"): "to_review",
    }
    return names.get((said, status), "kept_rejection")


@pytest.mark.parametrize("suffix", ["", "_by_partner"])
def test_only_what_was_lent_is_observed_and_swap_ins_are_estimated(world: World, suffix: str) -> None:
    features = {r["order_id"]: r for r in world.rows("from marts.ml_credit_risk_features")}
    groups, bands = defaultdict(list), defaultdict(dict)
    for row in world.rows("from marts.policy_backtest_decisions"):
        known = features[row["order_id"]]
        score = known["bureau_score_at_request"]
        low = None if score is None else min(score // 50 * 50, 950)
        band = "unknown" if low is None else f"{low:03}-{1000 if low == 950 else low + 49:03}"
        due = known["label_due_on"] is not None and known["label_due_on"] <= world.as_of
        label = known["label_default"] if due else None
        key = (row["policy_version"], *([row["partner_id"]] if suffix else []), row["swap_class"], band)
        groups[key].append((label, row["requested_amount_brl"]))
        if label is not None:
            bands[band][row["order_id"]] = label
    found = world.rows(f"from marts.policy_backtest{suffix}")
    assert len(found) == len(groups)
    estimated = 0
    for row in found:
        key = (
            row["policy_version"],
            *([row["partner_id"]] if suffix else []),
            row["swap_class"],
            row["score_band"],
        )
        is_swap_in = row["swap_class"] == "swap_in"
        labels = [label for label, _ in groups[key] if label is not None]
        amounts = [amount for _, amount in groups[key]]
        if is_swap_in:
            assert labels == []
            labels = list(bands[row["score_band"]].values())
        assert row["orders"] == len(groups[key])
        assert row["requested_amount_brl"] == (None if None in amounts else sum(amounts))
        assert row["is_estimated"] == is_swap_in
        assert row["loans_behind_rate"] == len(labels)
        assert row["default_rate"] == (sum(labels) / len(labels) if labels else None)
        ends = row["default_rate_low"], row["default_rate_high"]
        if is_swap_in and labels:
            assert ends == pytest.approx(wilson(sum(labels), len(labels)), abs=1e-12)
            estimated += 1
        else:
            assert ends == (None, None)
    assert estimated > 5


def wilson(hits: int, cases: int) -> tuple[float, float]:
    """Both shares p for which (hits / cases - p) is 1.96 standard errors of p: the roots of that equation."""
    z2 = 1.96**2
    a, b, c = 1 + z2 / cases, -(2 * hits / cases + z2 / cases), (hits / cases) ** 2
    root = math.sqrt(max(b * b - 4 * a * c, 0))
    return (-b - root) / (2 * a), (-b + root) / (2 * a)


# ------------------------------------------------------------------ the scorecard


def test_python_and_sql_give_equal_points(world: World) -> None:
    cards = card.load()
    features = {r["order_id"]: r for r in world.rows("from marts.ml_credit_risk_features")}
    points = defaultdict(dict)
    for row in world.rows("from marts.credit_scorecard_points"):
        points[row["order_id"], row["scorecard_version"]][row["feature"]] = row["points"]
    scores = world.rows("from marts.credit_scorecard_scores")
    assert len(scores) == len(features) * len(cards) > 1_500
    unknown = 0
    for row in scores:
        known = features[row["order_id"]]
        expected = cards[row["scorecard_version"]].score(known)
        assert points[row["order_id"], row["scorecard_version"]] == expected.points
        assert row["score"] == expected.score
        assert row["expected_default_rate"] == pytest.approx(expected.expected_default_rate, abs=1e-6)
        reasons = [row["reason_1"], row["reason_2"], row["reason_3"]]
        assert reasons == [*expected.reasons[:3], *[None] * (3 - len(expected.reasons[:3]))]
        chosen = card.in_force(cards, row["requested_date"])
        assert row["is_in_force"] == (
            chosen is not None and chosen.scorecard_version == row["scorecard_version"]
        )
        unknown += known["bureau_score_at_request"] is None
    assert unknown > 10


def test_performance_by_vintage_is_that_of_the_pairs(world: World) -> None:
    disbursed = {o["order_id"]: o["disbursed_at"] for o in world.orders}
    vintages = defaultdict(list)
    for row in world.rows("from marts.credit_scorecard_scores where is_disbursed"):
        label = row["label_default"] if row["label_due_on"] <= world.as_of else None
        vintage = month_of(day_of(disbursed[row["order_id"]]))
        vintages[row["scorecard_version"], vintage].append((row["score"], label, row["label_due_on"]))
    found = {
        (r["scorecard_version"], r["vintage_month"]): r
        for r in world.rows("from marts.scorecard_performance")
    }
    assert found.keys() == {
        k for k, loans in vintages.items() if any(label is not None for _, label, _ in loans)
    }
    ranked = 0
    for place, row in found.items():
        loans = vintages[place]
        bads = [score for score, label, _ in loans if label is True]
        goods = [score for score, label, _ in loans if label is False]
        assert (row["loans"], row["loans_defaulted"]) == (len(bads) + len(goods), len(bads))
        assert row["is_complete"] == all(due <= world.as_of for _, _, due in loans)
        if not bads or not goods:
            assert (row["gini"], row["gini_low"], row["ks"]) == (None, None, None)
            continue
        ranked += 1
        pairs = sum((good > bad) - (good < bad) for bad, good in product(bads, goods))
        assert row["gini"] == pytest.approx(pairs / len(bads) / len(goods), abs=1e-12)
        assert row["gini_low"] <= row["gini"] <= row["gini_high"]
        distances = [
            abs(sum(b <= cut for b in bads) / len(bads) - sum(g <= cut for g in goods) / len(goods))
            for cut in {*bads, *goods}
        ]
        assert row["ks"] == pytest.approx(max(distances), abs=1e-12)
    assert ranked > 2


def test_stability_compares_months_with_the_training_period(world: World) -> None:
    (version,) = card.load().values()
    months, reference = defaultdict(list), []
    for row in world.rows("from marts.credit_scorecard_scores"):
        months[month_of(row["requested_date"])].append(row["score"])
        if version.trained_from <= row["requested_date"] <= version.trained_until:
            reference.append(row["score"])
    reference.sort()
    # the first score by which so many tenths are reached
    cuts = sorted({reference[math.ceil(len(reference) * tenth / 10) - 1] for tenth in range(1, 10)})
    expected = spread(reference, cuts)
    found = {r["month"]: r for r in world.rows("from marts.scorecard_stability")}
    assert found.keys() == months.keys()
    for month, scores in months.items():
        row, actual = found[month], spread(scores, cuts)
        index = 0
        for seen, norm in zip(actual, expected, strict=True):
            share, usual = max(seen, 0.5) / len(scores), norm / len(reference)
            index += (share - usual) * math.log(share / usual)
        assert row["stability_index"] == pytest.approx(index, abs=1e-7)
        assert (row["orders"], row["mean_score"]) == (len(scores), sum(scores) / len(scores))


def spread(scores: list[int], cuts: list[int]) -> list[int]:
    """How many scores lie in each band; a cut belongs to the band it ends."""
    counts = [0] * (len(cuts) + 1)
    for score in scores:
        counts[sum(score > cut for cut in cuts)] += 1
    return counts


def test_earlier_scores_are_those_that_the_evaluations_had_given(world: World) -> None:
    customer_of = {order["order_id"]: order["customer_id"] for order in world.orders}
    scores = defaultdict(list)
    for e in latest(world.lake, "app/risk_evaluations", ("evaluation_id",)):
        is_card = e["model_version"].startswith("scorecard-")
        if e["score"] is not None and e["order_id"] in customer_of and not is_card:
            known_at = max(e["evaluated_at"], e["created_at"]).replace(tzinfo=None)
            scores[customer_of[e["order_id"]]].append((known_at, e["score"]))
    seen = Counter()
    for row in world.rows("from marts.ml_credit_risk_features"):
        earlier = [s for known_at, s in scores[row["customer_id"]] if known_at <= row["requested_at"]]
        assert row["prior_risk_score_mean"] == (sum(earlier) / len(earlier) if earlier else None)
        seen[min(len(earlier), 2)] += 1
    assert min(seen[n] for n in range(3)) > 50


def test_the_scorecard_ranks_nearly_as_well_as_who_knows_the_risk(world: World) -> None:
    """No order of these worlds trained it; bad and good are probabilities, so that luck moves nothing.

    Nobody can rank better than by the generator's own probability of default, which knows the latent risk that no
    feature shows. Over all orders the card comes within 0.03 of that, whether the bureau's score is known or not.
    """
    generated = SyntheticWorld(world.seed, world.scale)
    orders = generated._orders
    risk = generated._people.risk[orders.customer]
    probability = default_within_a_year(risk, orders.term)
    place = {uuid: n for n, uuid in enumerate(orders.uuid.to_pylist())}
    rows = world.rows("select order_id, score from marts.credit_scorecard_scores where is_disbursed")
    index = np.array([place[r["order_id"]] for r in rows])
    score, bad = np.array([r["score"] for r in rows]), probability[index]
    assert (orders.disbursed[index] < tl.NEVER).all()
    reached, best = gini(score, bad), gini(-bad, bad)
    print(f"seed {world.seed}: Gini {reached:.4f}, of the generator's own probability {best:.4f}")
    assert reached > best - 0.03
    # no card does as well that is dealt at random
    shuffled = np.random.Generator(np.random.PCG64(1)).permutation(score)
    assert gini(shuffled, bad) < 0.1


def default_within_a_year(risk: np.ndarray, term: np.ndarray) -> np.ndarray:
    """The generator's own probability that a loan is past due for more than 90 days within 12 months.

    As `sandbox/worlds/synthetic/loans.py` draws it: an instalment is the first unpaid one with a chance that grows
    with risk and luck; only of the first nine are 91 days over by then; a third agree on a new schedule in time, and
    may stop again. What is not known of anybody, the luck, is integrated over.
    """
    luck, weight = np.polynomial.hermite_e.hermegauss(24)
    danger = 0.85 * (risk[:, None] + 0.7 * luck[None, :])
    chance, again = (np.clip(hazard * np.exp(danger), 0, 0.5) for hazard in (0.010, 0.03))
    last = np.minimum(term, 9)[:, None]
    default = np.zeros_like(chance)
    for paid in range(9):
        stops = np.where(paid < last, np.exp(-chance * paid) - np.exp(-chance * (paid + 1)), 0)
        default += stops * (0.68 + 0.32 * (1 - np.exp(-again * max(6 - paid, 0))))
    return default @ (weight / weight.sum())


# ------------------------------------------------------------------ training


def made_orders(seed: int, size: int = 4_000) -> Orders:
    """Orders whose default `driver` and `falling` explain, and `noise` does not; a tenth of `driver` is unknown."""
    random = np.random.Generator(np.random.PCG64(seed))
    driver, falling, noise = random.standard_normal((3, size))
    defaulted = random.random(size) < 1 / (1 + np.exp(2.2 - driver + 0.8 * falling))
    return Orders(
        order_id=np.array([f"{n:05}" for n in range(size)]),
        customer_id=random.integers(0, size, size),
        requested_date=np.datetime64("2024-01-01") + random.integers(0, 366, size),
        values={
            "driver": np.where(random.random(size) < 0.1, np.nan, driver),
            "falling": falling,
            "noise": noise,
        },
        defaulted=defaulted,
    )


def test_training_finds_what_drives_default_and_nothing_else() -> None:
    orders = made_orders(3)
    fit = train(orders, seed=1)
    trained = scorecard("1", None, orders, fit)
    spread_of = {
        feature: max(points) - min(points)
        for feature in trained.features
        for points in [[b.points for b in trained.bands if b.feature == feature]]
    }
    assert min(spread_of["driver"], spread_of["falling"]) > 100
    # chance may leave it a few points
    assert spread_of.get("noise", 0) < 25
    assert spread_of.keys() | fit.left_out.keys() == orders.values.keys()
    assert fit.gini_low < fit.gini < fit.gini_high
    assert fit.gini == pytest.approx(0.53, abs=0.05)
    for feature, rising in (("driver", True), ("falling", False)):
        unknown, *bands = [b for b in trained.bands if b.feature == feature]
        assert unknown.band == card.MISSING
        points = [b.points for b in bands]
        assert points == sorted(points, reverse=rising)
        assert len(set(points)) > 3
        assert bands[0].min_value is None
        assert bands[-1].max_value is None
        assert all(left.max_value == right.min_value for left, right in pairwise(bands))
        assert sum(b.orders for b in (unknown, *bands)) == len(orders)
    # the score means what it says: where it expects 5 %, about 5 % defaulted
    rows = [
        {name: None if math.isnan(v[n]) else v[n] for name, v in orders.values.items()}
        for n in range(len(orders))
    ]
    expected = sum(trained.score(row).expected_default_rate for row in rows)
    assert expected == pytest.approx(orders.defaulted.sum(), rel=0.05)


def test_the_same_orders_and_seed_make_the_same_file(tmp_path: Path) -> None:
    orders = made_orders(4, 1_500)
    texts = []
    for run in ("a", "b"):
        (tmp_path / run).mkdir()
        card.save({"1": scorecard("1", date(2026, 1, 1), orders, train(orders, seed=2))}, tmp_path / run)
        texts.append([(tmp_path / run / name).read_bytes() for name in (card.CARDS, card.POINTS)])
        read = card.load(tmp_path / run)["1"]
        assert (read.valid_from, read.orders) == (date(2026, 1, 1), 1_500)
    assert texts[0] == texts[1]


def test_too_few_defaults_are_refused() -> None:
    orders = made_orders(5, 1_000)
    kept = np.concatenate([np.flatnonzero(orders.defaulted)[:19], np.flatnonzero(~orders.defaulted)])
    with pytest.raises(ScorecardError, match=r"19 of .* needs at least 20"):
        train(orders.take(kept), seed=1)


def test_bands_of_whole_numbers_and_of_unknown_values_alone() -> None:
    defaulted = np.arange(400) % 4 == 0
    whole = make_bands("x", np.where(defaulted, 6.0, 12.0), defaulted)
    assert [(b.min_value, b.max_value, b.orders, b.defaults) for b in whole] == [
        (None, None, 0, 0),
        (None, 12.0, 100, 100),
        (12.0, None, 300, 0),
    ]
    nothing = make_bands("x", np.full(400, np.nan), defaulted)
    assert [(b.band, b.orders, b.defaults) for b in nothing] == [(0, 400, 100), (1, 0, 0)]


def test_gini_and_ks_of_five_orders() -> None:
    score, bad = np.array([500, 520, 540, 540, 600]), np.array([True, False, True, False, False])
    assert gini(score, bad) == 0.5
    assert ks(score, bad) == 0.5
    assert gini(-score, bad) == -0.5
    assert math.isnan(gini(score, np.zeros(5, bool)))


def test_a_card_scores_by_its_bands() -> None:
    bands = (
        Band("x", 0, None, None, 5, 0, 0),
        Band("x", 1, None, 10.0, -20, 0, 0),
        Band("x", 2, 10.0, None, 30, 0, 0),
    )
    made = Scorecard("1", None, date(2024, 1, 1), date(2024, 12, 31), 0, 0, 590, 600, 20.0, 40, bands)
    assert [made.score({"x": value}).score for value in (None, 9.99, Decimal("10.00"), 11)] == [
        595,
        570,
        620,
        620,
    ]
    assert made.score({"x": None}).reasons == ["x"]
    assert made.score({"x": 10}).reasons == []
    assert made.default_rate(640) == pytest.approx(1 / 41)
    with pytest.raises(ScorecardError, match="x is missing"):
        made.score({})
    with pytest.raises(ScorecardError, match="in no band"):
        replace(made, bands=bands[:2]).score({"x": 10})


def test_the_committed_card_covers_every_value() -> None:
    cards = card.load()
    assert card.in_force(cards, date(2026, 1, 1)) is not None
    assert card.in_force(cards, date(2023, 1, 1)) is None
    for version in cards.values():
        for feature in version.features:
            unknown, *bands = [b for b in version.bands if b.feature == feature]
            assert (unknown.band, bands[0].min_value, bands[-1].max_value) == (0, None, None)
            assert all(a.max_value == b.min_value for a, b in pairwise(bands))


def cli(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def test_the_command_says_what_is_wrong(synthetic_day2: Day, tmp_path: Path) -> None:
    assert "train" in cli("--help").stdout
    warehouse = ("train", "--version", "1", "--warehouse", str(synthetic_day2.warehouse))
    for arguments, said in (
        (("train", "--version", "1", "--warehouse", str(tmp_path / "none")), "run `dbt build` first"),
        (warehouse, "--allow-backfilled learns from them all the same"),
        ((*warehouse, "--valid-from", "1/1/2026"), "give it as YYYY-MM-DD"),
        ((*warehouse, "--label", "moon"), "give one of default_12m, outcome"),
        (("show", "--version", "moon"), "there is no scorecard moon"),
    ):
        done = cli(*arguments)
        assert (done.exit_code, done.stdout) == (1, ""), arguments
        assert said in done.stderr
        assert "Traceback" not in done.stderr
    assert "590 points" in cli("show").stdout


def test_a_version_is_written_once(synthetic_day2: Day, tmp_path: Path) -> None:
    train_it = (
        *("train", "--version", "x", "--warehouse", str(synthetic_day2.warehouse), "--label", "outcome"),
        *("--allow-backfilled", "--seeds", str(tmp_path)),
    )
    assert "x is written into" in cli(*train_it).stdout
    written = (tmp_path / card.POINTS).read_bytes()
    assert "already, unchanged" in cli(*train_it).stdout
    refused = cli(*train_it, "--valid-from", "2026-01-01")
    assert refused.exit_code == 1
    assert "choose a new name, or --replace" in refused.stderr
    assert (tmp_path / card.POINTS).read_bytes() == written
    assert cli(*train_it, "--valid-from", "2026-01-01", "--replace").exit_code == 0
    assert card.load(tmp_path)["x"].valid_from == datetime(2026, 1, 1).date()
