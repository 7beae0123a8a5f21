"""Reads the bank's original files, as text: only the mapping gives values a type."""

from pathlib import Path

import pyarrow as pa
from pyarrow import csv

from sandbox.errors import SandboxError

_TRANSACTIONS = (
    "trans_id",
    "account_id",
    "date",
    "type",
    "operation",
    "amount",
    "balance",
    "k_symbol",
    "bank",
)

_FILES: dict[str, tuple[str, tuple[str, ...]]] = {
    "client": ("client.asc", ("client_id", "birth_number", "district_id")),
    "district": ("district.asc", ("A1", "A2", "A3")),
    "account": ("account.asc", ("account_id", "date")),
    "disp": ("disp.asc", ("client_id", "account_id", "type")),
    "loan": (
        "loan.asc",
        ("loan_id", "account_id", "date", "amount", "duration", "payments", "status"),
    ),
    "trans_all": ("trans_19930101_19940330.asc", _TRANSACTIONS),
    "trans_loan_accounts": ("trans_loan_accounts_1995_1998.csv", _TRANSACTIONS),
}
"""Name here, file, and the columns the mapping needs. Standing orders and cards have no place in the app."""


def read_files(folder: Path) -> dict[str, pa.Table]:
    """Read every file the mapping needs; all columns are strings.

    Raises:
        SandboxError: the folder or a file is missing, or a file is not what it should be.
    """
    if not folder.is_dir():
        raise SandboxError(f"no folder {folder}: set BERKA_DIR to the folder with the original Berka files")
    return {name: _read_file(folder, file, columns) for name, (file, columns) in _FILES.items()}


def _read_file(folder: Path, file: str, columns: tuple[str, ...]) -> pa.Table:
    path = folder / file
    if not path.is_file():
        raise SandboxError(
            f"no file {file} in {folder}: set BERKA_DIR to the folder with the original Berka files"
        )
    try:
        return csv.read_csv(
            path,
            parse_options=csv.ParseOptions(delimiter=";", quote_char='"'),
            convert_options=csv.ConvertOptions(
                column_types={column: pa.string() for column in columns},
                include_columns=columns,
            ),
        )
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise SandboxError(
            f"{path} is not the original Berka file ({reason}): put it back in BERKA_DIR"
        ) from None
