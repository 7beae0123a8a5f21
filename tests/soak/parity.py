"""Orders decided online, then recomputed in the warehouse as of their request: features and scores are equal.

    python -m tests.soak.parity [--orders 10000] [--scale 0.5] [--seed N]

A day is landed and built, and the feature store is filled from the warehouse. Then orders come in, of all
products, while customers change, transactions arrive (some late, some of the same moment) and consents end.
The next run of ingestion lands the day; what `ml_credit_risk_features` says of each order is compared, column
by column, with what the decision was made of, and the score with what `credit_scorecard_scores` has.
"""

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
from collections import Counter
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import psycopg

from realtime.features import Features
from realtime.policy import Inputs, load_policies
from realtime.settings import Clock
from tests.soak.realtime import BUREAU_KEY, DAY, ROOT, Sent, Stack, order_body, post_once

_BUREAU = {name for name in Features.__struct_fields__ if name.startswith("bureau_")}
_EVENTS = 8  # kinds of things that happen between orders


class Warehouse:
    """A lake and a DuckDB warehouse of a stack's world, by the real commands."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self.path = folder / "warehouse.duckdb"
        self._env = {k: v for k, v in os.environ.items() if k not in ("AS_OF_DATE", "EVENT_LOG")} | {
            "SOURCE_DSN": stack.dsn,
            "BUREAU_URL": f"http://127.0.0.1:{stack.bureau_port}",
            "BUREAU_API_KEY": BUREAU_KEY,
            "FX_URL": f"http://127.0.0.1:{stack.bureau_port}",
            "LAKE": str(folder / "lake"),
            "WAREHOUSE": str(self.path),
            "WORLD": "parity",
            "DBT_PROFILES_DIR": str(ROOT / "profiles"),
            "DBT_TARGET_PATH": str(folder / "target"),
            "DBT_LOG_PATH": str(folder / "logs"),
            "DO_NOT_TRACK": "1",
            "LOG_FORMAT": "text",
        }

    def land_and_build(self, day: str) -> None:
        """Lands a day and builds what the features need, and the mart of all orders."""
        sources = [word for name in ("app", "bureau", "central_bank") for word in ("--table", name)]
        self._run(sys.executable, "-m", "ingestion", "run", "--date", day, *sources)
        self._env["AS_OF_DATE"] = day
        dbt = str(Path(sys.executable).with_name("dbt"))
        self._run(
            dbt,
            "build",
            "--select",
            "+ml_credit_risk_features",
            "+credit_decisions",
            "+credit_scorecard_scores",
            "--exclude-resource-type",
            "test",
            "unit_test",
        )

    def features(self) -> dict[str, dict[str, Any]]:
        """The mart's rows by order."""
        with duckdb.connect(str(self.path), read_only=True) as connection:
            cursor = connection.execute("select * from marts.ml_credit_risk_features")
            names = [column[0] for column in cursor.description]
            rows = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
        return {row["order_id"]: row for row in rows}

    def scores(self) -> dict[tuple[str, str], int]:
        """What the warehouse's scorecards say, by order and version."""
        with duckdb.connect(str(self.path), read_only=True) as connection:
            rows = connection.execute(
                "select order_id, scorecard_version, score from marts.credit_scorecard_scores"
            ).fetchall()
        return {(order_id, version): score for order_id, version, score in rows}

    def _run(self, *command: str) -> None:
        done = subprocess.run(
            command, cwd=ROOT, env=self._env, capture_output=True, text=True, check=False, timeout=1200
        )
        if done.returncode:
            raise AssertionError(f"{' '.join(command)} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")


