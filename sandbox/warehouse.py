"""dbt's part of the demo in one process: build, then docs from the very manifest that was built.

A second dbt process would parse the project again, and its docs would lack the compiled SQL.
"""

import sys

from dbt.cli.main import dbtRunner

# Unit tests test the logic of models, not today's rows: `make test` runs them.
BUILD = ["build", "--exclude-resource-type", "unit_test"]
DOCS = ["docs", "generate", "--no-compile"]
LOG = ["--log-format", "json", "--log-level", "info"]


def main() -> int:
    """Build and document; returns the exit code. dbt's JSON log goes to standard output."""
    parsed = dbtRunner().invoke(["parse", *LOG])
    for command in (BUILD, DOCS):
        if not parsed.success or not dbtRunner(manifest=parsed.result).invoke([*command, *LOG]).success:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
