"""What the policy decides, and what an order may say: pure functions, with examples worked out by hand."""

import csv
import json
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import msgspec
import pytest
from conftest import ROOT

from ml.card import load as load_cards
from realtime.errors import RealtimeError
from realtime.features import Features
from realtime.orders import Refusal, cpf_is_valid, read_order, read_review
from realtime.policy import REASONS, Inputs, Policies, decide, load_policies

AT = datetime(2026, 1, 1, 15, tzinfo=UTC)
GOOD = Inputs(
    policy_version="2025.1",
    product="personal_loan",
    currency="BRL",
    requested_amount=Decimal("6000.00"),
    term_months=12,
    requested_at=AT,
    monthly_income=Decimal("4000.00"),
    has_bureau_consent=True,
    bureau_score=700,
    bureau_score_version="PF-4.2",
    bureau_queried_at=AT,
    bureau_negative_records=0,
    customer_orders_24h=0,
    customer_amount_24h=Decimal(0),
    device_orders_24h=0,
)


def features(**known: object) -> Features:
    """Of `GOOD`: a customer who never asked before."""
    nothing = dict.fromkeys(Features.__struct_fields__)
    return Features(
        **nothing
        | {"prior_orders": 0, "bureau_negative_records_at_request": 0, "term_months_at_request": 12}
        | known
    )


@pytest.mark.parametrize(
    ("changes", "outcome", "reasons"),
    [
        ({}, "approve", []),
        ({"bureau_score": 495}, "review", ["MANUAL_REVIEW"]),
        ({"bureau_score": 494}, "reject", ["LOW_SCORE"]),
        ({"bureau_score": 574}, "review", ["MANUAL_REVIEW"]),
        ({"bureau_score": 575}, "approve", []),
        ({"bureau_score": None}, "review", ["MANUAL_REVIEW"]),
        ({"has_bureau_consent": False}, "review", ["MANUAL_REVIEW"]),
        ({"monthly_income": None}, "review", ["MANUAL_REVIEW"]),
        ({"bureau_negative_records": 4}, "reject", ["NEGATIVE_RECORD"]),
        ({"bureau_negative_records": 3}, "approve", []),
        # an instalment of 6,000 in 12 months at 3.36 % is 616.10: 38 % of 729.60 is 277.25, 45.0005 % of it
        ({"monthly_income": Decimal("729.60")}, "approve", []),
        ({"monthly_income": Decimal("700.00")}, "reject", ["INCOME_COMMITMENT"]),
        ({"monthly_income": Decimal("428.00")}, "reject", ["POLICY_LIMIT", "INCOME_COMMITMENT"]),
        ({"customer_orders_24h": 2}, "approve", []),
        ({"customer_orders_24h": 3}, "review", ["FRAUD_SUSPECTED"]),
        ({"device_orders_24h": 4}, "review", ["FRAUD_SUSPECTED"]),
        ({"customer_amount_24h": Decimal("114000.01")}, "review", ["FRAUD_SUSPECTED"]),
        ({"customer_amount_24h": Decimal("114000.00")}, "approve", []),
        ({"product": "working_capital", "monthly_income": None}, "approve", []),
        ({"policy_version": "2024.1", "bureau_score": 530}, "approve", []),
    ],
)
def test_the_policy_decides(changes: dict, outcome: str, reasons: list[str]) -> None:
    decision = decide(msgspec.structs.replace(GOOD, **changes), load_policies())

    assert (decision.outcome, decision.reasons) == (outcome, reasons)
    assert (decision.approved_amount is None) == (outcome != "approve")


def test_an_approval_fits_the_income() -> None:
    inputs = msgspec.structs.replace(GOOD, monthly_income=Decimal("1000.00"))

    decision = decide(inputs, load_policies())

    # 2.49 % to 6.49 % by 1 / (1 + e^(90 / 70)); 380 of 616.10 a month, in steps of 50
    assert decision.interest_rate == Decimal("0.0336")
    assert decision.approved_amount == Decimal("3700")


