"""What a command says while it works: lines and bars for a person, or JSON lines for a machine."""

import json
import sys
import time
from datetime import UTC, date, datetime
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ingestion.config import TableConfig
    from ingestion.lake import BatchWriter
    from ingestion.run import Landed


class Reporter:
    """Is told what happens; this one says nothing. Never given a value of a record."""

    def started(self, command: str, extract_date: date, tables: list["TableConfig"]) -> None:
        """The lake is held and the source connected."""

    def reading(self, table: "TableConfig", out: "BatchWriter | None") -> None:
        """A table begins; `out` is its batch, once it is open."""

    def said(self, name: str, text: str) -> None:
        """A source has something to show about the table `name`."""

    def finished(self, landed: "Landed") -> None:
        """A table has landed or failed."""

    def ended(self, command: str, results: list["Landed"], where: str, exit_code: int) -> None:
        """The command is at its end; `where` is the lake."""

    def failed(self, message: str, exit_code: int) -> None:
        """Nothing could be done at all, or the command was interrupted."""


def open_reporter(log_format: str) -> Reporter:
    """The reporter that `LOG_FORMAT` asks for: JSON lines where it says nothing and stdout is no terminal."""
    if log_format == "json" or (not log_format and not sys.stdout.isatty()):
        return JsonReporter(sys.stderr)
    return BarReporter() if sys.stdout.isatty() else TextReporter()


class JsonReporter(Reporter):
    """One JSON object a line: `ts` (UTC), `level`, `event`, and what belongs to the event."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._began = time.monotonic()

    def event(self, name: str, level: str = "info", **fields: Any) -> None:
        """Write one line."""
        ts = datetime.now(UTC).isoformat(timespec="milliseconds")
        print(json.dumps({"ts": ts, "level": level, "event": name, **fields}), file=self._stream, flush=True)

    def started(self, command: str, extract_date: date, tables: list["TableConfig"]) -> None:
        """See `Reporter`."""
        self.event("run_started", command=command, extract_date=extract_date.isoformat(), tables=len(tables))

    def finished(self, landed: "Landed") -> None:
        """See `Reporter`."""
        table = landed.table.name
        for change in landed.drift:
            self.event("drift", "warning", table=table, change=change)
        seconds = round(landed.seconds, 3)
        if landed.error:
            self.event("table_failed", "error", table=table, seconds=seconds, error=landed.error)
            return
        counts = ("rows", "deleted", "extracted", "skipped", "rejected", "bytes", "batches")
        self.event("table_landed", table=table, seconds=seconds, **{c: getattr(landed, c) for c in counts})
        if landed.is_alert:
            self.event(
                "dead_letter_alert",
                "error",
                table=table,
                rejected=landed.rejected,
                extracted=landed.extracted,
                threshold=landed.table.dead_letter_alert,
            )

    def ended(self, command: str, results: list["Landed"], where: str, exit_code: int) -> None:
        """See `Reporter`."""
        self.event(
            "run_finished",
            "error" if exit_code else "info",
            command=command,
            tables=len(results),
            failed=sum(bool(r.error) for r in results),
            rows=sum(r.rows for r in results),
            bytes=sum(r.bytes for r in results),
            seconds=round(time.monotonic() - self._began, 3),
            exit_code=exit_code,
        )

    def failed(self, message: str, exit_code: int) -> None:
        """See `Reporter`."""
        self.event("run_failed", "error", error=message, exit_code=exit_code)


class TextReporter(Reporter):
    """A line for every table on stdout, problems on stderr."""

    _day: date | None = None

    def started(self, command: str, extract_date: date, tables: list["TableConfig"]) -> None:
        """See `Reporter`."""
        self._day = extract_date

    def finished(self, landed: "Landed") -> None:
        """See `Reporter`."""
        table = landed.table.name
        for change in landed.drift:
            self._problem(f"columns of {table} have changed: {change}", "note")
        if landed.error:
            self._problem(landed.error)
            return
        deleted = f"  ({landed.deleted:,} of them deletions)" if landed.deleted else ""
        size = f"{landed.bytes / 1e6:.2f} MB"
        self._line(f"  {table:<26}{landed.rows:>11,} rows {size:>11} {landed.seconds:>6.1f} s{deleted}")
        if landed.is_alert:
            self._problem(
                f"{table}: {landed.rejected:,} of {landed.extracted:,} records became dead letters, more than"
                f" its dead_letter_alert of {landed.table.dead_letter_alert:g}; mend what their reasons name,"
                " then run `python -m ingestion replay`"
            )

    def ended(self, command: str, results: list["Landed"], where: str, exit_code: int) -> None:
        """See `Reporter`."""
        failed = sum(bool(r.error) for r in results)
        rows = sum(r.rows for r in results)
        self._line(
            f"{self._day}: {rows:,} rows of {len(results) - failed} tables landed in {where}"
            + (f", {failed} failed" if failed else "")
        )

    def failed(self, message: str, exit_code: int) -> None:
        """See `Reporter`."""
        self._problem(message)

    def _line(self, text: str) -> None:
        print(text, flush=True)

    def _problem(self, text: str, kind: str = "error") -> None:
        print(f"{kind}: {text}", file=sys.stderr, flush=True)


class BarReporter(TextReporter):
    """As `TextReporter`, on a terminal: with the tables done and the rows a second of the one at work."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn
        from rich.text import Text

        class Rows(ProgressColumn):
            """Rows read, and rows a second, of the batch at work: it counts them itself."""

            def render(column, task: Any) -> Text:
                read = self._out.extracted if self._out else 0
                speed = read / max(time.monotonic() - self._began, 0.001)
                return Text(f"{read:,} rows  {speed:,.0f}/s" if read else "")

        self._out: BatchWriter | None = None
        self._began = time.monotonic()
        self._errors = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), Rows(), TimeElapsedColumn(), transient=True
        )
        self._task: Any = None

    def started(self, command: str, extract_date: date, tables: list["TableConfig"]) -> None:
        """See `Reporter`."""
        super().started(command, extract_date, tables)
        self._task = self._progress.add_task(command, total=len(tables))
        self._progress.start()

    def reading(self, table: "TableConfig", out: "BatchWriter | None") -> None:
        """See `Reporter`."""
        self._out = out
        self._began = time.monotonic()
        self.said(table.name, "")

    def said(self, name: str, text: str) -> None:
        """See `Reporter`."""
        self._progress.update(self._task, description=f"{name} {text}".strip())

    def finished(self, landed: "Landed") -> None:
        """See `Reporter`."""
        self._progress.refresh()
        self._out = None
        super().finished(landed)
        self._progress.advance(self._task)

    def ended(self, command: str, results: list["Landed"], where: str, exit_code: int) -> None:
        """See `Reporter`."""
        self._progress.stop()
        super().ended(command, results, where, exit_code)

    def failed(self, message: str, exit_code: int) -> None:
        """See `Reporter`."""
        self._progress.stop()
        super().failed(message, exit_code)

    def _line(self, text: str) -> None:
        self._progress.console.print(text, highlight=False, soft_wrap=True, markup=False)

    def _problem(self, text: str, kind: str = "error") -> None:
        console = self._progress.console if self._progress.live.is_started else self._errors
        console.print(f"[red]{kind}:[/red] ", end="")
        console.print(text, highlight=False, soft_wrap=True, markup=False)
