"""The errors that a person running ingestion is meant to read, each with its exit code."""

DEAD_LETTERS = 3
"""Exit code of a run that landed everything but more dead letters than `dead_letter_alert` allows."""


class IngestionError(Exception):
    """Something the operator can act on: one line that says what is wrong and what to do.

    The text never holds a value of a record, a key or a password.
    """

    exit_code = 1


class ConfigurationError(IngestionError):
    """A setting, an argument or `sources.yml` is wrong: the same command fails again until it is mended."""

    exit_code = 2


class LakeBusy(IngestionError):
    """Another run holds the lake: the same command works later (EX_TEMPFAIL)."""

    exit_code = 75
