"""Which instalment a loan payment pays."""

from collections.abc import Iterable
from decimal import Decimal
from typing import NamedTuple

_WHOLE_CROWN = Decimal(1)


class Payment(NamedTuple):
    """A payment and the schedule of its loan, whose instalments are all the same."""

    payment_id: int
    loan_id: int
    amount: Decimal
    due_amount: Decimal
    installments: int


class Allocation(NamedTuple):
    """The instalment a payment went to; it settles the instalment when nothing is left to pay."""

    payment_id: int
    installment_no: int | None
    settles: bool


def allocate(payments: Iterable[Payment]) -> list[Allocation]:
    """Put each payment, in order, on the earliest unpaid instalment of its loan.

    The loan file rounds the instalment to whole crowns (3373.00) where the bank collects the exact
    amount (3372.70), so an instalment counts as paid when less than a crown is missing. Without this
    every second loan would fall one instalment behind, payment by payment. A payment after the last
    instalment belongs to none.
    """
    earliest_unpaid: dict[int, tuple[int, Decimal]] = {}
    allocations = []
    for payment in payments:
        number, received = earliest_unpaid.get(payment.loan_id, (1, Decimal(0)))
        received += payment.amount
        settles = payment.due_amount - received < _WHOLE_CROWN
        if number > payment.installments:
            allocations.append(Allocation(payment.payment_id, None, False))
            continue
        allocations.append(Allocation(payment.payment_id, number, settles))
        earliest_unpaid[payment.loan_id] = (number + 1, Decimal(0)) if settles else (number, received)
    return allocations
