"""What the policy says of an order, as a pure function of what was known: the same inputs, the same decision.

Thresholds are data (`seeds/credit_policy.csv`, `seeds/product_terms.csv`, which the warehouse reads too),
one version valid from a day until the next begins. A version says which score its thresholds are for: the
bureau's own, or that of a scorecard (`seeds/scorecard.csv`). A decision names its version and is stored with
its inputs, so it can be made again at any time.
"""

import csv
import math
from collections.abc import Iterable, Mapping
from datetime import date, datetime
from decimal import ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from functools import cache
from pathlib import Path
from typing import Literal, Protocol
from zoneinfo import ZoneInfo

import msgspec

from ml.card import Scorecard, ScorecardError
from ml.card import load as load_cards
from realtime.errors import RealtimeError
from realtime.features import Features

LOW_SCORE = "LOW_SCORE"
INCOME_COMMITMENT = "INCOME_COMMITMENT"
POLICY_LIMIT = "POLICY_LIMIT"
FRAUD_SUSPECTED = "FRAUD_SUSPECTED"
NEGATIVE_RECORD = "NEGATIVE_RECORD"
MANUAL_REVIEW = "MANUAL_REVIEW"

REASONS = {
    LOW_SCORE: "Sua pontuação de crédito está abaixo do mínimo da nossa política.",
    INCOME_COMMITMENT: "A parcela comprometeria uma parte grande demais da sua renda.",
    POLICY_LIMIT: "O valor pedido está acima do limite da nossa política para a sua renda.",
    FRAUD_SUSPECTED: "Por segurança, este pedido precisa de uma verificação adicional.",
    NEGATIVE_RECORD: "Há restrições em seu nome no bureau de crédito.",
    MANUAL_REVIEW: "Este pedido será analisado por uma pessoa.",
}
"""What each code of a reason tells the customer. The codes are those of `seeds/reason_code_mapping.csv`."""

_ZONE = ZoneInfo("America/Sao_Paulo")
_STEP = Decimal(50)  # approved amounts are whole steps


