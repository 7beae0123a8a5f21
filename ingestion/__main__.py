"""The command line: `python -m ingestion --help`. docs/operations.md says what each exit code means."""

import argparse
import gc
import os
import signal
import sys
from datetime import date
from pathlib import Path
from types import FrameType, ModuleType
from typing import TYPE_CHECKING

from ingestion.errors import DEAD_LETTERS, ConfigurationError, IngestionError
from ingestion.log import Reporter, TextReporter, open_reporter

# numpy's BLAS, which nothing here computes with, would start a thread for each processor.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

if TYPE_CHECKING:
    from ingestion.config import TableConfig
    from ingestion.run import Landed
    from ingestion.settings import Settings

OK, FAILED = 0, IngestionError.exit_code


class Terminated(BaseException):
    """The process was asked to end (SIGTERM)."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns its exit code. What a person can act on is one line."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if not hasattr(options, "act"):
        parser.print_help()
        return ConfigurationError.exit_code
    signal.signal(signal.SIGTERM, _terminate)
    reporter: Reporter = TextReporter()
    try:
        # Later than the arguments: most of a short run's time is spent on starting up.
        from ingestion.settings import load_settings

        settings = load_settings()
        if options.command in ("run", "backfill", "replay"):
            reporter = open_reporter(settings.log_format)
        code = options.act(options, settings, reporter)
        sys.stdout.flush()
        return code
    except IngestionError as error:
        reporter.failed(str(error), error.exit_code)
        return error.exit_code
    except BrokenPipeError:
        # Whoever read our output has left: nothing is left to say, also not when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:
        reason = f"{error.strerror or type(error).__name__}: {error.filename or 'check the disk and LAKE'}"
        reporter.failed(reason, FAILED)
        return FAILED
    except KeyboardInterrupt:
        reporter.failed("interrupted; run again to finish", 128 + signal.SIGINT)
        return 128 + signal.SIGINT
    except Terminated:
        reporter.failed("terminated; run again to finish", 128 + signal.SIGTERM)
        return 128 + signal.SIGTERM


def _terminate(number: int, frame: FrameType | None) -> None:
    # Once is enough: what is being undone now is not to be interrupted again.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Terminated


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ingestion",
        description="Land PostgreSQL tables, API answers and event files in the lake. Settings come from the"
        " environment (.env.example lists them); ingestion/sources.yml says what is landed.",
    )
    commands = parser.add_subparsers(dest="command", metavar="command")

    def command(name: str, act: object, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(act=act)
        return sub

    run = command("run", _run, "Land what is new since the last run; safe to repeat after any failure.")
    run.add_argument(
        "--reconcile",
        action="store_true",
        help="compare PostgreSQL tables whole: finds what no watermark can, and hard deletes",
    )
    status = command("status", _status, "Show the newest batch of every table, its lag, failures and drift.")
    status.add_argument("--json", action="store_true", help="for a program")
    verify = command("verify", _verify, "Prove that the lake is whole and holds what the source holds.")
    verify.add_argument("--no-source", action="store_true", help="look at the lake only, not at PostgreSQL")
    backfill = command(
        "backfill", _backfill, "Land what the lake lacks of a range of days (PostgreSQL tables)."
    )
    backfill.add_argument("--from", dest="first", type=_day, required=True, metavar="DAY", help="first day")
    backfill.add_argument("--to", dest="last", type=_day, required=True, metavar="DAY", help="last day")
    replay = command("replay", _replay, "Try the records that could not be landed again.")
    discover = command("discover", _discover, "Write a sources.yml for any PostgreSQL schema.")
    discover.add_argument("dsn", metavar="DSN", help="a connection string, or - for SOURCE_DSN")
    discover.add_argument("--schema", default="public", help="default: public")
    discover.add_argument("--output", type=Path, metavar="FILE", help="default: stdout; never overwritten")
    for sub in (run, backfill, replay):
        sub.add_argument(
            "--date",
            type=_day,
            metavar="DAY",
            help="logical day of the run; default: EXTRACT_DATE, or today in America/Sao_Paulo",
        )
    for sub in (run, status, verify, backfill, replay):
        sub.add_argument(
            "--table",
            action="append",
            default=[],
            metavar="NAME",
            help="only this table (source.table) or source; may be repeated",
        )
        sub.add_argument(
            "--sources", type=Path, metavar="FILE", help="default: SOURCES_FILE, or ingestion/sources.yml"
        )
    return parser


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no day; write it as 2025-12-31") from None


def _tables(options: argparse.Namespace, settings: "Settings") -> "list[TableConfig]":
    from ingestion.config import SOURCES_FILE, load_sources, select_tables

    file = options.sources or settings.sources_file or SOURCES_FILE
    return select_tables(load_sources(file), options.table)


def _run(options: argparse.Namespace, settings: "Settings", reporter: Reporter) -> int:
    from ingestion import postgres_driver

    tables = _dated(options, settings)
    dsn = settings.source_dsn.get_secret_value()
    if dsn and any(t.kind == "postgres" for t in tables):
        # PostgreSQL answers while Python imports Arrow, most of what is left to start.
        postgres_driver.open_early(dsn)
    # boto3 needs what is spared.
    on_s3 = settings.lake_root.startswith("s3://")
    if __name__ == "__main__" and not on_s3 and all(t.kind == "postgres" for t in tables):
        _start_arrow_light()
    gc.disable()  # what is imported stays: looking for what could go is a twentieth of a start
    from ingestion.run import run

    gc.enable()
    results = run(settings, tables, reconcile=options.reconcile, reporter=reporter)
    return _end("run", results, settings, reporter)


def _start_arrow_light() -> None:
    """Spare this process what Arrow imports wherever it finds it, a third of a small increment's time.

    What lands PostgreSQL's tables needs none of it. Only for a process that is ours alone.
    """
    for name in ("numpy", "dateutil", "pytz", "cloudpickle"):
        sys.modules[name] = None  # type: ignore[assignment]
    # `pyarrow.compute` reads the documentation of 286 functions with this, to write theirs.
    docscrape = ModuleType("pyarrow.vendored.docscrape")
    docscrape.NumpyDocString = lambda text: {"Parameters": []}  # type: ignore[attr-defined]
    sys.modules[docscrape.__name__] = docscrape


def _backfill(options: argparse.Namespace, settings: "Settings", reporter: Reporter) -> int:
    from ingestion.run import backfill

    tables = _dated(options, settings)
    if options.last < options.first:
        raise ConfigurationError(f"--from {options.first} is later than --to {options.last}")
    if not options.table:
        tables = [t for t in tables if t.kind == "postgres" and t.cursor]
    results = backfill(settings, tables, options.first, options.last, reporter=reporter)
    return _end("backfill", results, settings, reporter)


def _replay(options: argparse.Namespace, settings: "Settings", reporter: Reporter) -> int:
    from ingestion.run import replay

    return _end("replay", replay(settings, _dated(options, settings), reporter=reporter), settings, reporter)


def _dated(options: argparse.Namespace, settings: "Settings") -> "list[TableConfig]":
    if options.date:
        settings.extract_date = options.date
    return _tables(options, settings)


def _end(command: str, results: "list[Landed]", settings: "Settings", reporter: Reporter) -> int:
    code = OK
    if any(r.is_alert for r in results) and command == "run":
        code = DEAD_LETTERS
    if any(r.error for r in results):
        code = FAILED
    reporter.ended(command, results, settings.lake_root, code)
    return code


def _status(options: argparse.Namespace, settings: "Settings", reporter: Reporter) -> int:
    from ingestion import status

    found = status.collect(settings, _tables(options, settings))
    status.show_json(found) if options.json else status.show(found)
    return OK


def _verify(options: argparse.Namespace, settings: "Settings", reporter: Reporter) -> int:
    from ingestion.lake import Lake
    from ingestion.verify import report

    lake = Lake.open(settings.lake_root, settings.world, settings.source_id)
    dsn = None if options.no_source else settings.source_dsn.get_secret_value()
    tables = _tables(options, settings)
    return OK if report(lake, tables, dsn, for_people=sys.stdout.isatty(), write=print) else FAILED


def _discover(options: argparse.Namespace, settings: "Settings", reporter: Reporter) -> int:
    from ingestion import discover

    dsn = settings.source_dsn.get_secret_value() if options.dsn == "-" else options.dsn
    if options.output and options.output.exists():
        raise ConfigurationError(f"{options.output} exists; name a new file")
    text = discover.discover(dsn, options.schema)
    if options.output:
        options.output.write_text(text, encoding="utf-8")
    else:
        print(text, end="")
    return OK


if __name__ == "__main__":
    ended_with = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Everything is closed. To take Python and Arrow apart would be a tenth of a small increment's time.
    os._exit(ended_with)
