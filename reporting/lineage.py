"""`make lineage`: where every column comes from, as a page beside dbt's docs.

    python -m reporting.lineage

dbt-colibri reads the manifest and the catalog of the last build. On DuckDB raw tables are files: the catalog
lacks them, and SQL reads them by a function that no column can be followed through. So their columns are
taken from their descriptions, and they are called by their names.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

# The page has all it needs within itself. Whatever else its scripts might ask for, the browser refuses.
POLICY = (
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; script-src 'unsafe-inline';"
    " style-src 'unsafe-inline'; img-src data: blob:; font-src data:; worker-src blob:; base-uri 'none';"
    " form-action 'none'\">"
)


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


def with_names(manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest with every source read by a table's name, in place of the call that reads its files."""
    names = {
        source["relation_name"]: ".".join(
            f'"{source[part]}"' for part in ("database", "schema", "identifier")
        )
        for source in manifest["sources"].values()
    }

    def named(node: dict[str, Any]) -> dict[str, Any]:
        sql = node.get("compiled_code")
        for call, name in names.items() if sql else ():
            sql = sql.replace(call, name)
        return node | {"compiled_code": sql}

    return manifest | {
        "nodes": {unique_id: named(node) for unique_id, node in manifest["nodes"].items()},
        "sources": {
            unique_id: source | {"relation_name": names[source["relation_name"]]}
            for unique_id, source in manifest["sources"].items()
        },
    }


def closed(html: str) -> str:
    """The page with a policy that lets it talk to nobody.

    Raises:
        ValueError: it has no head to put the policy in.
    """
    head, found, rest = html.partition("<head>")
    if not found:
        raise ValueError("the page that dbt-colibri wrote has no <head>: is it another version?")
    return f"{head}{found}{POLICY}{rest}"


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
    inputs = {
        "manifest": folder / "manifest.json",
        "catalog": folder / "catalog.json",
    }
    inputs["manifest"].write_text(json.dumps(with_names(manifest)), encoding="utf-8")
    inputs["catalog"].write_text(json.dumps(with_sources(catalog, manifest)), encoding="utf-8")
    colibri = [str(Path(sys.executable).with_name("colibri")), "generate", "--disable-telemetry"]
    files = [word for name, file in inputs.items() for word in (f"--{name}", str(file))]
    files += ["--output-dir", str(folder)]
    done = subprocess.run([*colibri, *files], capture_output=True, text=True, check=False)
    for file in inputs.values():
        file.unlink()
    if done.returncode:
        print(done.stdout + done.stderr, file=sys.stderr)
        return 1
    page = folder / "index.html"
    page.write_text(closed(page.read_text(encoding="utf-8")), encoding="utf-8")
    address = page.resolve().as_uri()
    Console().print(
        f"Column lineage: {address} (or /lineage/ of `make docs`)", highlight=False, soft_wrap=True
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
