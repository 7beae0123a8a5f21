"""Bank transactions of connected accounts, with running balances."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from sandbox.worlds.base import SCHEMAS
from sandbox.worlds.synthetic import columns as col
from sandbox.worlds.synthetic import timeline as tl
from sandbox.worlds.synthetic import vocabulary as words
from sandbox.worlds.synthetic.loans import Loans
from sandbox.worlds.synthetic.orders import Orders
from sandbox.worlds.synthetic.people import Accounts, People, choose

_TRANSACTIONS = 600_000
_PAST_DAYS = 90  # what open finance delivers of the time before the connection
_KINDS = [
    "salary",
    "pix_in",
    "pix_out",
    "card",
    "bill",
    "transfer",
    "loan_disbursement",
    "loan_payment",
]
_SALARY, _PIX_IN, _PIX_OUT, _CARD, _BILL, _TRANSFER, _DISBURSEMENT, _PAYMENT = range(8)
_DESCRIPTIONS = [
    ["Salário"],
    ["Pix recebido", "Pix recebido: venda", "Pix recebido: família"],
    ["Pix enviado", "Pix enviado: aluguel", "Pix enviado: serviço"],
    ["Supermercado", "Farmácia", "Posto de combustível", "Restaurante", "Loja online", "Transporte"],
    ["Energia elétrica", "Água e esgoto", "Internet", "Telefone", "Condomínio"],
    ["TED", "Transferência entre contas"],
    ["Crédito de empréstimo"],
    ["Parcela de empréstimo"],
]
_ALL_DESCRIPTIONS = [text for texts in _DESCRIPTIONS for text in texts]
_DESCRIPTION_START = np.cumsum([0] + [len(texts) for texts in _DESCRIPTIONS])[:-1]
_DESCRIPTION_COUNT = np.array([len(texts) for texts in _DESCRIPTIONS])
_NO_COUNTERPARTY = (_CARD, _BILL)


@dataclass
class Transactions:
    """Bank transactions by time of arrival; each account's arrive in the order they were booked."""

    account: np.ndarray
    booked: np.ndarray
    amount: np.ndarray
    currency: np.ndarray
    kind: np.ndarray
    counterparty: np.ndarray
    description: np.ndarray
    balance: np.ndarray
    created: np.ndarray

    def table(self, first: int, last: int) -> pa.Table:
        """The transactions from place `first` up to but not including `last`; they never change."""
        part = slice(first, last)
        return pa.table(
            [
                col.ints(np.arange(first, last) + 1),
                col.ints(self.account[part] + 1),
                col.times(self.booked[part]),
                col.money(self.amount[part]),
                col.texts(self.currency[part], words.CURRENCIES),
                col.texts(self.kind[part], _KINDS),
                col.texts(self.counterparty[part], words.BANKS),
                col.texts(self.description[part], _ALL_DESCRIPTIONS),
                col.money(self.balance[part]),
                col.times(self.created[part]),
            ],
            schema=SCHEMAS["bank_transactions"],
        )


class _Ledger:
    """Collects transactions."""

    def __init__(self) -> None:
        self._parts: list[tuple[np.ndarray, ...]] = []

    def add(
        self, account: np.ndarray, booked: np.ndarray, amount: np.ndarray, kind: np.ndarray | int
    ) -> None:
        kinds = np.full(len(account), kind, np.int8) if isinstance(kind, int) else kind.astype(np.int8)
        self._parts.append((account.astype(np.int32), booked, np.rint(amount).astype(np.int64), kinds))

    def gather(self) -> tuple[np.ndarray, ...]:
        return tuple(np.concatenate(part) for part in zip(*self._parts, strict=True))


def make_transactions(
    rng: np.random.Generator, people: People, accounts: Accounts, orders: Orders, loans: Loans, scale: float
) -> Transactions:
    """Generates every transaction of every connected account."""
    start = accounts.connected - _PAST_DAYS * tl.DAY
    end = np.minimum(accounts.feed_end, tl.end_of(tl.LAST_DATE))
    income = people.income[accounts.customer, 0].astype(float) * np.where(accounts.first, 1, 0.25)
    employed = rng.random(len(people))[accounts.customer] < 0.72
    ledger = _Ledger()
    _add_monthly(rng, ledger, accounts, start, end, income, employed)
    _add_loans(ledger, accounts, orders, loans, start, end)
    history_end = tl.end_of(tl.FIRST_DATE)
    known = sum(((booked < history_end).sum() for _, booked, _, _ in ledger._parts), start=0)
    _add_everyday(rng, ledger, start, end, income, employed, _TRANSACTIONS * scale - known)
    account, booked, amount, kind = ledger.gather()
    return _finish(rng, accounts, income, account, booked, amount, kind)


