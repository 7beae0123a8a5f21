"""What goes wrong: with the sandbox itself, with a request, with a query."""

from dataclasses import dataclass


class LocalAwsError(Exception):
    """The local AWS cannot go on; the text is one line that says what to do."""


class InvalidRequest(Exception):
    """The API refuses a request (InvalidRequestException): no execution is made."""

    def __init__(self, message: str, code: str = "INVALID_INPUT") -> None:
        super().__init__(message)
        self.code = code


@dataclass
class QueryFailed(Exception):
    """An execution ends as FAILED: what GetQueryExecution tells about it.

    Category and type are those of https://docs.aws.amazon.com/athena/latest/ug/error-reference.html:
    category 1 is Athena's fault, 2 the user's, 3 other.
    """

    message: str
    category: int = 2
    type: int = 1001
    retryable: bool = False

    def __str__(self) -> str:
        return self.message


class QueryCancelled(Exception):
    """An execution ends as CANCELLED."""


def semantic_error(code: int, text: str) -> QueryFailed:
    """A failure in the words of Hive's analyser, which Athena's DDL has."""
    return QueryFailed(f"FAILED: SemanticException [Error {code}]: {text}")


def table_not_found(database: str, table: str) -> QueryFailed:
    """DDL on a table that does not exist."""
    return semantic_error(10001, f"Table not found {database}.{table}")
