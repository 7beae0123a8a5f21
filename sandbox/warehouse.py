"""dbt's part of the demo in one process: parse, build on a word from the demo, document what was built.

It is started before the sources are landed, so that importing dbt and parsing the project, which need no
data, take no time of their own. Docs come from the very manifest that was built: another dbt process
would parse again, and its docs would lack the compiled SQL.
"""

import gc
import json
import os
import sys

from dbt.cli.main import dbtRunner
from dbt_common.events.base_types import EventMsg

# A callback hears every event. dbt's own log words thousands of them, most of them below its level, which
# costs a tenth of a build; `dbt build` writes it.
QUIET = ["--log-level", "none", "--log-level-file", "none"]
# Unit tests test the logic of models, not today's rows: `make test` runs them.
BUILD = ["build", "--exclude-resource-type", "unit_test"]
DOCS = ["docs", "generate", "--no-compile"]


def main() -> int:
    """Build and document; returns the exit code.

    Each line of standard output is JSON: {"total": nodes} when a node has ended, {"step": what begins},
    or {"error": text}.
    """
    # dbt keeps nearly all it makes: collecting garbage costs a seventh of the time and finds none.
    gc.disable()
    if os.environ.get("DBT_TARGET") == "athena":
        from sandbox import service_models

        service_models.share()
    parsed = dbtRunner(callbacks=[_tell]).invoke(["parse", *QUIET])
    if not parsed.success:
        return 1
    if sys.stdin.readline() != "build\n":
        return 0  # the demo ended before there was anything to build
    for command in (BUILD, DOCS):
        if not dbtRunner(manifest=parsed.result, callbacks=[_tell]).invoke([*command, *QUIET]).success:
            return 1
    return 0


def _tell(event: EventMsg) -> None:
    if event.info.level == "error":
        _say(error=event.info.msg)
    elif event.info.name == "BuildingCatalog":
        _say(step="dbt docs")
    elif event.info.name.endswith("Result") and getattr(event.data, "total", 0):
        _say(total=event.data.total)


def _say(**what: object) -> None:
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    sys.exit(main())
