"""dlt's REST client on the benchmark's bureau; run by `benchmarks.apis` in an environment that has dlt."""

import json
import sys
import time
from pathlib import Path

import dlt
from dlt.sources.helpers.rest_client import RESTClient
from dlt.sources.helpers.rest_client.paginators import JSONResponseCursorPaginator

given = json.load(sys.stdin)
client = RESTClient(given["url"], headers={"X-Api-Key": given["key"]})


@dlt.resource(name="scores", parallelized=True)
def scores():
    """Every page of every request of 500 people."""
    subjects = given["subjects"]
    for start in range(0, len(subjects), 500):
        yield from client.paginate(
            "/v1/scores/batch",
            method="POST",
            json={"subjects": subjects[start : start + 500], "page_token": None},
            paginator=JSONResponseCursorPaginator("next_page_token", cursor_body_path="page_token"),
            data_selector="data",
        )


folder = Path(given["folder"])
pipeline = dlt.pipeline(
    "bench",
    pipelines_dir=str(folder / "pipelines"),
    destination=dlt.destinations.filesystem(str(folder / "lake")),
    dataset_name="bureau",
)
began = time.monotonic()
pipeline.run(scores(), loader_file_format="parquet")
seconds = time.monotonic() - began
records = pipeline.last_trace.last_normalize_info.row_counts["scores"]
status = Path("/proc/self/status").read_text()
peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
print(json.dumps({"records": records, "seconds": seconds, "cpu": time.process_time(), "peak_mb": peak}))
