"""The world itself: the mapping's tables at the end of a day, and what changed since the day before."""

import uuid
from collections.abc import Iterator
from datetime import date, timedelta
from functools import cached_property
from pathlib import Path

import duckdb
import pyarrow as pa

from sandbox.errors import SandboxError
from sandbox.worlds.base import KEYS, SCHEMAS, TABLES, Change
from sandbox.worlds.berka.files import read_files
from sandbox.worlds.berka.ledger import Payment, allocate
from sandbox.worlds.berka.people import cpf, email, full_name

_MAPPING = Path(__file__).with_name("mapping.sql")

_EMPTY = {"consents", "risk_evaluations", "loan_events"}
"""Tables for which the bank has nothing."""


class BerkaWorld:
    """The Czech bank of the files in `folder` (`BERKA_DIR`); they are read when a day is first asked for.

    Raises:
        SandboxError: from `tables` and `changes`, when the files are missing or not the original ones.
    """

    name = "berka"
    seed = 0
    scale = 1.0
    first_date = date(1998, 12, 7)
    last_date = date(1998, 12, 8)  # of the last loan, and of the files

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def tables(self, day: date) -> Iterator[tuple[str, pa.Table]]:
        """Yields every app table, complete at the end of `day`, ordered by key."""
        self._check_day(day)
        for table in TABLES:
            yield table, self._rows(table, day)

    def changes(self, day: date) -> Iterator[Change]:
        """Yields the rows that `day` added and then the rows it changed, table by table."""
        self._check_day(day)
        yesterday = day - timedelta(days=1)
        for table in TABLES:
            if table == "credit_order_events":  # the trigger writes them
                continue
            before, after = self._rows(table, yesterday), self._rows(table, day)
            known = f"using ({', '.join(KEYS[table])})"
            states = {"before": before, "after": after}
            inserted = self._query(f"from after anti join before {known} order by all", **states)
            updated = self._query(
                f"from (from after except from before) semi join before {known} order by all", **states
            )
            if inserted.num_rows:
                yield Change("insert", table, inserted.cast(SCHEMAS[table]))
            if updated.num_rows:
                yield Change("update", table, updated.cast(SCHEMAS[table]))

    def events(self, first: date, last: date) -> Iterator[tuple[str, bytes]]:
        """Yields nothing: the bank left no event log."""
        return iter(())

    def _check_day(self, day: date) -> None:
        if not self.first_date <= day <= self.last_date:
            raise SandboxError(
                f"the world berka has the days {self.first_date} to {self.last_date}, and not {day}"
            )

    def _rows(self, table: str, day: date) -> pa.Table:
        schema = SCHEMAS[table]
        if table in _EMPTY:
            return schema.empty_table()
        rows = self._query(f"from {table}(date '{day}') order by {', '.join(KEYS[table])}")
        missing = set(schema.names) - set(rows.column_names)
        return pa.table(
            [
                pa.nulls(rows.num_rows, field.type)
                if field.name in missing
                else rows[field.name].cast(field.type)
                for field in schema
            ],
            schema=schema,
        )

    def _query(self, sql: str, **states: pa.Table) -> pa.Table:
        with self._bank.cursor() as cursor:
            for name, rows in states.items():
                cursor.register(name, rows)
            return cursor.sql(sql).to_arrow_table()

    @cached_property
    def _bank(self) -> duckdb.DuckDBPyConnection:
        """An in-memory database with the files' rows and the mapping on them."""
        files = read_files(self.folder)
        bank = duckdb.connect()
        bank.execute("set timezone = 'UTC'")
        try:
            for name, rows in files.items():
                _create(bank, name, rows)
            _create(bank, "person", _people(files["client"]))
            _create(bank, "loan_order", _orders(files["loan"]))
            bank.execute(_MAPPING.read_text(encoding="utf-8"))
            _fill_allocation(bank)
            found = bank.execute("select count, problem from problems where count > 0").fetchall()
            problems = [f"{count} {problem}" for count, problem in found]
        except (duckdb.Error, ValueError) as error:
            problems = [str(error).splitlines()[0]]
        if problems:
            raise SandboxError(
                f"{self.folder} does not hold the original Berka files ({'; '.join(problems)}):"
                " check BERKA_DIR"
            )
        return bank


def _create(bank: duckdb.DuckDBPyConnection, name: str, rows: pa.Table) -> None:
    bank.register("rows", rows)
    bank.execute(f"create table {name} as from rows")
    bank.unregister("rows")


def _people(clients: pa.Table) -> pa.Table:
    people = []
    for client, birth_number in zip(
        clients["client_id"].to_pylist(), clients["birth_number"].to_pylist(), strict=True
    ):
        client_id = int(client)
        gender = "F" if int(birth_number[2:4]) > 50 else "M"
        name = full_name(client_id, gender)
        people.append(
            {
                "client_id": client_id,
                "gender": gender,
                "full_name": name,
                "cpf": cpf(client_id),
                "email": email(client_id, name),
            }
        )
    return pa.Table.from_pylist(people)


def _orders(loans: pa.Table) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {"loan_id": int(loan), "order_id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"berka/loan/{loan}"))}
            for loan in loans["loan_id"].to_pylist()
        ]
    )


def _fill_allocation(bank: duckdb.DuckDBPyConnection) -> None:
    payments = bank.execute(
        """
        select trans.trans_id, loans.loan_id, -trans.amount, loans.payment, loans.duration
        from trans
        inner join loans using (account_id)
        where trans.k_symbol = 'UVER'
        order by trans.day, trans.trans_id
        """
    ).fetchall()
    if allocations := allocate(Payment(*payment) for payment in payments):
        bank.executemany("insert into allocation values (?, ?, ?)", allocations)