def run(stack: Stack, folder: Path, orders: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Plays a day; returns how many values were compared and what differs."""
    warehouse = Warehouse(stack, folder)
    warehouse.land_and_build((DAY - timedelta(days=1)).isoformat())
    done = subprocess.run(
        [sys.executable, "-m", "realtime", "load-features", "--warehouse", str(warehouse.path)],
        cwd=ROOT,
        env=stack.env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rng = random.Random(seed)
    with stack.connect() as connection:
        # Of these people the bureau itself has to be asked.
        connection.execute("delete from realtime.bureau_records where customer_id % 2 = 0")
        ids = asyncio.run(_play(stack, connection, rng, orders))
        stack.wait_until_decided(1800)
    warehouse.land_and_build(DAY.isoformat())
    return compare(stack, warehouse, ids)


async def _play(stack: Stack, connection: psycopg.Connection, rng: random.Random, orders: int) -> list[str]:
    people = stack.customers()
    changed: set[str] = set()
    clock = Clock(timedelta(seconds=stack.offset))
    ids: list[str] = []
    while len(ids) < orders:
        bodies = [(partner, _body(rng, cpf)) for partner, cpf in rng.choices(people, k=20)]
        sent = [Sent(body, stack.keys[partner]) for partner, body in bodies]
        rest = sent
        while rest:  # 503: the machine is busy, to repeat is safe
            answers = await asyncio.gather(*(post_once(stack.port, s) for s in rest))
            assert {status for status, _ in answers} <= {202, 503}, answers
            rest = [s for s, (status, _) in zip(rest, answers, strict=True) if status == 503]
        ids += [s.body["order_id"] for s in sent]
        _happen(connection, rng, clock, rng.choice(people)[1], changed)
    return ids


def _body(rng: random.Random, cpf: str) -> dict[str, Any]:
    policies = load_policies()
    product = rng.choice(policies.products())
    terms = policies.terms(policies.in_force(datetime.fromisoformat(f"{DAY}T12:00Z")).policy_version, product)
    low, high = int(terms.min_amount), int(terms.max_amount)
    return order_body(
        rng,
        cpf,
        product=product,
        currency=rng.choice(terms.currencies.split()),
        requested_amount=f"{rng.randint(low * 100, high * 100) / 100:.2f}",
        term_months=rng.randint(terms.min_term_months, terms.max_term_months),
    )


def _happen(
    connection: psycopg.Connection, rng: random.Random, clock: Clock, cpf: str, changed: set[str]
) -> None:
    """Something of the customer changes now; its row at most once, since a day's last version is landed."""
    now = clock.now()
    customer = connection.execute("select customer_id from app.customers where cpf = %s", (cpf,)).fetchone()[
        0
    ]
    kind = rng.randrange(_EVENTS)
    if kind == 0 and cpf not in changed:
        changed.add(cpf)
        connection.execute(
            "update app.customers set monthly_income = %s, state = ' rj', updated_at = %s"
            " where customer_id = %s",
            (rng.randint(100_000, 900_000) / Decimal(100), now, customer),
        )
    elif kind == 1:
        connection.execute(
            "update app.consents set revoked_at = %s, updated_at = %s"
            " where customer_id = %s and revoked_at is null and scope <> 'marketing'",
            (now, now, customer),
        )
    elif kind < 7:
        booked = now - timedelta(microseconds=rng.randrange(95 * 86_400_000_000) if kind > 3 else 0)
        connection.execute(
            "insert into app.bank_transactions"
            " (transaction_id, account_id, booked_at, amount, currency, kind, created_at)"
            " select (select max(transaction_id) + 1 from app.bank_transactions), account_id, %s, %s, %s,"
            " 'pix', %s from app.bank_accounts where customer_id = %s limit 1",
            (
                booked,
                rng.choice([-1, 1]) * rng.randint(1, 90_000) / Decimal(100),
                rng.choice(["BRL", "BRL", "USD"]),
                now + timedelta(milliseconds=rng.choice([0, 0, 400])),
                customer,
            ),
        )


def compare(stack: Stack, warehouse: Warehouse, ids: list[str]) -> tuple[Counter[str], list[str]]:
    """Compares what decisions were made of with the mart, order by order."""
    mart, scores = warehouse.features(), warehouse.scores()
    policies = load_policies()
    with stack.connect() as connection:
        rows = connection.execute(
            "select order_id::text, score, raw_response -> 'inputs' from app.risk_evaluations"
            " where provider = 'policy' and order_id = any(%s)",
            (ids,),
        ).fetchall()
    differences = []
    if len(rows) != len(ids):
        differences.append(f"{len(rows)} decisions of {len(ids)} orders")
    compared: Counter[str] = Counter()
    for order_id, score, given in rows:
        if order_id not in mart:
            differences.append(f"{order_id}: not in the mart")
            continue
        inputs = msgspec.json.decode(json.dumps(given), type=Inputs)
        online, row = inputs.features, mart[order_id]
        for name in Features.__struct_fields__:
            # Whose consent has ended since is not asked about, and what the bureau said before is not used.
            if name in _BUREAU and not inputs.has_bureau_consent:
                continue
            compared[name] += row[name] is not None
            if getattr(online, name) != row[name]:
                differences.append(
                    f"{order_id}: {name} was {getattr(online, name)!r}, the mart says {row[name]!r}"
                )
        # Without the bureau's word there is no score: a person decides.
        if inputs.has_bureau_consent:
            version = policies.version(inputs.policy_version).scorecard_version
            known = row["bureau_score_at_request"]
            again = known if version is None or known is None else scores[order_id, version]
            compared["score"] += again is not None
            if again != score:
                differences.append(f"{order_id}: the score was {score}, the warehouse says {again}")
    return compared, differences


def main() -> int:
    """Runs it; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak.parity", description=__doc__.split("\n")[0])
    parser.add_argument("--orders", type=int, default=10_000)
    parser.add_argument("--scale", type=float, default=0.1, help="of the world (%(default)s)")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="default: a random one")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="parity-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL runs as another user under root
        with Stack(folder, scale=given.scale, lease=15) as stack:
            compared, differences = run(stack, folder, given.orders, given.seed)
    print(f"seed {given.seed}: {given.orders:,} orders; values compared that are not null:")
    print("\n".join(f"  {name}: {count:,}" for name, count in sorted(compared.items())))
    print("\n".join(differences[:20]))
    print(f"{len(differences)} differences")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
