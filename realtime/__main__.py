"""`python -m realtime`: the service, its worker, and what an operator needs."""

import argparse
import asyncio
import os
import sys
from pathlib import Path
from uuid import UUID

from realtime import log
from realtime.errors import RealtimeError
from realtime.settings import Settings
from realtime.telemetry import telemetry


def main() -> int:
    """Runs a command; returns its exit code."""
    options = _parser().parse_args()
    log.catch_libraries()
    try:
        return options.act(options, Settings.from_environment()) or 0
    except RealtimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m realtime", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")

    def command(name: str, act: object, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(act=act)
        return added

    command("migrate", _migrate, "bring the database to this version's schema")
    command("serve", _serve, "take orders in over HTTP")
    work = command("work", _work, "decide orders from the queue")
    work.add_argument("--lease", type=float, default=15, help="seconds until others take over (%(default)s)")
    load = command("load-features", _load_features, "fill the feature store from the warehouse")
    load.add_argument(
        "--warehouse",
        type=Path,
        default=Path(os.environ.get("WAREHOUSE") or "warehouse.duckdb"),
        help="a DuckDB file (%(default)s)",
    )
    load.add_argument(
        "--athena",
        action="store_true",
        default=os.environ.get("DBT_TARGET") == "athena",
        help="read the warehouse on Athena instead, with results below LAKE; so it is with DBT_TARGET=athena",
    )
    relay = command(
        "relay", _relay, "hand on the outbox to the SQS queue or Kinesis stream in REALTIME_QUEUE"
    )
    relay.add_argument("--lease", type=float, default=15, help="seconds until others take over (%(default)s)")
    command("dashboard", _dashboard, "show credit orders as they happen")
    user = command("add-user", _add_user, "let somebody look at the dashboard; prints a password, once")
    user.add_argument("name", help="under which they log in")
    user.add_argument("--partner", help="whose orders they see; without, all")
    user.add_argument(
        "--subject", help="who they are to the identity provider (claim sub): without a password"
    )
    key = command("add-key", _add_key, "make an API key and print it, once")
    key.add_argument("name", help="who will use it")
    key.add_argument("--partner", help="a partner's key; without, a reviewer's")
    key.add_argument("--rate", type=float, default=100, help="requests per second (%(default)s)")
    key.add_argument("--burst", type=int, default=200, help="requests at once (%(default)s)")
    again = command("replay", _replay, "make a past decision again from what was stored")
    again.add_argument("order_id", type=UUID)
    dead = command("replay-dead-letters", _replay_dead_letters, "put dead letters back into the queue")
    dead.add_argument("--order", type=UUID, help="of this order only")
    return parser


def _migrate(options: argparse.Namespace, settings: Settings) -> None:
    from realtime.migrations import migrate

    migrate(settings.realtime_dsn)
    print("the schema is up to date")


def _serve(options: argparse.Namespace, settings: Settings) -> None:
    import uvloop

    from realtime.api import Api

    with telemetry("credit-orders"):
        uvloop.run(Api(settings).run())


def _work(options: argparse.Namespace, settings: Settings) -> None:
    import uvloop

    from realtime.worker import run_worker

    for name in ("bureau_url", "bureau_api_key"):
        if not getattr(settings, name):
            raise RealtimeError(f"{name.upper()} is not set; decisions need the credit bureau")
    with telemetry("credit-decisions"):
        uvloop.run(run_worker(settings, options.lease))


def _load_features(options: argparse.Namespace, settings: Settings) -> None:
    from realtime.features import load, open_athena, open_duckdb

    lake = os.environ.get("LAKE") or ""
    if options.athena and not lake.startswith("s3://"):
        raise RealtimeError("LAKE is not set to s3://…: that is where Athena puts results of queries")
    now = settings.clock().now()
    with open_athena(lake) if options.athena else open_duckdb(options.warehouse) as source:
        loaded = asyncio.run(_with_pool(settings, load, source, now))
    for table, rows in loaded.items():
        print(f"{table}: {rows:,} rows")


def _relay(options: argparse.Namespace, settings: Settings) -> None:
    import uvloop

    from realtime.worker import run_relay

    with telemetry("credit-relay"):
        uvloop.run(run_relay(settings, options.lease))


def _dashboard(options: argparse.Namespace, settings: Settings) -> None:
    import uvloop

    from realtime.dashboard.app import Dashboard

    with telemetry("credit-dashboard"):
        uvloop.run(Dashboard(settings).run())


def _add_user(options: argparse.Namespace, settings: Settings) -> None:
    from realtime.dashboard.access import add_user

    if not settings.realtime_dashboard_users:
        raise RealtimeError("REALTIME_DASHBOARD_USERS is not set: it names the file of users")
    path = Path(settings.realtime_dashboard_users)
    password = add_user(path, options.name, options.partner, options.subject)
    print(password or f"{options.name} logs in with the identity provider")


def _add_key(options: argparse.Namespace, settings: Settings) -> None:
    from realtime.keys import add_key

    print(
        asyncio.run(_with_pool(settings, add_key, options.name, options.partner, options.rate, options.burst))
    )


def _replay(options: argparse.Namespace, settings: Settings) -> int:
    from realtime.decisions import replay
    from realtime.policy import load_policies

    differences = asyncio.run(_with_pool(settings, replay, options.order_id, load_policies()))
    print("\n".join(differences) or "the same decision")
    return 1 if differences else 0


def _replay_dead_letters(options: argparse.Namespace, settings: Settings) -> None:
    from realtime.queue import replay_dead_letters

    print(f"{asyncio.run(_with_pool(settings, replay_dead_letters, options.order))} put back into the queue")


async def _with_pool(settings: Settings, act: object, *arguments: object) -> object:
    from realtime.database import UNAVAILABLE, open_pool

    try:
        async with open_pool(settings.realtime_dsn, 1) as pool:
            return await act(pool, *arguments)
    except UNAVAILABLE:
        raise RealtimeError("the database does not answer: check REALTIME_DSN") from None


if __name__ == "__main__":
    sys.exit(main())
