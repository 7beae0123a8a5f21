"""The one kind of error that a person running ingestion is meant to read."""


class IngestionError(Exception):
    """Something the operator can act on: one line that says what is wrong and what to do.

    The text never holds a value of a record, a key or a password.
    """
