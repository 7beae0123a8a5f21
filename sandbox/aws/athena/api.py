"""The API of Athena, on moto's: workgroups, catalogues and tags stay moto's, executions are real.

moto: records executions and answers with prepared results; lacks many calls. AWS: see each method.
"""

import json
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from moto.athena.models import AthenaBackend, NamedQuery, WorkGroup
from moto.athena.responses import AthenaResponse

from ..errors import InvalidRequest
from . import rules
from .catalogue import Catalogue, table_metadata
from .engine import Engine
from .execution import ENGINE_VERSION, Execution
from .lexer import has_several_statements
from .results import MAX_PAGE
from .storage import split_location

CATALOG = "AwsDataCatalog"

_ANSWER_AT_ONCE = 0.25
"""Seconds that GetQueryExecution waits for an end: most statements are over before a client's first poll."""


class ApiError(Exception):
    """An error of the API other than InvalidRequestException."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass
class _State:
    """What moto's backend has no place for. It hangs on that backend, so a reset forgets it."""

    executions: dict[str, Execution] = field(default_factory=dict)
    tokens: dict[str, tuple[dict[str, Any], str]] = field(default_factory=dict)
    """ClientRequestToken → the request, and the execution it started."""
    prepared: dict[str, dict[str, str]] = field(default_factory=dict)
    """Workgroup → prepared statements by name."""
    described: dict[tuple[str, str], tuple[str, float]] = field(default_factory=dict)
    """Workgroup and prepared statement → its description, and when it was last changed."""