def test_a_policy_holds_from_its_first_day_in_brazil() -> None:
    policies = load_policies()

    assert policies.in_force(datetime(2025, 4, 30, 2, tzinfo=UTC)).policy_version == "2024.2"
    assert policies.in_force(datetime(2025, 4, 30, 3, tzinfo=UTC)).policy_version == "2025.1"
    with pytest.raises(RealtimeError, match="no policy is in force"):
        policies.in_force(datetime(2023, 12, 31, tzinfo=UTC))


def test_a_candidate_is_asked_by_its_name_and_never_in_force() -> None:
    policies = load_policies()

    assert policies.version("2026.1-candidate").valid_from is None
    assert policies.in_force(datetime(2099, 1, 1, tzinfo=UTC)).valid_from is not None
    candidate = msgspec.structs.replace(GOOD, policy_version="2026.1-candidate", bureau_score=580)
    assert decide(candidate, policies).outcome == "review"


def test_a_policy_that_rests_on_a_scorecard_decides_by_its_points() -> None:
    policies = load_policies()
    policy = policies.in_force(AT)
    assert policy.scorecard_version == "2026.1"
    # 590 base points, 12 months -4, and of the bureau's 700: 15, no negative record: 1, no earlier score: 0
    inputs = msgspec.structs.replace(
        GOOD, policy_version=policy.policy_version, features=features(bureau_score_at_request=700)
    )

    decision = decide(inputs, policies)

    assert (decision.outcome, decision.score, decision.model_version) == (
        "approve",
        602,
        "scorecard-2026.1",
    )
    # 2.49 % to 6.49 % by 1 / (1 + e^((602 - 581) / 25))
    assert decision.interest_rate == Decimal("0.0370")


def test_what_was_said_before_moves_the_scorecard_and_nothing_of_the_bureau_is_for_a_person() -> None:
    policies = load_policies()
    inputs = msgspec.structs.replace(GOOD, policy_version="2026.1")

    def decided(bureau_score: int | None, **known: object) -> tuple[str, int | None]:
        looked_at = features(bureau_score_at_request=bureau_score, **known)
        decision = decide(
            msgspec.structs.replace(inputs, bureau_score=bureau_score, features=looked_at), policies
        )
        return decision.outcome, decision.score

    assert decided(700, prior_risk_score_mean=800.0) == ("approve", 639)
    assert decided(500, prior_risk_score_mean=400.0) == ("reject", 536)
    assert decided(None) == ("review", None)
    assert decide(msgspec.structs.replace(inputs, features=None), policies).outcome == "review"


def test_a_scorecard_that_cannot_be_used_stops_everything_at_once() -> None:
    policies = load_policies()
    policy = policies.version("2026.1")
    card = load_cards()["2026.1"]
    odd = replace(card, bands=(*card.bands, replace(card.bands[0], feature="shoe_size")))

    with pytest.raises(RealtimeError, match=r"rests on scorecard 2026\.1, which scorecard\.csv lacks"):
        Policies([policy], [], {})
    with pytest.raises(RealtimeError, match="looks at shoe_size, which no decision knows"):
        Policies([policy], [], {"2026.1": odd})


def test_every_reason_is_a_word_of_the_warehouse() -> None:
    with (ROOT / "seeds/reason_code_mapping.csv").open(encoding="utf-8") as file:
        assert set(REASONS) == {row["source_value"] for row in csv.DictReader(file)}


def test_every_product_is_one_of_the_warehouse() -> None:
    with (ROOT / "seeds/product_mapping.csv").open(encoding="utf-8") as file:
        assert set(load_policies().products()) <= {row["source_value"] for row in csv.DictReader(file)}


ORDER = {
    "order_id": "0b8f1f6e-5a43-4be4-8a11-0c9f3e6f2d10",
    "cpf": "52998224725",
    "product": "personal_loan",
    "currency": "BRL",
    "requested_amount": "1500.00",
    "term_months": 12,
}


def read(order: object) -> object:
    policies = load_policies()
    body = order if isinstance(order, bytes) else json.dumps(order).encode()
    return read_order(body, policies, policies.in_force(AT))