class Inputs(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that a decision looks at. No name, no CPF. Amounts are in the order's currency, income in BRL."""

    policy_version: str
    product: str
    currency: str
    requested_amount: Decimal
    term_months: int
    requested_at: datetime
    monthly_income: Decimal | None
    has_bureau_consent: bool
    bureau_score: int | None
    bureau_score_version: str | None
    bureau_queried_at: datetime | None
    bureau_negative_records: int | None
    customer_orders_24h: int
    """Other orders of the customer in the 24 hours before the request."""
    customer_amount_24h: Decimal
    """What they asked for, in the same currency."""
    device_orders_24h: int
    """Other orders from the same device in those hours, whoever made them; 0 without a device."""
    features: Features | None = None
    """What a scorecard looks at; None in decisions that were made before there was one."""


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of an order. `review`: it stays in review, for a person to decide."""

    outcome: Literal["approve", "reject", "review"]
    reasons: list[str]
    score: int | None
    model_version: str
    policy_version: str
    approved_amount: Decimal | None = None
    interest_rate: Decimal | None = None
    """Per month."""


class Scorer(Protocol):
    """A model that scores an order; a higher score is a lower risk."""

    model_version: str

    def score(self, inputs: Inputs) -> int | None:
        """The score, or None where the inputs do not suffice."""


class BureauScorer:
    """The bureau's own score."""

    model_version = "bureau-score-1"

    def score(self, inputs: Inputs) -> int | None:
        """The score that the bureau holds, if any."""
        return inputs.bureau_score


class CardScorer:
    """The lender's scorecard.

    Its `model_version` begins with `scorecard-`, which is how features know that a score is on another scale
    than the bureau's.

    Raises:
        RealtimeError: the card looks at a feature that no decision knows.
    """

    def __init__(self, card: Scorecard) -> None:
        unknown = sorted(set(card.features) - set(Features.__struct_fields__))
        if unknown:
            raise RealtimeError(
                f"scorecard {card.scorecard_version} looks at {', '.join(unknown)}, which no decision knows:"
                " train it without"
            )
        self._card = card
        self.model_version = f"scorecard-{card.scorecard_version}"

    def score(self, inputs: Inputs) -> int | None:
        """The card's score; None where the bureau has said nothing, which is for a person to decide.

        Raises:
            RealtimeError: a feature's value is in no band of the card.
        """
        if inputs.features is None or inputs.bureau_score is None:
            return None
        values = {name: getattr(inputs.features, name) for name in self._card.features}
        try:
            return self._card.score(values).score
        except ScorecardError:  # its text holds a value
            raise RealtimeError(f"{self.model_version} has no band for a feature of this order") from None


class Terms(msgspec.Struct, frozen=True):
    """A product under a policy. Rates are per month, for the best and the worst score."""

    policy_version: str
    product: str
    currencies: str
    min_amount: Decimal
    max_amount: Decimal
    min_term_months: int
    max_term_months: int
    best_rate: Decimal
    worst_rate: Decimal
    income_based: bool
    """Whether the customer's income limits the amount; a business has none."""


class Policy(msgspec.Struct, frozen=True):
    """One version of the thresholds."""

    policy_version: str
    valid_from: date | None
    """None: a candidate, in force on no day."""
    scorecard_version: str | None
    """Whose score the thresholds are for; None: the bureau's."""
    min_score: int
    review_margin: int
    """So near to min_score, on either side, a person decides."""
    max_commitment: Decimal
    """Of the income, by the instalment."""
    max_income_multiple: Decimal
    min_approved_share: Decimal
    """Less than this share of what was asked is no offer."""
    max_negative_records: int
    max_orders_24h: int
    max_device_orders_24h: int
    max_amount_24h_incomes: Decimal
    rate_mid_score: int
    """Halfway between the best and the worst rate of a product."""
    rate_score_scale: int
    """Points by which the odds of one or the other change by the factor e."""


class Policies:
    """All versions of the policy, of the terms of products, and of the scorecards.

    Raises:
        RealtimeError: a policy names a scorecard that there is not, or that cannot be used.
    """

    def __init__(
        self, policies: Iterable[Policy], terms: Iterable[Terms], cards: Mapping[str, Scorecard]
    ) -> None:
        self._policies = {p.policy_version: p for p in policies}
        self._terms = {(t.policy_version, t.product): t for t in terms}
        self._scorers: dict[str | None, Scorer] = {None: BureauScorer()}
        for policy in self._policies.values():
            name = policy.scorecard_version
            if name is not None and name not in cards:
                raise RealtimeError(
                    f"policy {policy.policy_version} rests on scorecard {name}, which scorecard.csv lacks:"
                    " put its rows back"
                )
            if name not in self._scorers:
                self._scorers[name] = CardScorer(cards[name])

    def in_force(self, at: datetime) -> Policy:
        """The policy of that moment's day in America/Sao_Paulo.

        Raises:
            RealtimeError: none was in force yet.
        """
        day = at.astimezone(_ZONE).date()
        begun = [p for p in self._policies.values() if p.valid_from is not None and p.valid_from <= day]
        if not begun:
            raise RealtimeError("no policy is in force: credit_policy.csv begins later than this request")
        return max(begun, key=lambda p: p.valid_from)

    def version(self, name: str) -> Policy:
        """The policy of this name, candidates too.

        Raises:
            RealtimeError: there is none.
        """
        try:
            return self._policies[name]
        except KeyError:
            raise RealtimeError(
                f"policy {name} is missing: put its rows back into credit_policy.csv"
            ) from None

    def scorer(self, policy: Policy) -> Scorer:
        """The model whose score the thresholds of this policy are for."""
        return self._scorers[policy.scorecard_version]

    def products(self) -> list[str]:
        """The names of everything that was ever sold."""
        return sorted({product for _, product in self._terms})

    def terms(self, version: str, product: str) -> Terms | None:
        """A product under a policy; None where it is not sold."""
        return self._terms.get((version, product))


@cache
def load_policies() -> Policies:
    """The policies of the project's seeds.

    Raises:
        RealtimeError: they do not fit together.
    """
    folder = Path(__file__).resolve().parents[1] / "seeds"

    def rows(name: str, kind: type) -> list:
        with (folder / name).open(encoding="utf-8", newline="") as file:
            return [
                msgspec.convert({name: text or None for name, text in row.items()}, kind, strict=False)
                for row in csv.DictReader(file)
            ]

    try:
        cards = load_cards(folder)
    except ScorecardError as error:
        raise RealtimeError(str(error)) from None
    return Policies(rows("credit_policy.csv", Policy), rows("product_terms.csv", Terms), cards)


def decide(inputs: Inputs, policies: Policies) -> Decision:
    """What the policy that the inputs name says of them, by the score of its own model.

    Raises:
        RealtimeError: that policy, or the product under it, is missing.
    """
    policy = policies.version(inputs.policy_version)
    terms = policies.terms(policy.policy_version, inputs.product)
    if terms is None:
        raise RealtimeError(
            f"product_terms.csv has no terms of this product under policy {policy.policy_version}: add them"
        )
    scorer = policies.scorer(policy)
    score = scorer.score(inputs)
    income = inputs.monthly_income if terms.income_based else None
    known = inputs.has_bureau_consent and score is not None and (income or not terms.income_based)
    if not known:
        return _decision("review", [MANUAL_REVIEW], score, scorer, policy)

    rate = _rate(score, policy, terms)
    amount = inputs.requested_amount
    refused = []
    if score < policy.min_score - policy.review_margin:
        refused.append(LOW_SCORE)
    if (inputs.bureau_negative_records or 0) > policy.max_negative_records:
        refused.append(NEGATIVE_RECORD)
    if income is not None:
        if amount > policy.max_income_multiple * income:
            refused.append(POLICY_LIMIT)
        share = min(
            policy.max_commitment * income / _instalment(amount, rate, inputs.term_months), Decimal(1)
        )
        if share < 1:
            amount = (inputs.requested_amount * share / _STEP).to_integral_value(ROUND_FLOOR) * _STEP
        if amount < policy.min_approved_share * inputs.requested_amount or amount <= 0:
            refused.append(INCOME_COMMITMENT)
    if refused:
        return _decision("reject", refused, score, scorer, policy)
    # Somebody may be innocent of what looks like fraud: a person decides.
    if _is_too_fast(inputs, policy, income):
        return _decision("review", [FRAUD_SUSPECTED], score, scorer, policy)
    if score < policy.min_score + policy.review_margin:
        return _decision("review", [MANUAL_REVIEW], score, scorer, policy)
    return _decision("approve", [], score, scorer, policy, amount, rate)


def _decision(
    outcome: Literal["approve", "reject", "review"],
    reasons: list[str],
    score: int | None,
    scorer: Scorer,
    policy: Policy,
    amount: Decimal | None = None,
    rate: Decimal | None = None,
) -> Decision:
    return Decision(
        outcome=outcome,
        reasons=reasons,
        score=score,
        model_version=scorer.model_version,
        policy_version=policy.policy_version,
        approved_amount=amount,
        interest_rate=rate,
    )


def _is_too_fast(inputs: Inputs, policy: Policy, income: Decimal | None) -> bool:
    total = inputs.customer_amount_24h + inputs.requested_amount
    return (
        inputs.customer_orders_24h >= policy.max_orders_24h
        or inputs.device_orders_24h >= policy.max_device_orders_24h
        or (income is not None and total > policy.max_amount_24h_incomes * income)
    )


def _rate(score: int, policy: Policy, terms: Terms) -> Decimal:
    """Between the best and the worst rate, by the score; four digits, so that floats cannot differ."""
    risk = 1 / (1 + math.exp((score - policy.rate_mid_score) / policy.rate_score_scale))
    rate = float(terms.best_rate) + float(terms.worst_rate - terms.best_rate) * risk
    return Decimal(repr(rate)).quantize(Decimal("0.0001"), ROUND_HALF_EVEN)


def _instalment(principal: Decimal, rate: Decimal, months: int) -> Decimal:
    """The constant instalment of the French system (Price)."""
    return principal * rate / (1 - (1 + rate) ** -months)
