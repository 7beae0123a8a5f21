"""Customers, their consents and the bank accounts they connect."""

import unicodedata
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sandbox.worlds.base import SCHEMAS
from sandbox.worlds.risk import latent_risk
from sandbox.worlds.synthetic import columns as col
from sandbox.worlds.synthetic import timeline as tl
from sandbox.worlds.synthetic import vocabulary as words

_CUSTOMERS = 5_000
_SCOPES = ["bureau", "open_finance", "marketing"]
_PARTNERS = list(words.PARTNERS)
_CITY_WEIGHTS = np.array([city[3] for city in words.CITIES], dtype=float)
_PHONE, _MOVE, _RAISE = range(3)


def choose(rng: np.random.Generator, weights: np.ndarray, size: int) -> np.ndarray:
    """Indexes drawn in proportion to weights."""
    cumulative = np.cumsum(weights) / np.sum(weights)
    return np.minimum(np.searchsorted(cumulative, rng.random(size), side="right"), len(weights) - 1)


@dataclass
class People:
    """Customers in order of arrival. Profile changes (at most two) are facts with a time."""

    created: np.ndarray
    partner: np.ndarray
    name: pa.Array
    cpf: pa.Array
    email: pa.Array
    birth_day: np.ndarray
    woman: np.ndarray
    city: np.ndarray  # (customers, 3): at first, after the first and after the second change
    phone: np.ndarray  # the same; a negative number is no phone
    income: np.ndarray  # the same, cents
    changed: np.ndarray  # (customers, 2): when
    risk: np.ndarray

    def __len__(self) -> int:
        return len(self.created)

    def table(self, index: np.ndarray, cutoff: int) -> pa.Table:
        """These customers as they are just before `cutoff`."""
        changes = self.changed[index]
        version = (changes < cutoff).sum(axis=1)
        city = self.city[index, version]
        phone = self.phone[index, version]
        updated = np.where(
            version > 0, changes[np.arange(len(index)), np.maximum(version, 1) - 1], self.created[index]
        )
        area = [city[2] for city in words.CITIES]
        phones = [
            None if number < 0 else f"+55{area[place]}90{number:07d}"
            for number, place in zip(phone.tolist(), city.tolist(), strict=True)
        ]
        take = pa.array(index)
        return pa.table(
            [
                col.ints(index + 1),
                col.texts(self.partner[index], _PARTNERS),
                self.name.take(take),
                self.cpf.take(take),
                self.email.take(take),
                pa.array(phones, pa.string()),
                col.dates(self.birth_day[index]),
                col.texts(self.woman[index].astype(np.int8), ["M", "F"]),
                col.texts(city, [place[0] for place in words.CITIES]),
                col.texts(city, [place[1] for place in words.CITIES]),
                col.money(self.income[index, version]),
                col.times(self.created[index]),
                col.times(updated),
            ],
            schema=SCHEMAS["customers"],
        )


def make_people(rng: np.random.Generator, seed: int, scale: float) -> People:
    """Generates every customer who ever arrives."""
    business = tl.business()
    size = max(round(_CUSTOMERS * scale * business[-1] / business[tl.HISTORY_DAYS]), 3)
    arrival = (np.arange(size) + rng.random(size)) / size * business[-1]
    days = np.searchsorted(business, arrival, side="right") - 1
    created = np.sort(tl.at(days, tl.app_time(rng, size)))
    woman = rng.random(size) < 0.52
    name, email = _names(rng, woman)
    cpf = _cpfs(rng, size)
    risk = latent_risk(seed, cpf.to_numpy(zero_copy_only=False).astype(str))

    changed = np.full((size, 2), tl.NEVER)
    gap = rng.exponential(3.2 * 365 * tl.DAY, (size, 2)).astype(np.int64) + tl.DAY
    changed[:, 0] = created + gap[:, 0]
    changed[:, 1] = changed[:, 0] + gap[:, 1]
    changed = tl.at(tl.local_day(changed), tl.app_time(rng, 2 * size).reshape(size, 2))
    changed[:, 1] = np.maximum(changed[:, 1], changed[:, 0] + tl.HOUR)
    kind = rng.integers(0, 3, (size, 2))

    city = np.repeat(choose(rng, _CITY_WEIGHTS, size)[:, None], 3, axis=1)
    phone = np.repeat(np.where(rng.random(size) < 0.03, -1, rng.integers(0, 10**7, size))[:, None], 3, axis=1)
    income = np.exp(8.1 - 0.14 * risk + 0.58 * rng.standard_normal(size)) * 100
    income = np.repeat(np.clip(income, 141_200, 6_000_000)[:, None], 3, axis=1)
    for change in range(2):
        later = slice(change + 1, None)
        moved = kind[:, change] == _MOVE
        city[moved, later] = choose(rng, _CITY_WEIGHTS, size)[moved, None]
        new_phone = kind[:, change] == _PHONE
        phone[new_phone, later] = rng.integers(0, 10**7, size)[new_phone, None]
        raised = kind[:, change] == _RAISE
        income[raised, later] *= rng.uniform(0.9, 1.4, size)[raised, None]
    age = np.clip(19 + rng.gamma(2.6, 7.5, size), 18.1, 84)
    return People(
        created=created,
        partner=choose(rng, np.array(list(words.PARTNERS.values())), size),
        name=name,
        cpf=cpf,
        email=email,
        birth_day=tl.local_day(created) - (age * 365.25).astype(np.int64),
        woman=woman,
        city=city,
        phone=phone,
        income=np.rint(income / 1000).astype(np.int64) * 1000,
        changed=changed,
        risk=risk,
    )