@pytest.mark.parametrize("amount", ["1500.00", 1500, 1500.5, "800", "25000.00"])
def test_an_order_is_read(amount: object) -> None:
    assert read(ORDER | {"requested_amount": amount}).requested_amount == Decimal(str(amount))


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"cpf": "52998224724"}, "/cpf"),
        ({"cpf": "11111111111"}, "/cpf"),
        ({"cpf": "529.982.247-25"}, "/cpf"),
        ({"cpf": "٥٢٩٩٨٢٢٤٧٢٥"}, "/cpf"),
        ({"cpf": 52998224725}, "/cpf"),
        ({"order_id": "x"}, "/order_id"),
        ({"product": "yacht_loan"}, "/product"),
        ({"product": "Personal\x00"}, "/product"),
        ({"currency": "USD"}, "/currency"),
        ({"requested_amount": "NaN"}, "/requested_amount"),
        ({"requested_amount": "Infinity"}, "/requested_amount"),
        ({"requested_amount": "-1500"}, "/requested_amount"),
        ({"requested_amount": "1500.001"}, "/requested_amount"),
        ({"requested_amount": "1E+400000"}, "/requested_amount"),
        ({"requested_amount": "1E-400000"}, "/requested_amount"),
        ({"requested_amount": "799.99"}, "/requested_amount"),
        ({"requested_amount": "25000.01"}, "/requested_amount"),
        ({"term_months": 5}, "/term_months"),
        ({"term_months": 25}, "/term_months"),
        ({"term_months": 12.5}, "/term_months"),
        ({"purpose": "Ana's wedding"}, "/purpose"),
        ({"metadata": {"channel": "carrier pigeon"}}, "/metadata/channel"),
        ({"metadata": {"device_id": "a b"}}, "/metadata/device_id"),
        ({"full_name": "Ana"}, ""),
    ],
)
def test_a_bad_order_is_refused_at_its_field(changes: dict, pointer: str) -> None:
    with pytest.raises(Refusal) as refused:
        read(ORDER | changes)

    assert (refused.value.status, refused.value.pointer) == (422, pointer)
    assert not any(str(value) in refused.value.detail for value in changes.values() if value != "x")


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000, b'{"cpf": "\\ud800"}'])
def test_what_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(Refusal) as refused:
        read(body)

    assert refused.value.status in (400, 422)


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"reason": "CPF 529.982.247-25 belongs to somebody else"}, "/reason"),
        ({"reason": "ask ana@example.com about it"}, "/reason"),
        ({"reason": "short"}, "/reason"),
        ({"outcome": "maybe"}, "/outcome"),
        ({"approved_amount": None}, "/approved_amount"),
        ({"reason_codes": ["LOW_SCORE"]}, "/reason_codes"),
        ({"interest_rate": "1.5"}, "/interest_rate"),
        ({"outcome": "reject"}, "/reason_codes"),
        ({"outcome": "reject", "reason_codes": ["UGLY"]}, "/reason_codes"),
        ({"outcome": "reject", "reason_codes": ["LOW_SCORE"]}, "/approved_amount"),
    ],
)
def test_a_bad_review_is_refused_at_its_field(changes: dict, pointer: str) -> None:
    good = {
        "review_id": "6f7f3f0a-95c1-43cb-b0b3-7a8e1d0a9c11",
        "outcome": "approve",
        "reason": "the income was proven by payslips",
        "approved_amount": "1000.00",
        "interest_rate": "0.03",
    }
    assert read_review(json.dumps(good).encode(), set(REASONS)).outcome == "approve"

    with pytest.raises(Refusal) as refused:
        read_review(json.dumps(good | changes).encode(), set(REASONS))

    assert (refused.value.status, refused.value.pointer) == (422, pointer)


def test_check_digits_of_a_cpf() -> None:
    assert cpf_is_valid("52998224725")
    wrong = [str(number) for number in range(52998224700, 52998224800) if number != 52998224725]
    assert not any(map(cpf_is_valid, wrong))
