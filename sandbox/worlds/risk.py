"""The latent risk of a person: the one hidden number behind scores, decisions and repayment.

The generated lender and the credit bureau know nothing of each other. They agree because both
derive from this function of (seed, CPF).
"""

from collections.abc import Sequence

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def mix(values: np.ndarray) -> np.ndarray:
    """Scrambles 64-bit integers (splitmix64), the same on every machine."""
    z = values.astype(np.uint64)
    with np.errstate(over="ignore"):
        z = z + _GOLDEN
        z = (z ^ (z >> np.uint64(30))) * _MIX_1
        z = (z ^ (z >> np.uint64(27))) * _MIX_2
    return z ^ (z >> np.uint64(31))


def noise(seed: int, cpfs: Sequence[str] | np.ndarray, salt: int | np.ndarray = 0) -> np.ndarray:
    """Standard normal numbers that depend on (seed, cpf, salt) alone; `salt` may be an array.

    Twelve uniform numbers are summed rather than a logarithm taken: additions of the same numbers
    give the same bits with every C library.
    """
    people = np.asarray(cpfs).astype(np.uint64)
    salts = np.asarray(salt, dtype=np.uint64)
    state = mix(people ^ mix(np.uint64(seed % 2**64) ^ mix(salts)))
    total = np.zeros(state.shape, dtype=np.int64)
    for _ in range(4):
        state = mix(state)
        for shift in (0, 21, 42):
            total += ((state >> np.uint64(shift)) & np.uint64(0x1FFFFF)).astype(np.int64)
    return (total - 6 * 0x1FFFFF) / 0x200000


def latent_risk(seed: int, cpfs: Sequence[str] | np.ndarray) -> np.ndarray:
    """Risk of each person, as a standard normal number: higher is riskier."""
    return noise(seed, cpfs)
