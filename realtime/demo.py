"""`make realtime`: everything on the sandbox's world, with partners that send orders, until Ctrl-C.

The orders are made on the day after the world's: `python -m sandbox advance`, then the next `make demo` lands
them together with that day.
"""

import asyncio
import contextlib
import os
import random
import secrets
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import psycopg

from realtime.dashboard.access import add_user
from realtime.database import open_pool
from realtime.errors import RealtimeError
from realtime.keys import add_key
from realtime.migrations import migrate
from realtime.policy import load_policies
from realtime.settings import Clock, Settings
from sandbox import control
from sandbox.errors import SandboxError
from sandbox.loader import read_world
from sandbox.orphans import die_with_parent
from sandbox.third_party.server import create_server

_ORDERS = "/v1/credit-orders"
_RATE = 5  # orders a second
_ZONE = ZoneInfo("America/Sao_Paulo")


def main() -> int:
    """Runs until Ctrl-C or SIGTERM; returns the exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):  # also where a shell has turned the first one off
        signal.signal(number, signal.default_int_handler)
    world = None
    try:
        world = control.up(progress=lambda text: print(f"  {text} …", flush=True))
        _run(world)
    except KeyboardInterrupt:
        print("stopping", flush=True)
    except (RealtimeError, SandboxError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except httpx.HTTPError as error:
        kind = type(error).__name__
        print(
            f"error: the service does not answer ({kind}): see {world.folder / 'realtime.log'}",
            file=sys.stderr,
        )
        return 1
    finally:
        if world and world.started:
            control.down()
    return 0


def _run(world: control.Status) -> None:
    with psycopg.connect(world.dsn, autocommit=True) as connection:
        bureau_key = read_world(connection).bureau_api_key
        customers = connection.execute(
            "select partner_id, cpf from app.customers order by customer_id"
        ).fetchall()
    migrate(world.dsn)
    tomorrow = world.world_date + timedelta(days=1)
    # A bureau of the orders' own day: the world's is a day behind, and what it learns of a customer meanwhile
    # would be in the warehouse and not in the decision.
    bureau = create_server(world.world, world.seed or 0, tomorrow, 0, bureau_key, log=lambda line: None)
    threading.Thread(target=bureau.serve_forever, daemon=True).start()
    os.environ |= {
        "REALTIME_DSN": world.dsn,
        "BUREAU_URL": bureau.url,
        "BUREAU_API_KEY": bureau_key,
        "REALTIME_OFFSET_SECONDS": str((tomorrow - datetime.now(_ZONE).date()) // timedelta(seconds=1)),
        "REALTIME_DASHBOARD_USERS": str(world.folder / "users.json"),
        "REALTIME_DASHBOARD_SECRET": secrets.token_hex(32),
    }
    settings = Settings.from_environment()
    partners = sorted({partner for partner, _ in customers})
    keys = asyncio.run(_keys(world.dsn, partners))
    users = world.folder / "users.json"
    logins = {name: add_user(users, name, partner, None) for name, partner in _users(partners)}
    url = f"http://{settings.realtime_host}:{settings.realtime_port}"
    dashboard = f"http://{settings.realtime_host}:{settings.realtime_dashboard_port}"
    log = (world.folder / "realtime.log").open("ab")
    with contextlib.ExitStack() as running:
        running.callback(bureau.shutdown)
        running.callback(log.close)
        processes = []
        for command in ("serve", "work", "dashboard"):
            # In a session of their own: Ctrl-C is for this process, which then ends them in order.
            process = subprocess.Popen(
                [sys.executable, "-m", "realtime", command],
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent(signal.SIGTERM),
            )
            processes.append(process)
            running.callback(process.wait)
            running.callback(process.terminate)
        _wait(url, processes, Path(log.name))
        _wait(dashboard, processes, Path(log.name))
        print(f"\norders: {url}/v1/credit-orders   described: {url}/openapi.json   figures: {url}/metrics")
        print(f"a partner's key: {next(iter(keys.values()))} ({next(iter(keys))})   a reviewer's: {keys['']}")
        print(
            f"dashboard: {dashboard}/dashboard   "
            + "   ".join(f"user {name}, password {password}" for name, password in logins.items())
            + "\n"
        )
        _send_orders(url, customers, keys, settings.clock())


def _users(partners: list[str]) -> list[tuple[str, str | None]]:
    """Names and partners of those who may look: one who sees all, one who sees a partner's own."""
    return [("ana", None), (partners[0], partners[0])]


async def _keys(dsn: str, partners: list[str]) -> dict[str, str]:
    """Fresh keys; those of an earlier demo end."""
    async with open_pool(dsn, 1) as pool:
        await pool.execute("update realtime.api_keys set revoked_at = now() where name like 'demo %'")
        keys = {p: await add_key(pool, f"demo {p}", p, 100, 200) for p in partners}
        return keys | {"": await add_key(pool, "demo reviewer", None, 10, 20)}


def _wait(url: str, processes: list[subprocess.Popen], log: Path) -> None:
    deadline = time.monotonic() + 180  # a busy machine imports slowly
    while time.monotonic() < deadline and all(process.poll() is None for process in processes):
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{url}/healthz").status_code == 200:
                return
        time.sleep(0.1)
    raise RealtimeError(f"the service did not start: see {log}")


def _send_orders(url: str, customers: list[tuple[str, str]], keys: dict[str, str], clock: Clock) -> None:
    """Posts orders at a steady rate and prints what became of each, until interrupted."""
    rng = random.Random()
    waiting: list[tuple[str, str, float]] = []
    became: Counter[str] = Counter()
    with httpx.Client(base_url=url, timeout=10) as client:
        while True:
            partner, cpf = rng.choice(customers)
            body = _order(rng, cpf, clock)
            client.post(_ORDERS, json=body, headers={"X-Api-Key": keys[partner]}).raise_for_status()
            waiting.append((partner, body["order_id"], time.monotonic()))
            time.sleep(1 / _RATE)
            partner, order_id, sent = waiting[0]
            if time.monotonic() - sent < 1:
                continue
            del waiting[0]
            order = client.get(f"{_ORDERS}/{order_id}", headers={"X-Api-Key": keys[partner]}).json()
            became[order["status"]] += 1
            reasons = " ".join(reason["text"] for reason in order["reasons"])
            print(
                f"{order_id}  {order['product']:<18} {order['currency']} {order['requested_amount']:>10}"
                f"  {order['status']:<9} {reasons}",
                flush=True,
            )
            if sum(became.values()) % 50 == 0:
                print("  ".join(f"{status}: {count}" for status, count in sorted(became.items())), flush=True)


def _order(rng: random.Random, cpf: str, clock: Clock) -> dict[str, Any]:
    policies = load_policies()
    product = rng.choice(policies.products())
    terms = policies.terms(policies.in_force(clock.now()).policy_version, product)
    low, high = int(terms.min_amount), int(terms.max_amount)
    return {
        "order_id": str(uuid.uuid4()),
        "cpf": cpf,
        "product": product,
        "currency": terms.currencies.split()[0],
        "requested_amount": f"{round(low * (high / low) ** (rng.random() * 0.6)):.2f}",
        "term_months": rng.randint(terms.min_term_months, terms.max_term_months),
        "metadata": {"channel": rng.choice(["app", "web"]), "device_id": f"device-{rng.randrange(10**9)}"},
    }


if __name__ == "__main__":
    sys.exit(main())
