"""Glue: optimistic locking, whole answers under concurrency, views that survive a description, statistics."""

import json
import threading
from typing import Any

from moto.core.exceptions import JsonRESTError
from moto.core.responses import ActionResult, EmptyResult
from moto.glue.responses import GlueResponse

from ..trino import ACCESS_KEY

LOCK = threading.RLock()
"""Held by every call to Glue, and by Athena's own work on the catalogue."""


class CorrectedGlue(GlueResponse):
    """Moto's Glue with AWS's behaviour where it matters here."""

    def call_action(self) -> Any:
        """One call at a time.

        moto: calls of different threads work on the same dictionaries, and one that lists tables fails
        (HTTP 500) while another adds one. AWS: calls do not disturb each other.
        """
        with LOCK:
            return super().call_action()

    def update_table(self) -> ActionResult:
        """The optimistic lock.

        moto: ignores VersionId, so of two Iceberg commits at the same time one vanishes with its rows.
        AWS: a VersionId that is not the current one is refused, and the writer tries again.
        """
        wanted = self.parameters.get("VersionId")
        table = self.glue_backend.get_table(
            self.parameters["DatabaseName"], self.parameters["TableInput"]["Name"]
        )
        if wanted is not None and str(wanted) != str(table._current_version):
            raise JsonRESTError(
                "ConcurrentModificationException", "Update table failed due to concurrent modifications."
            )
        self._complete(table.as_dict())
        return super().update_table()

    def create_table(self) -> ActionResult:
        """See `_complete`."""
        self._complete({})
        return super().create_table()

    def _complete(self, current: dict[str, Any]) -> None:
        """Iceberg tables have what Athena writes beside what Trino does.

        Trino: a commit writes only the parameters it knows, and columns without any. AWS: Athena's own
        (`vacuum_…`, `optimize_…`, what clients have set) stay, and columns say that they are current:
        awswrangler and dbt-athena see no others.
        """
        definition = self.parameters["TableInput"]
        old, new = current.get("Parameters") or {}, definition.get("Parameters") or {}
        if self._by_trino and new.get("table_type", "").upper() == "ICEBERG":
            definition["Parameters"] = {**old, **new}
            for column in definition.get("StorageDescriptor", {}).get("Columns", []):
                shown = {"iceberg.field.current": "true", "iceberg.field.optional": "true"}
                column["Parameters"] = {**(column.get("Parameters") or {}), **shown}
            self.body = json.dumps({**self.parameters, "TableInput": definition})

    def get_table(self) -> ActionResult:
        """See `_as_trino_needs`."""
        answer = super().get_table()
        return ActionResult({"Table": self._as_trino_needs(answer._result["Table"])})

    def get_tables(self) -> ActionResult:
        """See `_as_trino_needs`."""
        answer = super().get_tables()
        return ActionResult(
            {"TableList": [self._as_trino_needs(table) for table in answer._result["TableList"]]}
        )

    def _as_trino_needs(self, table: dict[str, Any]) -> dict[str, Any]:
        """Views keep working after a client described them.

        Trino: knows its views by the parameter `comment` being "Presto View". AWS: Athena knows them whatever
        clients write there (dbt's persist_docs does). So Trino, and only Trino, is shown what it looks for.
        """
        if table.get("TableType") != "VIRTUAL_VIEW" or not self._by_trino:
            return table
        parameters = {**(table.get("Parameters") or {}), "comment": "Presto View", "presto_view": "true"}
        return {
            **{key: value for key, value in table.items() if key != "Description"},
            "Parameters": parameters,
        }

    @property
    def _by_trino(self) -> bool:
        return f"Credential={ACCESS_KEY}/" in self.headers.get("Authorization", "")

    # moto: has none of the calls for column statistics, and Trino makes them. AWS: there are none unless
    # computed.

    def get_column_statistics_for_table(self) -> ActionResult:
        """No statistics."""
        return ActionResult({"ColumnStatisticsList": [], "Errors": []})

    def get_column_statistics_for_partition(self) -> ActionResult:
        """No statistics."""
        return ActionResult({"ColumnStatisticsList": [], "Errors": []})

    def update_column_statistics_for_table(self) -> ActionResult:
        """Accepted and forgotten."""
        return ActionResult({"Errors": []})

    def update_column_statistics_for_partition(self) -> ActionResult:
        """Accepted and forgotten."""
        return ActionResult({"Errors": []})

    def delete_column_statistics_for_table(self) -> ActionResult:
        """Nothing to delete."""
        return EmptyResult()

    def delete_column_statistics_for_partition(self) -> ActionResult:
        """Nothing to delete."""
        return EmptyResult()
