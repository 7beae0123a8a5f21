"""What an order was decided on, and what the dashboard says of a day, is what the warehouse says of it."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import duckdb

from tests.soak.dashboard import Dashboard
from tests.soak.parity import run
from tests.soak.realtime import Stack

ZONE = ZoneInfo("America/Sao_Paulo")


def test_features_scores_and_yesterday_are_those_of_the_warehouse(
    new_folder: Callable[[str], Path],
) -> None:
    folder = new_folder("parity")
    with Stack(folder, scale=0.05, lease=15) as stack:
        compared, differences = run(stack, folder, 300, seed=3)
        tomorrow = {"REALTIME_OFFSET_SECONDS": str(stack.offset + 24 * 60 * 60)}
        with Dashboard(stack, environment=tomorrow) as dashboard:
            client = dashboard.client()
            shown = client.get("/dashboard/api/state", params={"window": "yesterday"}).json()["summary"]
            month = client.get("/dashboard/api/state", params={"window": "month"}).json()["summary"]

    assert differences == []
    # Every feature was there to be compared.
    assert {name for name, count in compared.items() if not count} == set()
    assert compared["score"] > 200

    day = _day(shown["series"]["start"][0])
    with duckdb.connect(str(folder / "warehouse.duckdb"), read_only=True) as connection:
        marts = connection.execute(
            "select requested_date, partner_id, product, currency, status, count(*), sum(requested_amount),"
            " coalesce(sum(approved_amount), 0) from marts.credit_decisions group by all"
        ).fetchall()
    yesterday = [row for row in marts if row[0].isoformat() == day]
    assert {status: n for status, n in shown["counts"].items() if n} == _sums(yesterday, 4, 5)
    assert sum(shown["counts"].values()) >= 300
    assert {name: requested for name, _, requested, _ in shown["totals"]} == _sums(yesterday, 3, 6)
    for place, table in ((2, "products"), (1, "partners")):
        lines = {(line[0], line[1]): line[2:] for line in shown[table]}
        assert lines == {
            key: [
                sum(row[5] for row in yesterday if (row[place], row[3]) == key),
                *(int(100 * sum(row[n] for row in yesterday if (row[place], row[3]) == key)) for n in (6, 7)),
            ]
            for key in {(row[place], row[3]) for row in yesterday}
        }
    # And every day of the month before.
    for place, start in enumerate(month["series"]["start"]):
        assert {
            status: month["series"][status][place]
            for status in shown["counts"]
            if month["series"][status][place]
        } == _sums([row for row in marts if row[0].isoformat() == _day(start)], 4, 5)


def _day(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).astimezone(ZONE).date().isoformat()


def _sums(rows: list[tuple], by: int, of: int) -> dict[Any, int]:
    """Sums of counts, or of amounts in cents."""
    sums: dict[Any, int] = {}
    for row in rows:
        sums[row[by]] = sums.get(row[by], 0) + int(row[of] * (1 if of == 5 else 100))
    return sums