def _add_monthly(
    rng: np.random.Generator,
    ledger: _Ledger,
    accounts: Accounts,
    start: np.ndarray,
    end: np.ndarray,
    income: np.ndarray,
    employed: np.ndarray,
) -> None:
    """Salaries (with the thirteenth in November and December) and bills."""
    months = np.arange(-4, tl.DAYS // 30 + 2)
    first_of_month = tl.add_months(np.zeros(len(months), np.int64), months, np.ones(len(months), np.int64))
    calendar_month = (months % 12) + 1  # the world starts in January

    def repeat(who: np.ndarray, day: np.ndarray, spread: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        account = np.repeat(who, len(months))
        month = np.tile(np.arange(len(months)), len(who))
        days = first_of_month[month] + np.repeat(day, len(months)) - 1
        booked = tl.at(days, rng.integers(5 * tl.HOUR, 5 * tl.HOUR + spread, len(days)) // 1000 * 1000)
        inside = (booked >= start[account]) & (booked < end[account])
        return account[inside], month[inside], booked[inside]

    who = np.flatnonzero(accounts.first & employed)
    day = np.array([1, 5, 5, 5, 7, 20, 28])[rng.integers(0, 7, len(who))]
    account, month, booked = repeat(who, day, 3 * tl.HOUR)
    thirteenth = np.where(calendar_month[month] >= 11, 1.5, 1.0)
    ledger.add(account, booked, income[account] * thirteenth * 0.86, _SALARY)
    for share, part in ((1.0, 0.055), (0.75, 0.03), (0.4, 0.1)):
        who = np.flatnonzero(accounts.first & (rng.random(len(income)) < share))
        account, _, booked = repeat(who, rng.integers(2, 26, len(who)), 12 * tl.HOUR)
        usual = income[account] * part
        ledger.add(account, booked, -usual * rng.uniform(0.85, 1.15, len(account)) - 100, _BILL)


def _add_loans(
    ledger: _Ledger, accounts: Accounts, orders: Orders, loans: Loans, start: np.ndarray, end: np.ndarray
) -> None:
    """What the lender pays out and gets back, as the customer's main account sees it."""
    account_of = np.full(int(orders.customer.max(initial=0)) + 1, -1)
    mine = accounts.first & (accounts.customer < len(account_of))
    account_of[accounts.customer[mine]] = np.flatnonzero(mine)

    def add(order: np.ndarray, when: np.ndarray, amount: np.ndarray, kind: int) -> None:
        account = account_of[orders.customer[order]]
        seen = (account >= 0) & (orders.currency[order] == 0)
        seen &= (when >= start[account]) & (when < end[account])
        ledger.add(account[seen], when[seen] // 1000 * 1000, amount[seen], kind)

    paid_out = np.flatnonzero(orders.disbursed < tl.NEVER)
    net = orders.approved - orders.iof - orders.fee
    add(paid_out, orders.disbursed[paid_out] + 40 * tl.SECOND, net[paid_out], _DISBURSEMENT)
    add(loans.payment_order, loans.paid, -loans.payment_parts.sum(axis=0), _PAYMENT)


def _add_everyday(
    rng: np.random.Generator,
    ledger: _Ledger,
    start: np.ndarray,
    end: np.ndarray,
    income: np.ndarray,
    employed: np.ndarray,
    wanted: float,
) -> None:
    """Cards, Pix and transfers: as many as make the total of the world's first day."""
    business = tl.business(growing=False)
    # Before the world's first day (the past that open finance delivers) every day is an average one.
    average = business[-1] / tl.DAYS

    def position(moments: np.ndarray) -> np.ndarray:
        day = (moments - tl.ORIGIN) / tl.DAY
        return np.where(day < 0, day * average, np.interp(day, np.arange(len(business)), business))

    begin, stop = position(start), position(np.maximum(end, start))
    pace = rng.gamma(2.5, 1 / 2.5, len(start)) * np.where(income < 150_000, 0.7, 1.0)
    exposure = pace * np.clip(position(np.int64(tl.end_of(tl.FIRST_DATE))) - begin, 0, stop - begin)
    pace *= max(wanted, 0) / exposure.sum()
    count = rng.poisson(pace * (stop - begin))
    account = np.repeat(np.arange(len(start)), count)
    size = len(account)
    where = begin[account] + rng.random(size) * (stop - begin)[account]
    day = np.where(where < 0, np.floor(where / average), np.searchsorted(business, where, side="right") - 1)
    booked = tl.at(day.astype(np.int64), tl.shop_time(rng, size) // tl.SECOND * tl.SECOND)
    booked = np.clip(booked, start[account], end[account] - 1) // 1000 * 1000
    kind = choose(rng, np.array([0, 19, 27, 45, 0, 9]), size)
    # Spending follows income; who has no salary lives on incoming Pix.
    monthly = income[account] / np.maximum((pace * business[-1] / tl.DAYS * 30.4)[account], 1)
    typical = np.array([0, 0.75, 1.0, 0.62, 0, 1.4])[kind]
    typical = np.where((kind == _PIX_IN) & ~employed[account], 4.6, typical)
    amount = monthly * typical * np.exp(0.8 * rng.standard_normal(size) - 0.32)
    incoming = (kind == _PIX_IN) | ((kind == _TRANSFER) & (rng.random(size) < 0.45))
    ledger.add(account, booked, np.where(incoming, 1, -1) * np.maximum(amount, 150), kind)


def _finish(
    rng: np.random.Generator,
    accounts: Accounts,
    income: np.ndarray,
    account: np.ndarray,
    booked: np.ndarray,
    amount: np.ndarray,
    kind: np.ndarray,
) -> Transactions:
    """Orders the transactions, sums up balances, decides when each one arrives."""
    # Milliseconds leave room for the account in the same 64 bits, so one plain sort does.
    earliest = booked.min(initial=0)
    span = np.int64(tl.DAYS + 400) * tl.DAY // 1000
    by_booking = np.argsort(account * span + (booked - earliest) // 1000, kind="stable")
    account, booked, amount, kind = (values[by_booking] for values in (account, booked, amount, kind))
    size = len(account)

    opening = np.rint(income * rng.gamma(1.2, 0.6, len(income))).astype(np.int64)
    running = np.cumsum(amount)
    begins = np.flatnonzero(np.append(True, account[1:] != account[:-1])) if size else np.empty(0, np.int64)
    before = (running - amount)[begins]
    lengths = np.diff(np.append(begins, size))
    balance = running - np.repeat(before, lengths) + opening[account]

    # Most arrive within the hour, some a day or two later; none before the account was connected.
    lag = rng.exponential(25 * tl.MINUTE, size)
    lag = np.where(rng.random(size) < 0.03, rng.uniform(0.3, 2.2, size) * tl.DAY, lag).astype(np.int64)
    created = np.maximum(booked + lag, accounts.connected[account] + 2 * tl.MINUTE)
    shifted = account * span + (created - tl.ORIGIN) // 1000 + span // 4
    arrived = np.maximum.accumulate(shifted) - account * span - span // 4
    created = tl.ORIGIN + arrived * 1000

    choice = (rng.random(size) * _DESCRIPTION_COUNT[kind]).astype(np.int64)
    anonymous = np.isin(kind, _NO_COUNTERPARTY)
    counterparty = np.where(anonymous, -1, rng.integers(0, len(words.BANKS), size))
    by_arrival = np.argsort(created, kind="stable")
    return Transactions(
        account=account[by_arrival],
        booked=booked[by_arrival],
        amount=amount[by_arrival],
        currency=accounts.currency[account[by_arrival]],
        kind=kind[by_arrival],
        counterparty=counterparty[by_arrival].astype(np.int8),
        description=(_DESCRIPTION_START[kind] + choice)[by_arrival].astype(np.int8),
        balance=balance[by_arrival],
        created=created[by_arrival],
    )