def _names(rng: np.random.Generator, woman: np.ndarray) -> tuple[pa.Array, pa.Array]:
    size = len(woman)
    given = np.where(
        woman,
        rng.integers(0, len(words.WOMEN), size),
        len(words.WOMEN) + rng.integers(0, len(words.MEN), size),
    )
    skew = (rng.random((2, size)) ** 1.4 * len(words.SURNAMES)).astype(np.int64)
    first = col.texts(given, words.WOMEN + words.MEN)
    middle, last = (col.texts(surname, words.SURNAMES) for surname in skew)
    plain = [_plain(word) for word in words.WOMEN + words.MEN]
    email = pc.binary_join_element_wise(
        pc.binary_join_element_wise(
            col.texts(given, plain), col.texts(skew[1], [_plain(word) for word in words.SURNAMES]), "."
        ),
        pc.binary_join_element_wise(
            col.ints(np.arange(size) + 1).cast(pa.string()),
            col.texts(choose(rng, np.array([6, 3, 1]), size), words.EMAIL_DOMAINS),
            "@",
        ),
        "",
    )
    return pc.binary_join_element_wise(first, middle, last, " "), email


def _plain(word: str) -> str:
    ascii_only = unicodedata.normalize("NFKD", word).encode("ascii", "ignore").decode()
    return ascii_only.lower().replace("'", "")


