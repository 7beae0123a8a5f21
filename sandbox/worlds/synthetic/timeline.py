"""The world's clock: São Paulo days, moments as UTC microseconds, and how busy each day is."""

from datetime import date, timedelta

import numpy as np

START = date(2024, 1, 1)
FIRST_DATE = date(2025, 12, 31)
HISTORY_DAYS = (FIRST_DATE - START).days + 1
FUTURE_DAYS = 400
DAYS = HISTORY_DAYS + FUTURE_DAYS
LAST_DATE = START + timedelta(days=DAYS - 1)

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
START_EPOCH_DAY = (START - date(1970, 1, 1)).days
# Brazil has had no daylight saving since 2019, so a São Paulo day begins at 03:00 UTC.
ORIGIN = START_EPOCH_DAY * DAY + 3 * HOUR
NEVER = np.int64(1) << np.int64(61)
"""Later than everything: the moment of what does not happen."""

# Of each hour of the day: when people use an app, and when an office or a shop is open.
_APP_HOURS = [2, 1, 1, 1, 1, 2, 4, 7, 10, 13, 14, 14, 13, 12, 12, 12, 11, 11, 12, 13, 14, 13, 9, 5]
_SHOP_HOURS = [1, 0, 0, 0, 0, 1, 3, 6, 8, 9, 10, 12, 14, 11, 9, 9, 10, 12, 13, 12, 9, 6, 4, 2]
_WEEKDAYS = np.array([1.12, 1.14, 1.1, 1.08, 1.06, 0.78, 0.6])
_MONTHS = np.array([0.95, 0.9, 1.0, 0.98, 1.02, 0.97, 1.0, 1.02, 1.0, 1.04, 1.16, 1.1])
_GROWTH = 1.3  # how much busier the last day of history is than the first, besides 1


def day_index(day: date) -> int:
    """Days since the start of the world."""
    return (day - START).days


def end_of(day: date) -> int:
    """The first microsecond that is no longer `day` in São Paulo."""
    return ORIGIN + (day_index(day) + 1) * DAY


def local_day(moments: np.ndarray) -> np.ndarray:
    """Index of the São Paulo day of each moment."""
    return (moments - ORIGIN) // DAY


def at(days: np.ndarray, microseconds: np.ndarray | int) -> np.ndarray:
    """The moment so many microseconds into a São Paulo day."""
    return ORIGIN + days.astype(np.int64) * DAY + microseconds


def add_months(days: np.ndarray, months: np.ndarray | int, day_of_month: np.ndarray) -> np.ndarray:
    """Day index of the given day (at most 28) of the month that is `months` after that of `days`."""
    month = (days + START_EPOCH_DAY).astype("datetime64[D]").astype("datetime64[M]") + months
    return month.astype("datetime64[D]").astype(np.int64) + day_of_month - 1 - START_EPOCH_DAY


def day_of_month(days: np.ndarray) -> np.ndarray:
    """Day of the month, 1 to 31."""
    dates = (days + START_EPOCH_DAY).astype("datetime64[D]")
    return (dates - dates.astype("datetime64[M]")).astype(np.int64) + 1


def weekday(days: np.ndarray) -> np.ndarray:
    """0 is Monday."""
    return (days + START.weekday()) % 7


def app_time(rng: np.random.Generator, size: int) -> np.ndarray:
    """Times of day when people use an app, in microseconds."""
    return _time_of_day(rng, size, _APP_HOURS)


def shop_time(rng: np.random.Generator, size: int) -> np.ndarray:
    """Times of day when people spend money, in microseconds."""
    return _time_of_day(rng, size, _SHOP_HOURS)


def _time_of_day(rng: np.random.Generator, size: int, weights: list[int]) -> np.ndarray:
    cumulative = np.cumsum(weights) / sum(weights)
    hours = np.searchsorted(cumulative, rng.random(size), side="right")
    return np.minimum(hours, 23) * HOUR + (rng.random(size) * HOUR).astype(np.int64)


def business(growing: bool = True) -> np.ndarray:
    """Cumulative business at the beginning of each day (one more entry than there are days)."""
    days = np.arange(DAYS)
    months = (days + START_EPOCH_DAY).astype("datetime64[D]").astype("datetime64[M]").astype(np.int64) % 12
    weight = _WEEKDAYS[weekday(days)] * _MONTHS[months]
    if growing:
        weight = weight * (1 + _GROWTH * days / HISTORY_DAYS)
    return np.concatenate([[0.0], np.cumsum(weight)])
