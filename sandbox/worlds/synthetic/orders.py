"""Credit orders: who asks, what the score says, what the policy decides."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from sandbox.worlds.base import SCHEMAS
from sandbox.worlds.synthetic import columns as col
from sandbox.worlds.synthetic import timeline as tl
from sandbox.worlds.synthetic import vocabulary as words
from sandbox.worlds.synthetic.people import _PARTNERS, People, choose

_ORDERS = 20_000
IN_REVIEW, APPROVED, REJECTED, CANCELLED = range(4)
STATUSES = ["in_review", "approved", "rejected", "cancelled"]

# (name, first day, score from which it approves): the policy was tightened twice.
_POLICIES = [("2024.1", 0, 490), ("2024.2", 244, 520), ("2025.1", 485, 535)]
_GRAY_ZONE = 40
_LARGEST_COMMITMENT = 0.38  # of the income, by the instalment

LOW_SCORE, COMMITMENT, LIMIT, FRAUD, NEGATIVE = 1, 2, 4, 8, 16
_REASONS = {
    LOW_SCORE: "LOW_SCORE",
    COMMITMENT: "INCOME_COMMITMENT",
    LIMIT: "POLICY_LIMIT",
    FRAUD: "FRAUD_SUSPECTED",
    NEGATIVE: "NEGATIVE_RECORD",
}
_REASON_LISTS = [
    "{" + ",".join(name for bit, name in _REASONS.items() if mask & bit) + "}" for mask in range(32)
] + ["{MANUAL_REVIEW}"]
_IN_REVIEW_REASON = 32


def price_instalment(principal: np.ndarray, rate: np.ndarray, months: np.ndarray) -> np.ndarray:
    """The constant instalment of the French system (Price), in whole cents."""
    return np.rint(principal * rate / (1 - (1 + rate) ** -months.astype(float))).astype(np.int64)


@dataclass
class Orders:
    """Every order ever made, by time of creation, with the times of all that happens to it.

    `NEVER` is the time of what does not happen. Money is in cents, rates in millionths.
    """

    uuid: pa.Array
    customer: np.ndarray
    partner: np.ndarray
    product: np.ndarray
    purpose: np.ndarray
    currency: np.ndarray
    requested: np.ndarray
    approved: np.ndarray
    iof: np.ndarray
    fee: np.ndarray
    term: np.ndarray
    rate: np.ndarray
    outcome: np.ndarray
    policy: np.ndarray
    metadata: pa.Array
    created: np.ndarray
    decided: np.ndarray  # approval or rejection
    cancelled: np.ndarray
    disbursed: np.ndarray
    manual: np.ndarray
    evaluated: np.ndarray
    score: np.ndarray
    reasons: np.ndarray

    def __len__(self) -> int:
        return len(self.created)

    def table(
        self,
        index: np.ndarray,
        cutoff: np.ndarray,
        status: np.ndarray,
        repayment: pa.Array,
        updated: np.ndarray,
    ) -> pa.Table:
        """These orders just before `cutoff` (one per row), given what the transitions say of them."""
        decided = self.decided[index] < cutoff
        approved = decided & (self.outcome[index] == APPROVED)
        disbursed = self.disbursed[index] < cutoff
        take = pa.array(index)
        purposes = sorted({purpose for product in words.PRODUCTS for purpose in product.purposes})
        return pa.table(
            [
                self.uuid.take(take),
                col.ints(self.customer[index] + 1),
                col.texts(self.partner[index], _PARTNERS),
                col.texts(self.product[index], [product.name for product in words.PRODUCTS]),
                col.texts(self.purpose[index], purposes),
                col.texts(self.currency[index], words.CURRENCIES),
                col.money(self.requested[index]),
                col.money(self.approved[index], approved),
                col.money(self.approved[index], disbursed),
                col.money(self.iof[index], disbursed),
                col.money(self.fee[index], approved),
                col.ints(self.term[index], 32),
                col.rate(self.rate[index], approved),
                col.texts(status, STATUSES),
                col.times(self.decided[index], decided),
                col.texts(np.where(decided, self.policy[index], -1), [policy[0] for policy in _POLICIES]),
                col.times(self.disbursed[index], disbursed),
                repayment,
                self.metadata.take(take),
                col.times(self.created[index]),
                col.times(updated),
            ],
            schema=SCHEMAS["credit_orders"],
        )


def make_orders(rng: np.random.Generator, people: People, scale: float) -> Orders:
    """Generates orders and their decisions."""
    customer, created = _arrivals(rng, people, scale)
    size = len(customer)
    product = choose(rng, np.array([product.weight for product in words.PRODUCTS]), size)
    # The exporters' partner brings exporters; nobody else does so often.
    exporter = (people.partner[customer] == _PARTNERS.index("exporta-sul")) & (rng.random(size) < 0.4)
    product[exporter] = choose(rng, np.array([3, 2]), int(exporter.sum())) + 5

    def of_product(field: str) -> np.ndarray:
        return np.array([getattr(item, field) for item in words.PRODUCTS])[product]

    income = people.income[customer, 0].astype(float)
    business = of_product("business")
    wanted = income * of_product("incomes") * np.exp(0.55 * rng.standard_normal(size))
    wanted = np.clip(wanted, of_product("smallest") * 100, of_product("largest") * 100)
    requested = np.maximum(np.rint(wanted / 5_000), 1).astype(np.int64) * 5_000  # steps of 50.00
    # Long terms go with large amounts.
    terms = [product.terms for product in words.PRODUCTS]
    size_rank = np.clip(np.log(wanted / (of_product("smallest") * 100)) / 3.5, 0, 0.999)
    pick = np.clip(0.5 * size_rank + 0.5 * rng.random(size), 0, 0.999)
    term_table = np.array([[item[int(step * len(item) / 60)] for step in range(60)] for item in terms])
    term = term_table[product, (pick * 60).astype(int)]

    risk = people.risk[customer]
    score = np.clip(np.rint(575 - 105 * risk + 62 * rng.standard_normal(size)), 0, 1000).astype(np.int64)
    day = tl.local_day(created)
    policy = np.searchsorted([policy[1] for policy in _POLICIES], day, side="right") - 1
    cutoff = np.array([policy[2] for policy in _POLICIES])[policy]
    best, worst = of_product("rates").T
    price = best + (worst - best) / (1 + np.exp((score - 610) / 70))
    rate = np.rint(price * 10_000).astype(np.int64) * 100

    reasons = np.where(score < cutoff, LOW_SCORE, 0)
    reasons |= np.where(rng.random(size) < 0.008, FRAUD, 0)
    reasons |= np.where((risk > 1.5) & (rng.random(size) < 0.5), NEGATIVE, 0)
    reasons |= np.where(~business & (requested > 14 * income), LIMIT, 0)
    approved, fits = _fit_income(requested, rate / 1e6, term, np.where(business, np.inf, income))
    reasons |= np.where(fits, 0, COMMITMENT)
    gray = np.abs(score - cutoff) < _GRAY_ZONE
    manual = gray | (rng.random(size) < 0.07)
    # An analyst turns some of the close cases round.
    turned = gray & (rng.random(size) < 0.3) & ((reasons | LOW_SCORE) == LOW_SCORE)
    reasons = np.where(turned, reasons ^ LOW_SCORE, reasons)

    evaluated = created + rng.integers(3 * tl.SECOND, 90 * tl.SECOND, size)
    decided = evaluated + rng.integers(2 * tl.SECOND, 30 * tl.SECOND, size)
    decided = np.where(manual, _office_decision(rng, evaluated), decided)
    wait = rng.random(size)
    cancels = rng.random(size) < np.where(manual, 0.13, 0.015)
    start = np.where(manual, evaluated + 2 * tl.MINUTE, created)
    stop = np.where(manual, decided, evaluated)
    cancelled = np.where(cancels, start + (wait * (stop - start) * 0.95).astype(np.int64) + 1, tl.NEVER)
    decided = np.where(cancels, tl.NEVER, decided)
    outcome = np.where(cancels, CANCELLED, np.where(reasons == 0, APPROVED, REJECTED))
    currency = np.where(of_product("foreign"), np.where(rng.random(size) < 0.7, 1, 2), 0)
    fee = np.rint(approved * np.round(rng.uniform(0, 0.03, size), 3) / 10).astype(np.int64) * 10
    iof_days = np.minimum(term * 30, 365)
    iof = np.where(currency == 0, np.rint(approved * (0.0038 + 0.000082 * iof_days)), 0).astype(np.int64)
    return Orders(
        uuid=col.uuids(rng, size),
        customer=customer,
        partner=people.partner[customer],
        product=product,
        purpose=_purposes(rng, product),
        currency=currency,
        requested=requested,
        approved=approved,
        iof=iof,
        fee=fee,
        term=term,
        rate=rate,
        outcome=outcome,
        policy=policy,
        metadata=_metadata(rng, size),
        created=created,
        decided=decided,
        cancelled=cancelled,
        disbursed=_disbursement(rng, decided, outcome),
        manual=manual,
        evaluated=np.where(cancelled < evaluated, tl.NEVER, evaluated),
        score=score,
        reasons=reasons,
    )


def _arrivals(rng: np.random.Generator, people: People, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """A first order soon after joining, for most; then more, at each customer's own pace."""
    size = len(people)
    business = tl.business(growing=False)
    joined = business[tl.local_day(people.created)]
    first = np.flatnonzero(rng.random(size) < 0.86)
    soon = rng.exponential(1.3 * tl.DAY, len(first)) * (rng.random(len(first)) < 0.5)
    first_at = people.created[first] + soon.astype(np.int64)
    first_at += rng.integers(6 * tl.MINUTE, 40 * tl.MINUTE, len(first))

    history_end = business[tl.HISTORY_DAYS]
    pace = rng.gamma(1.6, 1 / 1.6, size)
    exposure = np.maximum(history_end - joined, 0)
    wanted = _ORDERS * scale - (first_at < tl.end_of(tl.FIRST_DATE)).sum()
    pace *= max(wanted, 0) / exposure.sum()
    count = rng.poisson(pace * (business[-1] - joined))
    again = np.repeat(np.arange(size), count)
    position = joined[again] + rng.random(len(again)) * (business[-1] - joined[again])
    day = np.searchsorted(business, position, side="right") - 1
    again_at = tl.at(np.minimum(day, tl.DAYS - 1), tl.app_time(rng, len(again)))
    again_at = np.maximum(again_at, people.created[again] + rng.integers(tl.HOUR, 3 * tl.HOUR, len(again)))

    customer = np.concatenate([first, again])
    created = np.concatenate([first_at, again_at])
    order = np.argsort(created, kind="stable")
    return customer[order], created[order]