class LocalAthena(AthenaResponse):
    """Moto's Athena with executions that run."""

    engine: ClassVar[Engine]

    def call_action(self) -> Any:
        """Turns our exceptions into answers."""
        try:
            self.engine.check_region(self.region)
            return super().call_action()
        except InvalidRequest as error:
            return self._refusal("InvalidRequestException", str(error), AthenaErrorCode=error.code)
        except ApiError as error:
            return self._refusal(error.kind, str(error))
        except NotImplementedError:  # of moto
            return self._refusal(
                "InvalidRequestException", f"the local Athena has no {self._get_action()}: AWS alone has it"
            )

    def _refusal(self, kind: str, message: str, **more: str) -> Any:
        headers = {**self.response_headers, "x-amzn-errortype": kind}
        return 400, headers, json.dumps({"__type": kind, "Message": message, "message": message, **more})

    # helpers

    @property
    def _backend(self) -> AthenaBackend:
        return self.athena_backend

    @property
    def _state(self) -> _State:
        if not hasattr(self._backend, "local_state"):
            self._backend.local_state = _State()
        return self._backend.local_state

    @property
    def _catalogue(self) -> Catalogue:
        return self.engine.catalogue(self.current_account)

    def _work_group(self, name: str | None) -> WorkGroup:
        found = self._backend.work_groups.get(name or "primary")
        if found is None:
            raise InvalidRequest(f"WorkGroup {name} is not found.", "WORKGROUP_NOT_FOUND")
        return found

    def _execution(self, name: str | None = None) -> Execution:
        name = name or self._get_param("QueryExecutionId")
        found = self._state.executions.get(name)
        if found is None:
            raise InvalidRequest(f"QueryExecution {name} was not found")
        return found

    def _page(self, items: Iterable[Any], limit: int) -> tuple[list[Any], dict[str, str]]:
        """The items of the page asked for, and NextToken if there are more."""
        items = list(items)
        try:
            start = int(self._get_param("NextToken") or 0)
        except ValueError:
            raise InvalidRequest("NextToken is not valid") from None
        size = min(int(self._get_param("MaxResults") or limit), limit)
        more = {"NextToken": str(start + size)} if start + size < len(items) else {}
        return items[start : start + size], more

    # executions

    def start_query_execution(self) -> str:
        """AWS: checks workgroup, output location and syntax at once, then queues."""
        request = {
            name: self._get_param(name)
            for name in ("QueryString", "QueryExecutionContext", "ResultConfiguration", "WorkGroup",
                         "ExecutionParameters", "ResultReuseConfiguration")
        }  # fmt: skip
        token = self._get_param("ClientRequestToken")
        state = self._state
        if token in state.tokens:
            before, started = state.tokens[token]
            if before != request:
                raise InvalidRequest("Idempotent parameters do not match")
            return json.dumps({"QueryExecutionId": started})
        execution = self._new_execution(request)
        earlier = list(state.executions.values())
        state.executions[execution.id] = execution
        if token:
            state.tokens[token] = (request, execution.id)
        execution.start(reversed(earlier))
        execution.wait_accepted(30)
        if execution.malformed is not None:
            del state.executions[execution.id]
            state.tokens.pop(token, None)
            raise InvalidRequest(execution.malformed, "MALFORMED_QUERY")
        return json.dumps({"QueryExecutionId": execution.id})

    def _new_execution(self, request: dict[str, Any]) -> Execution:
        query = request["QueryString"] or ""
        group = self._work_group(request["WorkGroup"])
        if group.state != "ENABLED":
            raise InvalidRequest(f"WorkGroup {group.name} is disabled")
        if len(query) > rules.MAX_QUERY:
            raise InvalidRequest(
                "1 validation error detected: Value at 'queryString' failed to satisfy constraint:"
                f" Member must have length less than or equal to {rules.MAX_QUERY}"
            )
        _check_reuse(request["ResultReuseConfiguration"])
        configuration, output = self._output_location(group, request["ResultConfiguration"] or {})
        if has_several_statements(query):
            raise InvalidRequest(f"Only one sql statement is allowed. Got: {query}", "MALFORMED_QUERY")
        catalog = (request["QueryExecutionContext"] or {}).get("Catalog") or CATALOG
        if catalog.lower() != CATALOG.lower() and catalog not in self._backend.data_catalogs:
            raise InvalidRequest(f"Catalog {catalog} was not found")
        execution = Execution(
            self.engine,
            self.current_account,
            query=query,
            context=dict(request["QueryExecutionContext"] or {}),
            configuration=configuration,
            output=output,
            workgroup=group.name,
            parameters=request["ExecutionParameters"],
            prepared=self._state.prepared.setdefault(group.name, {}),
            cutoff=group.configuration.get("BytesScannedCutoffPerQuery"),
            reuse=request["ResultReuseConfiguration"],
        )
        self.engine.storage(self.current_account).check_bucket(output)
        return execution

    def _output_location(self, group: WorkGroup, given: dict[str, Any]) -> tuple[dict[str, Any], str]:
        """The result configuration in force, and its location: the workgroup's if it enforces its own."""
        of_group = group.configuration.get("ResultConfiguration") or {}
        if group.configuration.get("EnforceWorkGroupConfiguration") and of_group.get("OutputLocation"):
            configuration = dict(of_group)
        else:
            configuration = {**of_group, **given}
        location = configuration.get("OutputLocation")
        if not location:
            raise InvalidRequest(
                "No output location provided. An output location is required either through the Workgroup"
                " result"
                " configuration setting or as an API input."
            )
        split_location(location)
        return configuration, location.rstrip("/")

    def get_query_execution(self) -> str:
        """AWS: the state as it is."""
        execution = self._execution()
        execution.wait(_ANSWER_AT_ONCE)
        return json.dumps({"QueryExecution": execution.describe()})

    def batch_get_query_execution(self) -> str:
        """AWS: up to 50, those not found apart."""
        names = self._get_param("QueryExecutionIds")
        known = self._state.executions
        return json.dumps(
            {
                "QueryExecutions": [known[name].describe() for name in names if name in known],
                "UnprocessedQueryExecutionIds": [
                    {
                        "QueryExecutionId": name,
                        "ErrorCode": "INVALID_QUERY_EXECUTION_ID",
                        "ErrorMessage": f"QueryExecution {name} was not found",
                    }
                    for name in names
                    if name not in known
                ],
            }
        )

    def list_query_executions(self) -> str:
        """AWS: of one workgroup, `primary` by default, the latest first."""
        group = self._work_group(self._get_param("WorkGroup")).name
        newest = reversed(self._state.executions.values())
        page, more = self._page((x.id for x in newest if x.workgroup == group), 50)
        return json.dumps({"QueryExecutionIds": page, **more})

    def stop_query_execution(self) -> str:
        """AWS: cancels what runs; has no effect on what is over."""
        self._execution().cancel()
        return "{}"

    def get_query_results(self) -> str:
        """AWS: pages of at most 1,000 rows; the first row of a query is its header."""
        size = self._get_param("MaxResults")
        if size is not None and int(size) > MAX_PAGE:
            raise InvalidRequest(f"MaxResults is more than maximum allowed length {MAX_PAGE}")
        page = self._execution().page(self._get_param("NextToken"), int(size or MAX_PAGE))
        return json.dumps(page)

    def get_query_runtime_statistics(self) -> str:
        """AWS: times and volumes of an execution."""
        statistics = self._execution().describe()["Statistics"]
        timeline = {name: value for name, value in statistics.items() if name.endswith("InMillis")}
        rows = {"InputBytes": statistics["DataScannedInBytes"]}
        return json.dumps({"QueryRuntimeStatistics": {"Timeline": timeline, "Rows": rows}})

    # workgroups

    def create_work_group(self) -> Any:
        """AWS: the configuration may be absent."""
        name = self._get_param("Name")
        if name in self._backend.work_groups:
            raise InvalidRequest("WorkGroup is already created")
        self._backend.create_work_group(
            name, self._get_param("Configuration") or {}, self._get_param("Description") or "",
            self._get_param("Tags") or [],
        )  # fmt: skip
        return "{}"

    def get_work_group(self) -> str:
        """AWS: an unknown one is an error."""
        group = self._work_group(self._get_param("WorkGroup"))
        return json.dumps({"WorkGroup": self._backend.get_work_group(group.name)})

    def list_work_groups(self) -> str:
        """AWS: with the engine version, in pages."""
        listed = [{**group, "EngineVersion": ENGINE_VERSION} for group in self._backend.list_work_groups()]
        page, more = self._page(listed, 50)
        return json.dumps({"WorkGroups": page, **more})

    def update_work_group(self) -> str:
        """AWS: changes what is given."""
        group = self._work_group(self._get_param("WorkGroup"))
        if (description := self._get_param("Description")) is not None:
            group.description = description
        if state := self._get_param("State"):
            group.state = state
        updates = self._get_param("ConfigurationUpdates") or {}
        results = dict(group.configuration.get("ResultConfiguration") or {})
        for name, value in (updates.pop("ResultConfigurationUpdates", None) or {}).items():
            _update(results, name, value)
        group.configuration["ResultConfiguration"] = results
        for name, value in updates.items():
            _update(group.configuration, name, value)
        return "{}"

    def delete_work_group(self) -> str:
        """AWS: not the primary one; one with contents only recursively."""
        group = self._work_group(self._get_param("WorkGroup"))
        if group.name == "primary":
            raise InvalidRequest("The primary workgroup cannot be deleted")
        used = self._state.prepared.get(group.name) or any(
            query.workgroup is group for query in self._backend.named_queries.values()
        )
        if used and not self._get_param("RecursiveDeleteOption"):
            raise InvalidRequest(f"WorkGroup {group.name} is not empty")
        self._backend.delete_work_group(group.name)
        self._state.prepared.pop(group.name, None)
        return "{}"

    def list_engine_versions(self) -> str:
        """AWS: AUTO and version 3."""
        third = dict.fromkeys(ENGINE_VERSION, ENGINE_VERSION["EffectiveEngineVersion"])
        return json.dumps({"EngineVersions": [ENGINE_VERSION, third]})

    # prepared statements

    def create_prepared_statement(self) -> str:
        """AWS: names are the workgroup's own."""
        prepared, name = self._prepared()
        if name in prepared:
            raise InvalidRequest(f"Prepared Statement {name} already exists")
        return self._put_prepared(prepared, name)

    def update_prepared_statement(self) -> str:
        """AWS: must exist."""
        return self._put_prepared(*self._prepared(must=True))

    def _put_prepared(self, prepared: dict[str, str], name: str) -> str:
        prepared[name] = self._get_param("QueryStatement")
        group = self._get_param("WorkGroup")
        self._state.described[(group, name)] = (self._get_param("Description") or "", time.time())
        return "{}"

    def get_prepared_statement(self) -> str:
        """AWS: unknown ones are ResourceNotFoundException."""
        _, name = self._prepared(must=True)
        return json.dumps({"PreparedStatement": self._describe_prepared(self._get_param("WorkGroup"), name)})

    def batch_get_prepared_statement(self) -> str:
        """AWS: those not found apart."""
        group = self._work_group(self._get_param("WorkGroup")).name
        prepared, names = self._state.prepared.get(group, {}), self._get_param("PreparedStatementNames")
        return json.dumps(
            {
                "PreparedStatements": [self._describe_prepared(group, n) for n in names if n in prepared],
                "UnprocessedPreparedStatementNames": [
                    {"StatementName": n, "ErrorCode": "PREPARED_STATEMENT_NOT_FOUND"}
                    for n in names
                    if n not in prepared
                ],
            }
        )

    def list_prepared_statements(self) -> str:
        """AWS: of one workgroup, in pages."""
        group = self._work_group(self._get_param("WorkGroup")).name
        names = sorted(self._state.prepared.get(group, {}))
        page, more = self._page(names, 50)
        listed = [
            {
                "StatementName": name,
                "LastModifiedTime": self._describe_prepared(group, name)["LastModifiedTime"],
            }
            for name in page
        ]
        return json.dumps({"PreparedStatements": listed, **more})

    def delete_prepared_statement(self) -> str:
        """AWS: must exist."""
        prepared, name = self._prepared(must=True)
        del prepared[name]
        return "{}"

    def _prepared(self, *, must: bool = False) -> tuple[dict[str, str], str]:
        group = self._work_group(self._get_param("WorkGroup")).name
        prepared = self._state.prepared.setdefault(group, {})
        name = self._get_param("StatementName").lower()
        if must and name not in prepared:
            raise ApiError("ResourceNotFoundException", f"Prepared Statement {name} does not exist")
        return prepared, name

    def _describe_prepared(self, group: str, name: str) -> dict[str, Any]:
        description, changed = self._state.described.get((group, name), ("", time.time()))
        return {
            "StatementName": name,
            "QueryStatement": self._state.prepared[group][name],
            "WorkGroupName": group,
            "LastModifiedTime": changed,
            **({"Description": description} if description else {}),
        }

    # named queries

    def get_named_query(self) -> str:
        """AWS: unknown ones are an error."""
        return json.dumps({"NamedQuery": _describe_named(self._named())})

    def batch_get_named_query(self) -> str:
        """AWS: those not found apart."""
        names, known = self._get_param("NamedQueryIds"), self._backend.named_queries
        return json.dumps(
            {
                "NamedQueries": [_describe_named(known[name]) for name in names if name in known],
                "UnprocessedNamedQueryIds": [
                    {"NamedQueryId": name, "ErrorCode": "NAMED_QUERY_NOT_FOUND"}
                    for name in names
                    if name not in known
                ],
            }
        )

    def update_named_query(self) -> str:
        """AWS: changes name, text and description."""
        query = self._named()
        query.name, query.query_string = self._get_param("Name"), self._get_param("QueryString")
        query.description = self._get_param("Description") or query.description
        return "{}"

    def delete_named_query(self) -> str:
        """AWS: must exist."""
        del self._backend.named_queries[self._named().id]
        return "{}"

    def list_named_queries(self) -> str:
        """AWS: of one workgroup, in pages."""
        group = self._work_group(self._get_param("WorkGroup"))
        page, more = self._page(
            (q.id for q in self._backend.named_queries.values() if q.workgroup is group), 50
        )
        return json.dumps({"NamedQueryIds": page, **more})

    def _named(self) -> NamedQuery:
        name = self._get_param("NamedQueryId")
        found = self._backend.named_queries.get(name)
        if found is None:
            raise InvalidRequest(f"NamedQuery {name} does not exist")
        return found

    # catalogues

    def get_data_catalog(self) -> str:
        """AWS: AwsDataCatalog is always there."""
        name = self._get_param("Name")
        if name.lower() == CATALOG.lower():
            return json.dumps(
                {
                    "DataCatalog": {
                        "Name": CATALOG,
                        "Type": "GLUE",
                        "Parameters": {"catalog-id": self.current_account},
                    }
                }
            )
        found = self._backend.get_data_catalog(name)
        if found is None:
            raise InvalidRequest(f"Data catalog {name} was not found")
        return json.dumps({"DataCatalog": {key: value for key, value in found.items() if value is not None}})

    def list_data_catalogs(self) -> str:
        """AWS: AwsDataCatalog is always there."""
        first = {"CatalogName": CATALOG, "Type": "GLUE", "Status": "CREATE_COMPLETE"}
        page, more = self._page([first, *self._backend.list_data_catalogs()], 50)
        return json.dumps({"DataCatalogsSummary": page, **more})

    def delete_data_catalog(self) -> str:
        """AWS: removes a registered catalogue."""
        self._backend.data_catalogs.pop(self._get_param("Name"), None)
        return "{}"

    def get_database(self) -> str:
        """AWS: Glue's databases; moto has a list of its own."""
        name = self._get_param("DatabaseName")
        found = self._catalogue.database(name)
        if found is None:
            raise _not_found("GetDatabase", f"Database {name} not found.")
        return json.dumps({"Database": _without_location(found)})

    def list_databases(self) -> str:
        """AWS: Glue's databases; moto has a list of its own."""
        page, more = self._page(map(_without_location, self._catalogue.databases()), 50)
        return json.dumps({"DatabaseList": page, **more})

    def get_table_metadata(self) -> str:
        """AWS: Glue's table."""
        database, name = self._get_param("DatabaseName"), self._get_param("TableName").lower()
        found = self._catalogue.find(database, name)
        if found is None:
            raise _not_found("GetTable", f"Entity Not Found: table {name} in database {database}")
        return json.dumps({"TableMetadata": table_metadata(name, found)})

    def list_table_metadata(self) -> str:
        """AWS: Glue's tables whose names match a regular expression."""
        database, expression = self._get_param("DatabaseName"), self._get_param("Expression")
        if self._catalogue.database(database) is None:
            raise _not_found("GetTables", f"Database {database} not found.")
        tables = self._catalogue.tables(database)
        names = [
            name
            for name in tables
            if not expression or re.fullmatch(expression.replace("*", ".*").replace("..*", ".*"), name)
        ]
        page, more = self._page(names, 50)
        return json.dumps({"TableMetadataList": [table_metadata(n, tables[n]) for n in page], **more})


