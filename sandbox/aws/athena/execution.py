"""One execution of a statement: its states, what the API says of it, its files."""

import threading
import time
import traceback
import uuid
from collections.abc import Iterable
from typing import Any

from ..errors import InvalidRequest, QueryCancelled, QueryFailed
from ..trino import EngineError, EngineGone, Result
from . import rules, statements, types
from .engine import Engine
from .lexer import decimals_as_doubles, strip_statement, unquote
from .operations import Operations
from .results import Results, read_page
from .translation import in_athenas_words

QUEUED, RUNNING, SUCCEEDED, FAILED, CANCELLED = "QUEUED", "RUNNING", "SUCCEEDED", "FAILED", "CANCELLED"

ICEBERG_COMMIT_ERROR = 233
_WRITES = ("CREATE_TABLE_AS_SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "UNLOAD")
_TYPES = {"INSUFFICIENT_RESOURCES": (2, 102), "INTERNAL_ERROR": (1, 401), "EXTERNAL": (2, 1006)}


class Execution:
    """A statement from StartQueryExecution to its end. Thread-safe as far as the API needs it."""

    def __init__(
        self,
        engine: Engine,
        account: str,
        *,
        query: str,
        context: dict[str, str],
        configuration: dict[str, Any],
        output: str,
        workgroup: str,
        parameters: list[str] | None,
        prepared: dict[str, str],
        cutoff: int | None = None,
        reuse: dict[str, Any] | None = None,
    ) -> None:
        """Reads the statement; `start` runs it.

        Args:
            engine: what runs it.
            account: whose catalogue and buckets.
            query: as the client sent it.
            context: Database and Catalog, as sent.
            configuration: ResultConfiguration as it is shown.
            output: the output location in force, without a slash at the end.
            workgroup: its name.
            parameters: ExecutionParameters.
            prepared: the workgroup's prepared statements by name; PREPARE and DEALLOCATE change it.
            cutoff: the workgroup's limit of bytes scanned.
            reuse: ResultReuseConfiguration, as sent.

        Raises:
            InvalidRequest: Athena takes no such statement.
        """
        self.id = str(uuid.uuid4())
        self.engine, self.account = engine, account
        self.catalogue, self.storage = engine.catalogue(account), engine.storage(account)
        self.query, self.context, self.workgroup = query, context, workgroup
        self.parameters, self._given = [*map(rules.parameter, parameters or [])], parameters
        self.prepared = prepared
        self.output = output
        self.database = unquote(context.get("Database") or "default").lower()  # awswrangler quotes it
        self._configuration, self._reuse, self._cutoff = configuration, reuse, cutoff
        self.state = QUEUED
        self.error: QueryFailed | None = None
        self.reason: str | None = None
        self.submitted, self.begun, self.ended = time.time(), 0.0, 0.0
        self.bytes_scanned = 0
        self.planning = 0
        """Milliseconds."""
        self.manifest: str | None = None
        """Where the list of written files is, for statements that write."""
        self.statement: statements.Statement | None = None
        self.malformed: str | None = None
        """Set when Trino could not read the statement."""
        self._cancel = threading.Event()
        self._accepted, self._done = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        try:
            self.statement = statements.parse(strip_statement(query))
        except QueryFailed as failure:  # DDL: an execution that fails
            self.error = failure
        self._performed = self.statement
        dml = self.statement is not None and self.statement.type == statements.DML
        self.results = Results(with_header=dml)
        self._csv = dml
        self._reused: Execution | None = None
        self._identity = self._what_makes_it_the_same()

    # the life of an execution

    def start(self, earlier: Iterable["Execution"] = ()) -> None:
        """Puts it in the queue, or ends it at once with the result of an earlier one, the latest first."""
        self._reused = next(filter(self._may_reuse, earlier), None) if self._reuse_minutes else None
        if self._reused is None:
            self.engine.submit(self._run)
            return
        self.results, self.begun = self._reused.results, time.time()
        with self._lock:
            self._end(SUCCEEDED, None)

    @property
    def _reuse_minutes(self) -> int:
        """Most minutes since the end of a result that may be reused; 0: none may."""
        by_age = (self._reuse or {}).get("ResultReuseByAgeConfiguration") or {}
        reads = isinstance(self.statement, statements.Execute) or self.substatement == "SELECT"
        return int(by_age.get("MaxAgeInMinutes", 60)) if by_age.get("Enabled") and reads else 0

    def _may_reuse(self, earlier: "Execution") -> bool:
        """https://docs.aws.amazon.com/athena/latest/ug/reusing-query-results.html, key features."""
        return (
            earlier.state == SUCCEEDED
            and earlier._reused is None
            and time.time() - earlier.ended <= self._reuse_minutes * 60
            and earlier._identity == self._identity
            and not earlier._writes
            and self.storage.read(earlier.result_location) is not None
        )

    def _what_makes_it_the_same(self) -> tuple:
        text = strip_statement(self.query)
        body = (
            self.prepared.get(self.statement.name) if isinstance(self.statement, statements.Execute) else None
        )
        catalog = (self.context.get("Catalog") or "awsdatacatalog").lower()
        return self.workgroup, catalog, self.database, text, body, self.parameters, dict(self._configuration)

    def wait_accepted(self, patience: float) -> None:
        """Waits until Trino has read the statement, or it has ended."""
        deadline = time.monotonic() + patience
        while not self._accepted.wait(0.05) and self.state != QUEUED and time.monotonic() < deadline:
            pass

    def wait(self, patience: float) -> None:
        """Waits for the end."""
        self._done.wait(patience)

    def cancel(self) -> None:
        """Stops it, if it is not over."""
        self._cancel.set()
        with self._lock:
            if self.state == QUEUED:
                self._end(CANCELLED, "Query cancelled by user")

    def _run(self) -> None:
        with self._lock:
            if self.state != QUEUED:
                return
            self.state, self.begun = RUNNING, time.time()
        state, reason = SUCCEEDED, None
        try:
            if self.error:
                raise self.error
            Operations(self).run(self.statement)
            self.check()
            self._write_files()
        except QueryCancelled as cancelled:
            state, reason = CANCELLED, str(cancelled)
        except (QueryFailed, InvalidRequest, EngineError, EngineGone) as error:
            self.error = self._as_failure(error)
            state, reason = FAILED, self.error.message
        except Exception as error:  # a mistake of ours: say so and go on
            traceback.print_exc()
            self.error = QueryFailed(f"GENERIC_INTERNAL_ERROR: {type(error).__name__}: {error}", 1, 401)
            state, reason = FAILED, self.error.message
        with self._lock:
            self._end(state, reason)

    def _end(self, state: str, reason: str | None) -> None:
        if state != SUCCEEDED:
            self.results.clear()
        self.reason, self.ended = reason, time.time()
        self.state = state  # last: who reads it without the lock finds the rest
        self._accepted.set()
        self._done.set()

    def _as_failure(self, error: Exception) -> QueryFailed:
        if isinstance(error, QueryFailed):
            return error
        if isinstance(error, EngineGone):
            return QueryFailed(
                "GENERIC_INTERNAL_ERROR: the query engine stopped; run the query again",
                1,
                401,
                retryable=True,
            )
        if isinstance(error, InvalidRequest):
            return QueryFailed(str(error))
        if error.name == "SYNTAX_ERROR":
            self.malformed = in_athenas_words(error.message)
        category, kind = _TYPES.get(error.type, (2, 1001))
        if error.name.startswith("ICEBERG_"):
            category, kind = 2, ICEBERG_COMMIT_ERROR
        text = in_athenas_words(str(error))
        if self.manifest:
            text += (
                f". If a data manifest file was generated at '{self.manifest}', you may need to manually"
                " clean the"
                " data from locations specified in the manifest. Athena will not delete data in your account."
            )
        return QueryFailed(text, category, kind)

    # what operations need

    def check(self) -> None:
        """Ends the execution here when it was cancelled or has read too much.

        Raises:
            QueryCancelled: so it is.
        """
        if self._cancel.is_set():
            raise QueryCancelled("Query cancelled by user")
        if self._cutoff is not None and self.bytes_scanned > self._cutoff:
            raise QueryCancelled("Query cancelled! : Bytes scanned limit was exceeded")

    def run_on_trino(
        self, sql: str, session: list[str] | tuple[str, ...] = (), *, keep: bool = False
    ) -> Result:
        """Runs a statement on Trino; with `keep`, what it returns is this execution's result.

        Raises:
            EngineError, EngineGone: it failed.
            QueryCancelled: see `check`.
        """
        trino, before, answers = self.engine.trino(), self.bytes_scanned, 0

        def watch(result: Result) -> None:
            nonlocal answers
            answers += 1
            self.bytes_scanned = before + result.bytes_read
            if answers > 1:  # the first comes before Trino has read the statement
                self._accepted.set()
            self.check()

        def take(result: Result) -> None:
            if result.update_type is None:
                self.results.add(result.columns, result.rows)

        rules.check_catalogs(sql)
        result = trino.run(decimals_as_doubles(sql), self.database, session, watch, take if keep else None)
        self.bytes_scanned = before + result.bytes_read
        self.planning += result.planning
        if keep and result.update_type is not None:
            self.results.clear()
            self.results.update_count = result.update_count or 0
            # The columns of UNLOAD describe its count as if that were a row, which it is not.
            if not isinstance(self._performed, statements.Unload):
                self.results.columns = [types.column_info(column) for column in result.columns]
        self.check()
        return result

    def performs(self, prepared: statements.Statement, parameters: list[str]) -> None:
        """EXECUTE: this execution does what a prepared statement says."""
        self._performed = prepared
        self.parameters = parameters or self.parameters

    @property
    def substatement(self) -> str:
        """SubstatementType of the API."""
        return self.statement.substatement if self.statement else ""

    # files and the API

    @property
    def _writes(self) -> bool:
        return self._performed is not None and self._performed.substatement in _WRITES

    @property
    def result_location(self) -> str:
        """Where the result is; of statements that write, only the metadata are."""
        if self._reused is not None:
            return self._reused.result_location
        return f"{self.output}/{self.id}" + ("" if self._writes else ".csv" if self._csv else ".txt")

    def _write_files(self) -> None:
        if not self._writes:
            self.storage.write(self.result_location, self.results.content())
        self.storage.write(self.result_location + ".metadata", self.results.metadata())
        self.results.release()

    def page(self, token: str | None, size: int) -> dict[str, Any]:
        """The answer of GetQueryResults, read from the output location as Athena does.

        Raises:
            InvalidRequest: there is no result.
        """
        if self.state != SUCCEEDED:
            ended = "Query did not finish successfully." if self.ended else "Query has not yet finished."
            name = "Final query state" if self.ended else "Current state"
            raise InvalidRequest(f"{ended} {name}: {self.state}", "INVALID_QUERY_EXECUTION_STATE")
        rows: list[list[str | None]] = []
        following = None
        if not self._writes:
            content = self.storage.read(self.result_location)
            if content is None:
                raise InvalidRequest("Could not find results")
            try:
                start = int(token or 0)
            except ValueError:
                raise InvalidRequest("NextToken is not valid") from None
            rows, following = read_page(content, start, size, csv=self._csv)
        answer: dict[str, Any] = {
            "UpdateCount": self.results.update_count or 0,
            "ResultSet": {
                "Rows": [{"Data": [{} if v is None else {"VarCharValue": v} for v in row]} for row in rows],
                "ResultSetMetadata": {"ColumnInfo": self.results.columns},
            },
        }
        if following is not None:
            answer["NextToken"] = str(following)
        return answer

    def describe(self) -> dict[str, Any]:
        """QueryExecution of the API."""
        state = self.state
        now = self.ended or time.time()
        # Nothing takes no time there: clients take 0 for a value that is missing.
        queued = max(1, int(((self.begun or now) - self.submitted) * 1000))
        running = max(1, int((now - self.submitted) * 1000) - queued)
        statistics = {
            "DataScannedInBytes": self.bytes_scanned,
            "EngineExecutionTimeInMillis": running,
            "QueryPlanningTimeInMillis": self.planning,
            "QueryQueueTimeInMillis": queued,
            "ServicePreProcessingTimeInMillis": 0,
            "ServiceProcessingTimeInMillis": 0,
            "TotalExecutionTimeInMillis": queued + running,
            "ResultReuseInformation": {"ReusedPreviousResult": self._reused is not None},
        }
        if self.manifest and state == SUCCEEDED:
            statistics["DataManifestLocation"] = self.manifest
        status: dict[str, Any] = {"State": state, "SubmissionDateTime": self.submitted}
        if state in (SUCCEEDED, FAILED, CANCELLED):
            status["CompletionDateTime"] = self.ended
        if self.reason:
            status["StateChangeReason"] = self.reason
        if self.error and state == FAILED:
            status["AthenaError"] = {
                "ErrorCategory": self.error.category,
                "ErrorType": self.error.type,
                "Retryable": self.error.retryable,
                "ErrorMessage": self.error.message,
            }
        described = {
            "QueryExecutionId": self.id,
            "Query": self.query,
            "StatementType": self.statement.type if self.statement else statements.DDL,
            "SubstatementType": self.substatement,
            "ResultConfiguration": {**self._configuration, "OutputLocation": self.result_location},
            "ResultReuseConfiguration": self._reuse or {"ResultReuseByAgeConfiguration": {"Enabled": False}},
            "QueryExecutionContext": self.context,
            "Status": status,
            "Statistics": statistics,
            "WorkGroup": self.workgroup,
            "EngineVersion": ENGINE_VERSION,
        }
        if self._given:
            described["ExecutionParameters"] = self._given
        return {key: value for key, value in described.items() if value != ""}


ENGINE_VERSION = {
    "SelectedEngineVersion": "AUTO",
    "EffectiveEngineVersion": "Athena engine version 3",
}