def _fit_income(
    requested: np.ndarray, rate: np.ndarray, term: np.ndarray, income: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Amount whose instalment fits the income, and whether that is enough of what was asked."""
    instalment = price_instalment(requested, rate, term)
    share = np.minimum(_LARGEST_COMMITMENT * income / instalment, 1)
    approved = np.where(share < 1, np.floor(requested * share / 5_000) * 5_000, requested).astype(np.int64)
    fits = approved >= 0.45 * requested
    return np.where(fits, approved, requested), fits


def _office_decision(rng: np.random.Generator, evaluated: np.ndarray) -> np.ndarray:
    """When a person decides: in office hours of the same or one of the next working days."""
    size = len(evaluated)
    day = tl.local_day(evaluated)
    early = evaluated - tl.at(day, 0) < 14 * tl.HOUR
    same = early & (tl.weekday(day) < 5) & (rng.random(size) < 0.55)
    later = day + 1 + np.minimum(rng.exponential(0.6, size), 2).astype(np.int64)
    later += np.array([0, 0, 0, 0, 0, 2, 1])[tl.weekday(later)]
    at_office = tl.at(later, rng.integers(9 * tl.HOUR, 18 * tl.HOUR, size))
    opening = np.maximum(evaluated, tl.at(day, 9 * tl.HOUR))
    return np.where(same, opening + rng.integers(20 * tl.MINUTE, 4 * tl.HOUR, size), at_office)


def _disbursement(rng: np.random.Generator, decided: np.ndarray, outcome: np.ndarray) -> np.ndarray:
    """Money goes out within two days, unless the customer never takes it."""
    size = len(decided)
    taken = (outcome == APPROVED) & (rng.random(size) > 0.03)
    approved = np.where(taken, decided, 0)
    days = choose(rng, np.array([45, 40, 15]), size)
    soon = approved + rng.integers(10 * tl.MINUTE, 3 * tl.HOUR, size)
    later = tl.at(tl.local_day(approved) + days, rng.integers(8 * tl.HOUR, 17 * tl.HOUR, size))
    return np.where(taken, np.where(days == 0, soon, later), tl.NEVER)


def _purposes(rng: np.random.Generator, product: np.ndarray) -> np.ndarray:
    names = sorted({purpose for item in words.PRODUCTS for purpose in item.purposes})
    codes = [[names.index(purpose) for purpose in item.purposes] for item in words.PRODUCTS]
    draw = rng.random(len(product))
    table = np.array([[item[int(step * len(item) / 60)] for step in range(60)] for item in codes])
    return np.where(rng.random(len(product)) < 0.04, -1, table[product, (draw * 60).astype(int)])


def _metadata(rng: np.random.Generator, size: int) -> pa.Array:
    texts = []
    for channel in words.CHANNELS:
        for device in words.DEVICES:
            for campaign in words.CAMPAIGNS:
                source = "" if campaign is None else f', "campaign": "{campaign}"'
                texts.append(f'{{"channel": "{channel}", "device": "{device}"{source}}}')
    weights = np.outer(np.outer([6, 3, 2], [6, 3, 2]).ravel(), [5, 3, 3, 2, 1]).ravel()
    return col.texts(choose(rng, weights, size), texts)


@dataclass
class Evaluations:
    """Risk evaluations in order of creation."""

    uuid: pa.Array
    order: np.ndarray
    analyst: np.ndarray
    score: np.ndarray
    decision: np.ndarray
    reasons: np.ndarray
    latency: np.ndarray
    policy: np.ndarray
    evaluated: np.ndarray
    created: np.ndarray

    def table(self, index: np.ndarray, order_uuids: pa.Array) -> pa.Table:
        """These evaluations; they never change."""
        analyst = self.analyst[index]
        score = self.score[index]
        policies = [policy[0] for policy in _POLICIES]
        raw = [
            None
            if by_hand
            else f'{{"score": {value}, "band": "{"ABCDE"[4 - min(value // 200, 4)]}", "ms": {ms}}}'
            for by_hand, value, ms in zip(
                analyst.tolist(), score.tolist(), self.latency[index].tolist(), strict=True
            )
        ]
        return pa.table(
            [
                self.uuid.take(pa.array(index)),
                order_uuids.take(pa.array(self.order[index])),
                col.texts(analyst.astype(np.int8), ["scorecard", "credit_desk"]),
                col.texts(
                    np.where(analyst, 3, self.policy[index]),
                    [f"behaviour-{name}" for name in policies] + ["manual"],
                ),
                col.ints(score, 32, ~analyst),
                col.texts(self.decision[index], ["approve", "reject", "review"]),
                col.texts(self.reasons[index], _REASON_LISTS),
                col.ints(self.latency[index], 32, ~analyst),
                pa.array(raw, pa.string()),
                col.times(self.evaluated[index]),
                col.times(self.created[index]),
            ],
            schema=SCHEMAS["risk_evaluations"],
        )


def make_evaluations(rng: np.random.Generator, orders: Orders) -> Evaluations:
    """One automatic evaluation of each order, and a second one where a person decided."""
    automatic = np.flatnonzero(orders.evaluated < tl.NEVER)
    by_hand = np.flatnonzero(orders.manual & (orders.decided < tl.NEVER))
    order = np.concatenate([automatic, by_hand])
    analyst = np.concatenate([np.zeros(len(automatic), bool), np.ones(len(by_hand), bool)])
    size = len(order)
    latency = np.clip(np.exp(5.9 + 0.5 * rng.standard_normal(size)), 60, 1_900).astype(np.int64)
    before = rng.integers(20 * tl.SECOND, 8 * tl.MINUTE, size)
    evaluated = np.where(analyst, orders.decided[order] - before, orders.evaluated[order])
    created = evaluated + np.where(analyst, 1, latency) * 1_000
    review = orders.manual[order] & ~analyst
    decision = np.where(review, 2, (orders.reasons[order] != 0).astype(np.int64))
    reasons = np.where(review, _IN_REVIEW_REASON, orders.reasons[order])
    by_time = np.argsort(created, kind="stable")
    parts = (order, analyst, orders.score[order], decision, reasons, latency, orders.policy[order], evaluated)
    return Evaluations(col.uuids(rng, size), *(part[by_time] for part in (*parts, created)))
