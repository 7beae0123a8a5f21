"""What the app asks of a person and the bank's files do not have, made from the client's number alone."""

import unicodedata

_FIRST_NAMES = {
    "F": (
        "Alena", "Anna", "Barbora", "Dana", "Eliška", "Eva", "Hana", "Irena", "Ivana", "Jana", "Jitka",
        "Kateřina", "Lenka", "Lucie", "Ludmila", "Marie", "Markéta", "Martina", "Petra", "Šárka", "Tereza",
        "Věra", "Zdeňka",
    ),
    "M": (
        "Antonín", "David", "František", "Ivan", "Jakub", "Jan", "Jaroslav", "Jindřich", "Jiří", "Josef",
        "Karel", "Ladislav", "Lukáš", "Martin", "Michal", "Milan", "Miroslav", "Ondřej", "Pavel", "Petr",
        "Radek", "Stanislav", "Tomáš",
    ),
}  # fmt: skip
_SURNAMES = {
    "F": (
        "Benešová", "Černá", "Dvořáková", "Fialová", "Hájková", "Horáková", "Jelínková", "Kolářová",
        "Králová", "Krejčí", "Kučerová", "Marková", "Navrátilová", "Němcová", "Novotná", "Nováková",
        "Pokorná", "Pospíšilová", "Procházková", "Růžičková", "Sedláčková", "Svobodová", "Šimková",
        "Urbanová", "Veselá", "Vlčková", "Zemanová",
    ),
    "M": (
        "Beneš", "Černý", "Dvořák", "Fiala", "Hájek", "Horák", "Jelínek", "Kolář", "Král", "Krejčí", "Kučera",
        "Marek", "Navrátil", "Němec", "Novotný", "Novák", "Pokorný", "Pospíšil", "Procházka", "Růžička",
        "Sedláček", "Svoboda", "Šimek", "Urban", "Veselý", "Vlček", "Zeman",
    ),
}  # fmt: skip


def full_name(client_id: int, gender: str) -> str:
    """A Czech name that fits the gender. Names repeat, as they do in life."""
    first, last = _FIRST_NAMES[gender], _SURNAMES[gender]
    mixed = client_id * 7919
    return f"{first[mixed % len(first)]} {last[mixed // len(first) % len(last)]}"


def email(client_id: int, name: str) -> str:
    """An address nobody can have: the domain `.invalid` does not exist, by RFC 2606."""
    ascii_name = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return f"{ascii_name.lower().replace(' ', '.')}.{client_id}@generated.invalid"


def cpf(client_id: int) -> str:
    """A CPF with valid check digits, one per client.

    The factor is odd and no multiple of 5, so two client numbers below 10⁹ never share a CPF.
    """
    digits = [int(digit) for digit in f"{(client_id * 387_420_489 + 123_456_789) % 10**9:09}"]
    for _ in range(2):
        weights = range(len(digits) + 1, 1, -1)
        rest = sum(weight * digit for weight, digit in zip(weights, digits, strict=True)) % 11
        digits.append(0 if rest < 2 else 11 - rest)
    return "".join(map(str, digits))
