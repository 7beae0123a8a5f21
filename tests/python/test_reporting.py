"""The page of charts and the diagram of the marts."""

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import duckdb
import pytest
from conftest import ROOT, Day, TwoDays

from reporting import charts, diagram, lineage
from reporting.__main__ import main


@pytest.fixture(scope="module")
def page(synthetic_day2: Day, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("report") / "report.html"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WAREHOUSE", str(synthetic_day2.warehouse))
        patch.delenv("WORLD", raising=False)
        assert main(["--out", str(out)]) == 0
    return out.read_text(encoding="utf-8")


def test_the_page_needs_nothing_else(page: str) -> None:
    """No script, no address of another host, and a policy that would stop them."""
    addresses = set(re.findall(r"""(?:src|href|action|data)\s*=\s*["']?([^"'\s>]+)""", page)) | set(
        re.findall(r"url\(([^)]+)\)", page)
    )
    assert {a for a in addresses if not a.startswith("#")} == set()
    assert "<script" not in page
    assert "@import" not in page
    assert "default-src 'none'" in page
    assert "prefers-color-scheme: dark" in page


def test_every_figure_is_drawn_and_has_its_numbers(page: str, synthetic_day2: Day) -> None:
    class Tags(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.open: list[str] = []

        def handle_starttag(self, tag: str, attrs: list) -> None:
            if tag not in ("meta", "br"):
                self.open.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert self.open.pop() == tag

    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        root = ET.fromstring(svg)
        assert root.get("aria-label")
        assert not root.get("width")
    titles = re.findall(r"<h2>(.*?)</h2>", page)
    assert len(titles) == page.count("<svg") == page.count("<table>") == 8
    with duckdb.connect(str(synthetic_day2.warehouse), read_only=True) as connection:
        (received,) = connection.execute(
            "select received_amount from marts.monthly_cash_flow where currency = 'BRL' and month = '2025-11-01'"
        ).fetchone()
        report = charts.read(connection)
    assert f"<td>{received:,.2f}</td>" in page
    assert len(report.headlines) == 4
    assert all(value in page for _, value, _ in report.headlines)


def test_what_comes_from_a_source_is_text(tmp_path: Path, synthetic_day2: Day) -> None:
    """A product of another lender may be called anything."""
    warehouse = tmp_path / "warehouse.duckdb"
    warehouse.write_bytes(synthetic_day2.warehouse.read_bytes())
    with duckdb.connect(str(warehouse)) as connection:
        connection.execute(
            "update marts.credit_decisions set reason_codes = '<script>alert(1)</script>' where status = 'rejected'"
        )
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "reporting",
            "--out",
            str(tmp_path / "new" / "r.html"),
            "--picture",
            str(tmp_path / "r.png"),
        ],
        cwd=ROOT,
        env={"WAREHOUSE": str(warehouse), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    written = (tmp_path / "new" / "r.html").read_text(encoding="utf-8")
    assert "alert(1)" in written
    assert "<script>" not in written
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")


def test_without_a_warehouse_it_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WAREHOUSE", str(tmp_path / "none.duckdb"))
    assert main([]) == 1
    assert "make demo" in capsys.readouterr().err
    with duckdb.connect(str(tmp_path / "empty.duckdb")):
        pass
    monkeypatch.setenv("WAREHOUSE", str(tmp_path / "empty.duckdb"))
    assert main([]) == 1
    assert "dbt build" in capsys.readouterr().err


def test_the_diagram_is_current(synthetic: TwoDays) -> None:
    manifest = json.loads((synthetic.pipeline.folder / "target" / "manifest.json").read_text())
    drawn = diagram.render(manifest)
    assert (ROOT / "docs/er_diagram.md").read_text(encoding="utf-8") == drawn, (
        "run `python -m reporting.diagram` and commit docs/er_diagram.md"
    )
    marts = {
        n["name"]
        for n in manifest["nodes"].values()
        if n["resource_type"] == "model" and n["schema"] == "marts"
    }
    assert all(re.search(rf"^    {mart} {{$", drawn, re.MULTILINE) for mart in marts)


def test_lineage_follows_columns_and_talks_to_nobody(synthetic: TwoDays) -> None:
    pipeline = synthetic.pipeline
    pipeline.dbt("docs", "generate")
    assert "/lineage/index.html" in pipeline.run(sys.executable, "-m", "reporting.lineage")
    folder = pipeline.folder / "target" / "lineage"
    known = json.loads((folder / "colibri-manifest.json").read_text())["lineage"]["edges"]
    edges = {
        tuple(e[k].split(".")[-1] for k in ("source", "sourceColumn", "target", "targetColumn"))
        for e in known
    }
    assert ("stg_bureau__scores", "score", "customer_360", "bureau_score_latest") in edges
    assert ("scores", "score", "stg_bureau__scores", "score") in edges
    page = (folder / "index.html").read_text(encoding="utf-8")
    assert page.index("<head>") < page.index("default-src 'none'") < page.index("<script")
    assert "connect-src" not in page[: page.index("<script")]
    outside = re.findall(r"""<(?:script|link|img|iframe)[^>]+(?:src|href)=["']?(?:https?:)?//""", page)
    assert outside == []
    with pytest.raises(ValueError, match="has no <head>"):
        lineage.closed("<html></html>")
