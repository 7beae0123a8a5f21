"""The diagram of the marts, from dbt's manifest: `python -m reporting.diagram` writes docs/er_diagram.md.

Keys are those of the test `one_row_per`; a mart that has the key of a hub among its columns refers to it, and
a mart that is built from another mart sums it up.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parents[1] / "docs" / "er_diagram.md"
HUBS = {
    ("customer_id",): "customer_360",
    ("order_id",): "credit_decisions",
    ("month", "currency"): "monthly_cash_flow",
}


def render(manifest: dict[str, Any]) -> str:
    """The page as Markdown, from a manifest of this project."""
    marts = {
        node["unique_id"]: node
        for node in manifest["nodes"].values()
        if node["resource_type"] == "model" and node["schema"] == "marts"
    }
    keys = {
        test["attached_node"]: test["test_metadata"]["kwargs"]["key"]
        for test in manifest["nodes"].values()
        if test["resource_type"] == "test" and test.get("test_metadata", {}).get("name") == "one_row_per"
    }
    entities, relations = [], []
    for unique_id, mart in sorted(marts.items(), key=lambda item: item[1]["name"]):
        name, key, columns = mart["name"], keys[unique_id], mart["columns"]
        # what happened in the month of a cash flow refers to it only where it is told apart by nothing else
        hubs = [
            (on, hub)
            for on, hub in HUBS.items()
            if hub != name and (list(on) == key or (len(on) == 1 and on[0] in columns))
        ]
        referring = {column for on, _ in hubs for column in on}
        entities.append(f"    {name} {{")
        for column in [*key, *(c for c in columns if c in referring and c not in key)]:
            marks = ", ".join(["PK"] * (column in key) + ["FK"] * (column in referring))
            kind = columns[column]["data_type"].split("(")[0]
            entities.append(f"        {kind} {column} {marks}")
        entities.append("    }")
        for on, hub in hubs:
            many = "o|" if list(on) == key else "o{"
            relations.append(f'    {hub} ||--{many} {name} : "{", ".join(on)}"')
        summed = [marts[parent]["name"] for parent in mart["depends_on"]["nodes"] if parent in marts]
        linked = {hub for _, hub in hubs}
        relations += [
            f'    {parent} }}o--|| {name} : "sums up to"' for parent in sorted(summed) if parent not in linked
        ]
    described = [
        f"| `{mart['name']}` | {mart['config']['meta']['grain']} | {mart['config']['meta']['owner']}"
        f" | {mart['config']['meta']['term_pt']} |"
        for mart in sorted(marts.values(), key=lambda mart: mart["name"])
    ]
    lines = [
        "# How the marts hang together",
        "",
        "Keys alone are drawn; `make docs` has every column. `python -m reporting.diagram` writes it: a test",
        "fails while it is not current.",
        "",
        "```mermaid",
        "erDiagram",
        *entities,
        *sorted(relations),
        "```",
        "",
        "| mart | grain | owner | in Portuguese |",
        "|---|---|---|---|",
        *described,
        "",
    ]
    return "\n".join(lines)


def main() -> int:
    """Parse the project and write the page; returns the exit code."""
    from dbt.cli.main import dbtRunner

    with tempfile.TemporaryDirectory() as folder:
        parse = ["parse", "--profiles-dir", "profiles", "--target-path", folder, "--log-level", "none"]
        parsed = dbtRunner().invoke(parse)
        if not parsed.success:
            print(f"error: dbt cannot parse the project: {parsed.exception}", file=sys.stderr)
            return 1
        manifest = json.loads((Path(folder) / "manifest.json").read_text(encoding="utf-8"))
    PAGE.write_text(render(manifest), encoding="utf-8")
    print(PAGE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