def _check_reuse(given: dict[str, Any] | None) -> None:
    """The most that API_ResultReuseByAgeConfiguration allows."""
    age = ((given or {}).get("ResultReuseByAgeConfiguration") or {}).get("MaxAgeInMinutes") or 0
    if not 0 <= age <= rules.MAX_REUSE:
        name = "resultReuseConfiguration.resultReuseByAgeConfiguration.maxAgeInMinutes"
        raise InvalidRequest(
            f"1 validation error detected: Value '{age}' at '{name}' failed to satisfy constraint:"
            f" Member must have value less than or equal to {rules.MAX_REUSE}"
        )


def _update(configuration: dict[str, Any], name: str, value: Any) -> None:
    """`RemoveX: true` removes X; everything else sets."""
    if name.startswith("Remove"):
        if value:
            configuration.pop(name.removeprefix("Remove"), None)
    else:
        configuration[name] = value


def _describe_named(query: NamedQuery) -> dict[str, Any]:
    described = {
        "NamedQueryId": query.id,
        "Name": query.name,
        "Description": query.description,
        "Database": query.database,
        "QueryString": query.query_string,
        "WorkGroup": query.workgroup.name,
    }
    return {key: value for key, value in described.items() if value is not None}


def _without_location(database: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in database.items() if key != "LocationUri"}


def _not_found(operation: str, text: str) -> ApiError:
    return ApiError(
        "MetadataException",
        f"An error occurred (EntityNotFoundException) when calling the {operation} operation: {text}"
        " (Service: AmazonDataCatalog; Status Code: 400; Error Code: EntityNotFoundException)",
    )
