"""A local AWS whose Athena answers with a real engine (Trino 476). See README.md."""

from .control import LocalAws, Settings, local_aws
from .errors import LocalAwsError

__all__ = ["LocalAws", "LocalAwsError", "Settings", "local_aws"]