def _cpfs(rng: np.random.Generator, size: int) -> pa.Array:
    """Different numbers with valid check digits, by a permutation of the nine-digit numbers."""
    step = int(rng.integers(10**8, 10**9 // 2)) * 10 + 7  # coprime to 10^9
    base = (np.arange(size) + int(rng.integers(1, 10**6))) * step % 10**9
    repeated = base % 111_111_111 == 0  # 111111111 and such are never issued
    base[repeated] += 10 + np.flatnonzero(repeated)
    digits = np.empty((size, 11), dtype=np.int64)
    for place in range(9):
        digits[:, place] = base // 10 ** (8 - place) % 10
    for place in (9, 10):
        total = (digits[:, :place] * np.arange(place + 1, 1, -1)).sum(axis=1)
        check = total * 10 % 11
        digits[:, place] = np.where(check == 10, 0, check)
    return col.fixed_texts((digits + ord("0")).astype(np.uint8))


@dataclass
class Accounts:
    """Connected bank accounts in order of connection, and until when their feed runs."""

    customer: np.ndarray
    connected: np.ndarray
    opened: np.ndarray
    feed_end: np.ndarray
    bank: np.ndarray
    first: np.ndarray  # whether it is the customer's main account
    currency: np.ndarray

    def table(self, index: np.ndarray) -> pa.Table:
        """These accounts; they never change."""
        return pa.table(
            [
                col.ints(index + 1),
                col.ints(self.customer[index] + 1),
                col.texts(self.bank[index], words.BANKS),
                col.times(self.opened[index]),
                col.times(self.connected[index]),
            ],
            schema=SCHEMAS["bank_accounts"],
        )


@dataclass
class Consents:
    """Consents in order of granting."""

    uuid: pa.Array
    customer: np.ndarray
    scope: np.ndarray
    granted: np.ndarray
    expires: np.ndarray
    revoked: np.ndarray

    def table(self, index: np.ndarray, cutoff: int) -> pa.Table:
        """These consents as they are just before `cutoff`."""
        revoked = self.revoked[index]
        gone = revoked < cutoff
        expires = self.expires[index]
        return pa.table(
            [
                self.uuid.take(pa.array(index)),
                col.ints(self.customer[index] + 1),
                col.texts(self.scope[index], _SCOPES),
                col.times(self.granted[index]),
                col.times(expires, expires < tl.NEVER),
                col.times(revoked, gone),
                col.times(np.where(gone, revoked, self.granted[index])),
            ],
            schema=SCHEMAS["consents"],
        )


def make_accounts_and_consents(rng: np.random.Generator, people: People) -> tuple[Accounts, Consents]:
    """Generates bank accounts, and consents of all scopes. Open finance lasts a year, then is renewed."""
    size = len(people)
    grants: list[tuple[np.ndarray, int, np.ndarray, np.ndarray, np.ndarray]] = []

    def later(who: np.ndarray, share: float, mean_days: float) -> np.ndarray:
        when = (rng.exponential(mean_days * tl.DAY, len(who))).astype(np.int64) + tl.HOUR
        return np.where(rng.random(len(who)) < share, when, tl.NEVER)

    everyone = np.arange(size)
    for scope, share, years, revoking in ((0, 0.97, 2, 0.03), (2, 0.45, None, 0.3)):
        who = everyone[rng.random(size) < share]
        granted = people.created[who] + rng.integers(5 * tl.SECOND, 4 * tl.MINUTE, len(who))
        expires = granted + years * 365 * tl.DAY if years else np.full(len(who), tl.NEVER)
        revoked = np.minimum(granted + later(who, revoking, 200), tl.NEVER)
        grants.append((who, scope, granted, expires, np.where(revoked < expires, revoked, tl.NEVER)))

    banked = everyone[rng.random(size) < 0.7]
    delay = np.where(rng.random(len(banked)) < 0.6, 3 * tl.MINUTE, rng.exponential(12 * tl.DAY, len(banked)))
    connected = (
        people.created[banked] + delay.astype(np.int64) + rng.integers(tl.MINUTE, 9 * tl.MINUTE, len(banked))
    )
    feed_end = np.zeros(size, dtype=np.int64)
    who, granted = banked, connected - rng.integers(5 * tl.SECOND, 50 * tl.SECOND, len(banked))
    while len(who):
        expires = granted + 365 * tl.DAY
        revoked = np.minimum(granted + later(who, 0.12, 220), tl.NEVER)
        revoked = np.where(revoked < expires, revoked, tl.NEVER)
        grants.append((who, 1, granted, expires, revoked))
        feed_end[who] = np.minimum(expires, revoked)
        again = (revoked == tl.NEVER) & (rng.random(len(who)) < 0.75) & (expires < tl.end_of(tl.LAST_DATE))
        who = who[again]
        granted = expires[again] - rng.integers(tl.HOUR, 12 * tl.DAY, len(who))

    second = rng.random(len(banked)) < 0.3
    owner = np.concatenate([banked, banked[second]])
    first = np.concatenate([np.ones(len(banked), bool), np.zeros(second.sum(), bool)])
    joined = connected[second] + rng.integers(tl.MINUTE, 20 * tl.DAY, second.sum())
    joined = np.concatenate([connected, joined])
    dollars = ~first & (rng.random(len(owner)) < 0.08)
    order = np.argsort(joined, kind="stable")
    accounts = Accounts(
        customer=owner[order],
        connected=joined[order],
        opened=joined[order] - (rng.exponential(1100 * tl.DAY, len(owner)) + 100 * tl.DAY).astype(np.int64),
        feed_end=feed_end[owner[order]],
        bank=choose(rng, np.array([9, 7, 8, 10, 11, 14, 5, 3, 3, 4]), len(owner)),
        first=first[order],
        currency=dollars[order].astype(np.int8),
    )
    customer, granted, expires, revoked = (
        np.concatenate([grant[place] for grant in grants]) for place in (0, 2, 3, 4)
    )
    scope = np.concatenate([np.full(len(grant[0]), grant[1]) for grant in grants])
    order = np.argsort(granted, kind="stable")
    consents = Consents(
        col.uuids(rng, len(order)), *(part[order] for part in (customer, scope, granted, expires, revoked))
    )
    return accounts, consents
