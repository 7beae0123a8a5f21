"""`make lineage`: where every column comes from, as a page beside dbt's docs.

    python -m reporting.lineage

dbt-colibri reads the manifest and the catalog of the last build. On DuckDB the catalog lacks the raw tables,
which are files: their columns are taken from their descriptions.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console


def with_sources(catalog: dict[str, Any], manifest: dict[str, Any]) -> dict[str, Any]:
    """The catalog with every source that it lacks, as the manifest describes it."""
    described = {
        unique_id: {
            "unique_id": unique_id,
            "metadata": {
                "type": "BASE TABLE",
                "schema": source["schema"],
                "name": source["identifier"],
                "database": source["database"],
                "comment": None,
                "owner": None,
            },
            "columns": {
                name: {
                    "type": column.get("data_type") or "VARCHAR",
                    "index": place,
                    "name": name,
                    "comment": None,
                }
                for place, (name, column) in enumerate(source["columns"].items(), start=1)
            },
            "stats": {},
        }
        for unique_id, source in manifest["sources"].items()
    }
    return catalog | {"sources": described | catalog["sources"]}


def main() -> int:
    """Write `lineage/` into dbt's target folder; returns the exit code."""
    target = Path(os.environ.get("DBT_TARGET_PATH") or "target")
    if not (target / "catalog.json").exists():
        Console(stderr=True).print("[red]error:[/red] there are no docs yet: run `make demo` first")
        return 1
    folder = target / "lineage"
    folder.mkdir(exist_ok=True)
    manifest = json.loads((target / "manifest.json").read_text(encoding="utf-8"))
    catalog = json.loads((target / "catalog.json").read_text(encoding="utf-8"))
    whole = folder / "catalog.json"
    whole.write_text(json.dumps(with_sources(catalog, manifest)), encoding="utf-8")
    colibri = [str(Path(sys.executable).with_name("colibri")), "generate", "--disable-telemetry"]
    files = [
        "--manifest",
        str(target / "manifest.json"),
        "--catalog",
        str(whole),
        "--output-dir",
        str(folder),
    ]
    done = subprocess.run([*colibri, *files], capture_output=True, text=True, check=False)
    whole.unlink()
    if done.returncode:
        print(done.stdout + done.stderr, file=sys.stderr)
        return 1
    page = (folder / "index.html").resolve().as_uri()
    Console().print(f"Column lineage: {page} (or /lineage/ of `make docs`)", highlight=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
