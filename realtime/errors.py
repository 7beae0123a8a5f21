"""The error that this package raises on purpose."""


class RealtimeError(Exception):
    """One line that says what to do; never holds a value of a record, a key or a password."""
