"""What a partner may ask for: the body of an order, decoded and checked."""

import re
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec

from realtime.policy import Policies, Policy

MAX_BODY = 16_384  # bytes

_Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9_]{0,39}\Z")]
_Code = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,64}\Z")]


class Refusal(Exception):
    """A request that is answered with a problem (RFC 9457). Its texts name fields and never hold a value."""

    def __init__(
        self,
        status: int,
        kind: str,
        detail: str,
        pointer: str | None = None,
        wait: int | None = None,
        allow: str | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.kind = kind
        self.detail = detail
        self.pointer = pointer
        """JSON pointer of the field at fault."""
        self.wait = wait
        """Seconds after which to ask again."""
        self.allow = allow
        """The method that is allowed instead."""


class Amount(Decimal):
    """A decimal as JSON: a text of digits with or without a point, or a number."""


class Metadata(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Where the order came from."""

    channel: Literal["app", "web", "partner_api"] | None = None
    device: Literal["android", "ios", "desktop"] | None = None
    device_id: _Code | None = None
    campaign: _Code | None = None


class OrderRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A customer's request for credit."""

    order_id: UUID
    cpf: Annotated[str, msgspec.Meta(pattern=r"^[0-9]{11}\Z", description="11 digits of a CPF, checked")]
    product: _Name
    currency: Annotated[str, msgspec.Meta(pattern=r"^[A-Z]{3}\Z")]
    requested_amount: Amount
    term_months: Annotated[int, msgspec.Meta(ge=1, le=600)]
    purpose: _Name | None = None
    metadata: Metadata = Metadata()


class ReviewRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a person decided about an order that they reviewed."""

    review_id: UUID
    outcome: Literal["approve", "reject"]
    reason: Annotated[
        str,
        msgspec.Meta(min_length=10, max_length=500, pattern=r"^[^\u0000]*\Z", description="No personal data"),
    ]
    reason_codes: Annotated[list[str], msgspec.Meta(max_length=6)] = []
    approved_amount: Amount | None = None
    interest_rate: Amount | None = None


def _to_amount(kind: type, value: Any) -> Amount:
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        return Amount(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return Amount(repr(value))
    raise ValueError("Expected a decimal")


_DIGITS = re.compile(r"[0-9]{1,20}(\.[0-9]{1,20})?", re.ASCII)
_ORDER = msgspec.json.Decoder(OrderRequest, dec_hook=_to_amount)
_REVIEW = msgspec.json.Decoder(ReviewRequest, dec_hook=_to_amount)
_PATH = re.compile(r" - at `\$(.*)`\Z")
_QUOTED = re.compile(r"['`].*['`]", re.DOTALL)
_PERSONAL = re.compile(r"[^\s@]+@[^\s@]+|[0-9]{3}\.?[0-9]{3}\.?[0-9]{3}-?[0-9]{2}", re.ASCII)
_MONEY = 2  # digits after the point


def read_order(body: bytes, policies: Policies, policy: Policy) -> OrderRequest:
    """The order in `body`, under the policy in force.

    Raises:
        Refusal: it is none, or asks for what is not sold.
    """
    order = _decode(_ORDER, body)
    if not cpf_is_valid(order.cpf):
        raise _invalid("/cpf", "the check digits do not fit")
    terms = policies.terms(policy.policy_version, order.product)
    if terms is None:
        raise _invalid("/product", "there is no such product")
    if order.currency not in terms.currencies.split():
        raise _invalid("/currency", f"this product is sold in {terms.currencies.replace(' ', ', ')}")
    _check_money("/requested_amount", order.requested_amount)
    if not terms.min_amount <= order.requested_amount <= terms.max_amount:
        raise _invalid("/requested_amount", f"must be from {terms.min_amount} to {terms.max_amount}")
    if not terms.min_term_months <= order.term_months <= terms.max_term_months:
        raise _invalid("/term_months", f"must be from {terms.min_term_months} to {terms.max_term_months}")
    return order


def read_review(body: bytes, codes: set[str]) -> ReviewRequest:
    """The review in `body`; `codes` are the reasons there are.

    Raises:
        Refusal: it is none.
    """
    review = _decode(_REVIEW, body)
    if _PERSONAL.search(review.reason):
        raise _invalid("/reason", "must not hold a CPF or an e-mail address")
    if not codes.issuperset(review.reason_codes) or len(set(review.reason_codes)) < len(review.reason_codes):
        raise _invalid("/reason_codes", f"each must be one of {', '.join(sorted(codes))}, once")
    if review.outcome == "reject":
        if not review.reason_codes:
            raise _invalid("/reason_codes", "a refusal needs a reason")
        if review.approved_amount is not None or review.interest_rate is not None:
            raise _invalid("/approved_amount", "a refusal has no amount and no rate")
        return review
    if review.reason_codes:
        raise _invalid("/reason_codes", "an approval has none")
    if review.approved_amount is None or review.interest_rate is None:
        raise _invalid("/approved_amount", "an approval needs approved_amount and interest_rate")
    _check_money("/approved_amount", review.approved_amount)
    rate = review.interest_rate
    if not rate.is_finite() or not 0 <= rate < 1 or rate.as_tuple().exponent < -6:
        raise _invalid("/interest_rate", "must be from 0 to 1 a month, with at most 6 decimals")
    return review


def cpf_is_valid(cpf: str) -> bool:
    """Whether 11 digits are a CPF: not all the same, and the last two follow from the nine before."""
    if cpf == cpf[0] * 11:
        return False
    a, b, c, d, e, f, g, h, i, first, second = map(int, cpf)
    total = 10 * a + 9 * b + 8 * c + 7 * d + 6 * e + 5 * f + 4 * g + 3 * h + 2 * i
    if total * 10 % 11 % 10 != first:
        return False
    # every weight is one more here
    total += a + b + c + d + e + f + g + h + i + 2 * first
    return total * 10 % 11 % 10 == second


def _decode(decoder: msgspec.json.Decoder, body: bytes) -> Any:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        text = str(error)
        path = _PATH.search(text)
        pointer = re.sub(r"[.\[]+", "/", path[1].replace("]", "")) if path else ""
        # msgspec repeats the values of enumerations
        raise _invalid(pointer, _QUOTED.sub("…", _PATH.sub("", text))) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Refusal(400, "malformed", "the body is not JSON") from None
    except RecursionError:
        raise Refusal(400, "malformed", "the body is nested too deeply") from None


def _check_money(pointer: str, amount: Decimal) -> None:
    if not amount.is_finite() or amount <= 0 or amount >= Decimal(10) ** 12:
        raise _invalid(pointer, "must be a positive amount")
    if -amount.as_tuple().exponent > _MONEY:
        raise _invalid(pointer, "must have at most two decimals")


def _invalid(pointer: str, detail: str) -> Refusal:
    return Refusal(422, "invalid", detail, pointer)
