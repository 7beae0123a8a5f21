"""The dbt project itself: it parses cleanly on both engines, describes all it has, and staging keeps its word."""

import http.server
import json
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import forked_dbt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from conftest import DBT, ROOT, SETTINGS, TwoDays

from ingestion import bureau, files, fx
from ingestion.config import load_sources, select_tables
from ingestion.lake import LANDING_FIELDS
from offline_packages import install
from sandbox.worlds.base import SCHEMAS
from sandbox.worlds.dirt import with_check_digits

(EVENTS_TABLE,) = select_tables(load_sources(), ["app_log.events"])
EVENTS_SCHEMA = files.schema(EVENTS_TABLE, None)
PII_CLASSES = {"none", "pseudonym", "quasi", "direct"}
STAND_INS = ROOT / "offline_packages"


@dataclass
class Project:
    """The dbt project with a lake and a warehouse of its own."""

    folder: Path
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def lake(self) -> Path:
        return self.folder / "lake"

    def try_dbt(self, *arguments: str, **more: str) -> subprocess.CompletedProcess:
        environment = {k: v for k, v in os.environ.items() if k not in SETTINGS} | {
            "LAKE": str(self.lake),
            "WAREHOUSE": str(self.folder / "warehouse.duckdb"),
            "DBT_PROFILES_DIR": str(ROOT / "profiles"),
            "DBT_TARGET_PATH": str(self.folder / "target"),
            "DBT_LOG_PATH": str(self.folder / "logs"),
            **self.settings,
            **more,
        }
        return forked_dbt.run(arguments, ROOT, environment, 300)

    def dbt(self, *arguments: str, **more: str) -> str:
        done = self.try_dbt(*arguments, **more)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def query(self, sql: str, warehouse: str = "warehouse.duckdb") -> list[tuple]:
        with duckdb.connect(str(self.folder / warehouse), read_only=True) as connection:
            return connection.execute(sql).fetchall()


# ------------------------------------------------------------------ the project as dbt reads it


@pytest.fixture(scope="session")
def parsed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Parse the project for a target, once; returns the folder of what dbt said and wrote."""
    install.install(ROOT)
    folders: dict[str, Path] = {}

    def parse(target: str) -> Path:
        if target not in folders:
            project = Project(tmp_path_factory.mktemp(target))
            said = project.dbt(
                *("parse", "--target", target, "--no-partial-parse", "--log-format", "json"),
                LAKE="s3://bucket",
            )
            folders[target] = project.folder / "target"
            (folders[target] / "said.jsonl").write_text(said)
        return folders[target]

    return parse


@pytest.fixture(scope="session")
def manifest(parsed: Callable[[str], Path]) -> dict[str, Any]:
    return json.loads((parsed("duckdb") / "manifest.json").read_text())


@pytest.mark.parametrize("target", ["duckdb", "athena"])
def test_it_parses_without_a_warning(parsed: Callable[[str], Path], target: str) -> None:
    events = [json.loads(line)["info"] for line in (parsed(target) / "said.jsonl").read_text().splitlines()]
    assert events
    assert [e["msg"] for e in events if e["level"] in ("warn", "error")] == []


def ours(manifest: dict[str, Any], *types: str) -> list[dict[str, Any]]:
    found = [
        node
        for node in (*manifest["nodes"].values(), *manifest["sources"].values())
        if node["resource_type"] in types and node["package_name"] == "credit_lakehouse"
    ]
    assert found
    return found


def test_everything_is_described(manifest: dict[str, Any]) -> None:
    missing = [
        f"{node['unique_id']} {column}"
        for node in ours(manifest, "model", "snapshot", "seed", "source")
        for column, text in (
            ("", node["description"]),
            *((name, column["description"]) for name, column in node["columns"].items()),
        )
        if not text.strip()
    ]
    assert missing == []


def test_a_mart_is_found_by_its_portuguese_name(manifest: dict[str, Any]) -> None:
    # the search of dbt docs reads names and descriptions, not meta
    marts = [n for n in ours(manifest, "model") if n["schema"] == "marts"]
    assert marts
    assert [m["name"] for m in marts if m["config"]["meta"]["term_pt"] not in m["description"]] == []


def test_the_columns_described_are_the_columns_there_are(synthetic: TwoDays) -> None:
    manifest = json.loads((synthetic.pipeline.folder / "target" / "manifest.json").read_text())
    with duckdb.connect(str(synthetic.day2.warehouse), read_only=True) as connection:
        rows = connection.execute(
            "select table_schema || '.' || table_name, list(column_name order by column_name)"
            " from information_schema.columns group by 1"
        ).fetchall()
    described = {
        f"{node['schema']}.{node['alias']}": sorted(node["columns"])
        for node in ours(manifest, "model", "snapshot", "seed")
    }
    assert dict(rows) == described


def test_the_sources_are_the_tables_that_are_landed(manifest: dict[str, Any]) -> None:
    landed = {("app", table): schema.names for table, schema in SCHEMAS.items()} | {
        ("app_log", "events"): EVENTS_SCHEMA.names,
        ("bureau", "scores"): bureau.SCHEMA.names,
        ("central_bank", "fx_rates"): fx.SCHEMA.names,
    }
    landing = [f.name for f in LANDING_FIELDS]
    described = {(s["source_name"], s["name"]): list(s["columns"]) for s in ours(manifest, "source")}
    assert described == {table: [*names, *landing, "extract_date"] for table, names in landed.items()}


def test_every_source_has_freshness_and_an_owner(manifest: dict[str, Any]) -> None:
    for source in ours(manifest, "source"):
        assert source["loaded_at_field"], source["unique_id"]
        assert source["freshness"]["warn_after"]["count"], source["unique_id"]
        assert source["config"]["meta"]["owner"], source["unique_id"]


def test_every_model_has_a_primary_key_test(manifest: dict[str, Any]) -> None:
    tested = {
        test["attached_node"]
        for test in ours(manifest, "test")
        if test.get("test_metadata", {}).get("name")
        in ("one_row_per", "unique_combination_of_columns", "every_landed_row_has_one_fate")
    }
    nodes = {node["unique_id"] for node in ours(manifest, "model", "snapshot", "seed")}
    assert nodes - tested == set()


def test_of_what_a_day_adds_to_the_day_tests_the_days_rows_only(manifest: dict[str, Any]) -> None:
    """The selectors `day` and `whole_history`: what a day's build costs does not grow with the history."""
    grows = {
        node["unique_id"]
        for node in ours(manifest, "model", "snapshot")
        if node["config"]["materialized"] in ("incremental", "snapshot")
    }
    whole, of_the_day = set(), set()
    for test in ours(manifest, "test"):
        if "whole_history" in test["tags"]:
            whole.add(test["attached_node"])
        elif test.get("attached_node") in grows:
            of_the_day.add(test["test_metadata"]["name"])
    assert of_the_day == {"every_landed_row_has_one_fate"}
    assert whole
    assert whole <= grows
    assert set(manifest["selectors"]) == {"day", "whole_history"}


def test_every_mart_can_be_seen_by_partner_or_says_why_not(manifest: dict[str, Any]) -> None:
    marts = {n["name"]: n for n in ours(manifest, "model") if n["schema"] == "marts"}
    wrong = []
    for name, mart in marts.items():
        partner = "partner_id" in mart["columns"]
        seen = partner or f"{name}_by_partner" in marts
        reason = mart["config"]["meta"].get("not_by_partner", "")
        wrong += [(name, "neither a partner nor a reason")] * (not seen and not reason.strip())
        wrong += [(name, "a partner and a reason against it")] * (seen and bool(reason))
        wrong += [(name, "no partner_id")] * (name.endswith("_by_partner") and not partner)
    assert wrong == []
    assert len([n for n in marts if n.endswith("_by_partner")]) > 6


LOGIC = re.compile(r"\bcase\b|\bover\s*\(|\bjoin\b|\bgroup by\b")


def test_every_model_with_logic_has_a_unit_test(manifest: dict[str, Any]) -> None:
    # Staging and quarantine are two patterns over raw files: a lake made by hand tests them, further down.
    tested = {f"model.credit_lakehouse.{test['model']}" for test in manifest["unit_tests"].values()}
    models = [n for n in ours(manifest, "model") if n["schema"] in ("intermediate", "marts")]
    untested = {n["name"] for n in models if LOGIC.search(n["raw_code"].lower())} - {
        m.split(".")[-1] for m in tested
    }
    assert len(models) > 18
    assert untested == set()


def test_marts_keep_a_contract_and_are_all_that_others_may_read(manifest: dict[str, Any]) -> None:
    models = ours(manifest, "model")
    public = {n["name"] for n in models if n["access"] == "public"}
    assert public == {n["name"] for n in models if n["schema"] == "marts"}
    assert public == {n["name"] for n in models if n["config"]["contract"]["enforced"]}
    assert {n["access"] for n in models if n["name"] not in public} == {"private"}
    assert {n["group"] for n in models} == {"lakehouse"}


def test_models_keep_to_their_layers(manifest: dict[str, Any]) -> None:
    upstream = {
        "quarantine": {"raw", "staging", "quarantine"},
        "staging": {"raw", "quarantine", "reference"},
        "intermediate": {"staging", "intermediate"},
        "marts": {"staging", "intermediate", "marts", "reference"},
    }
    prefixes = {"quarantine": "quarantine_", "staging": "stg_", "intermediate": "int_", "marts": ""}
    schema_of = {
        node["unique_id"]: "raw" if node["resource_type"] == "source" else node["schema"]
        for node in ours(manifest, "model", "seed", "source", "snapshot")
    }
    wrong = []
    for model in ours(manifest, "model"):
        layer, parents = model["schema"], model["depends_on"]["nodes"]
        wrong += [(model["name"], p) for p in parents if schema_of[p] not in upstream[layer]]
        wrong += [(model["name"], "its folder")] * (f"/{layer}/" not in f"/{model['original_file_path']}")
        wrong += [(model["name"], "its name")] * (not model["name"].startswith(prefixes[layer]))
        if model["config"]["materialized"] == "incremental" and not model["config"]["unique_key"]:
            wrong.append((model["name"], "an incremental model without unique_key"))
        # Everything is selected where a model imports another, and nowhere else.
        imports = r"select \*\s+from (\{\{ (ref|source)\([^)]*\) \}\}|final\b)"
        rest = re.sub(imports, "", re.sub(r"select \*\s*,", "", model["raw_code"]))
        if re.search(r"select\s+\*\s*$", rest, re.MULTILINE) and layer != "staging":
            wrong.append((model["name"], "select * outside of an import"))
    assert wrong == []


def test_models_stay_within_the_bounds_of_dbt_project_evaluator(manifest: dict[str, Any]) -> None:
    models = {n["unique_id"]: n for n in ours(manifest, "model")}
    children: dict[str, set[str]] = {name: set() for name in models}
    for name, model in models.items():
        for parent in set(model["depends_on"]["nodes"]) & models.keys():
            children[parent].add(name)

    def views_above(name: str) -> int:
        """Views in the longest chain of views that ends with this model."""
        model = models[name]
        if model["config"]["materialized"] != "view":
            return 0
        return 1 + max((views_above(p) for p in model["depends_on"]["nodes"] if p in models), default=0)

    wrong = []
    for name, model in models.items():
        leaves = [
            child for child in children[name] if not children[child] and models[child]["access"] != "public"
        ]
        wrong += [(name, "more than 3 leaves")] * (len(leaves) > 3)
        joins = max(part.count(" join ") for part in model["raw_code"].split("\n),"))
        wrong += [(name, f"{joins} joins in one query")] * (joins > 7)
        wrong += [(name, "a chain of more than 4 views")] * (views_above(name) > 4)
        # not the `from` of an expression such as extract(hour from x.y)
        by_name = r"(?:^|select \*) *(?:from|(?:\w+ )*join) +[\w\"]+\.[\w\"]+"
        written = re.findall(by_name, model["raw_code"], re.MULTILINE)
        wrong += [(name, f"a table by its name: {text}") for text in written]
    exposures = [e for e in manifest["exposures"].values() if not e["owner"].get("name")]
    wrong += [(e["unique_id"], "no owner") for e in exposures]
    assert wrong == []


def test_every_table_and_column_says_what_it_holds_of_a_person(manifest: dict[str, Any]) -> None:
    wrong = []
    for node in ours(manifest, "model", "snapshot", "source"):
        meta = node["config"]["meta"]
        if not {"grain", "owner", "domain", "term_pt"} <= meta.keys() or meta.get("pii") not in PII_CLASSES:
            wrong.append(node["unique_id"])
        for name, column in node["columns"].items():
            if column["meta"].get("pii") not in PII_CLASSES or not column["meta"].get("term_pt"):
                wrong.append(f"{node['unique_id']}.{name}")
    assert wrong == []


def test_no_model_asks_which_engine_it_runs_on() -> None:
    models = [*(ROOT / "models").rglob("*.sql"), *(ROOT / "tests").rglob("*.sql")]
    assert models
    assert [p for p in models if re.search(r"target\s*\.|adapter\s*\.", p.read_text())] == []


# ------------------------------------------------------------------ tables


def test_a_table_that_breaks_its_contract_leaves_the_one_before(tmp_path: Path) -> None:
    flags = "flags: {send_anonymous_usage_stats: false}"
    (tmp_path / "dbt_project.yml").write_text(f"{{name: one, profile: one, {flags}}}")
    (tmp_path / "profiles.yml").write_text("one: {target: t, outputs: {t: {type: duckdb, path: one.duckdb}}}")
    (tmp_path / "models").mkdir()
    shutil.copytree(ROOT / "macros" / "engine", tmp_path / "macros")

    def build(sql: str, **column: Any) -> subprocess.CompletedProcess:
        (tmp_path / "models" / "things.sql").write_text(sql)
        config = {"materialized": "table", "contract": {"enforced": True}}
        model = {"name": "things", "config": config, "columns": [{"name": "amount", **column}]}
        (tmp_path / "models" / "things.yml").write_text(json.dumps({"models": [model]}))
        command = [DBT, "run", "--profiles-dir", tmp_path]
        return subprocess.run(command, cwd=tmp_path, env={}, capture_output=True, text=True, check=False)

    def rows() -> list[tuple]:
        with duckdb.connect(str(tmp_path / "one.duckdb")) as connection:
            return connection.execute("from things").fetchall()

    done = build("select 1.5::decimal(18, 2) as amount", data_type="decimal(18, 2)")
    assert done.returncode == 0, done.stdout
    assert rows() == [(Decimal("1.50"),)]
    for sql in ("select 2.5::decimal(18, 4) as amount", "select 2.5::decimal(18, 2) as amount, 1 as more"):
        done = build(sql, data_type="decimal(18, 2)")
        assert done.returncode == 1
        assert "This model has an enforced contract that failed" in done.stdout
        assert rows() == [(Decimal("1.50"),)], sql
    # none is made here, and none is forgotten
    done = build(
        "select 2.5::decimal(18, 2) as amount", data_type="decimal(18, 2)", constraints=[{"type": "not_null"}]
    )
    assert done.returncode == 1
    assert "write a data test instead" in done.stdout
    assert rows() == [(Decimal("1.50"),)]


# ------------------------------------------------------------------ packages


@pytest.fixture
def bare_project(tmp_path: Path) -> Path:
    for name in ("dbt_project.yml", "packages.yml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(STAND_INS, tmp_path / "offline_packages")
    return tmp_path


def test_without_the_hub_the_stand_ins_are_installed_once(bare_project: Path) -> None:
    nobody = "http://127.0.0.1:9/"
    assert "stand-ins" in install.install(bare_project, hub=nobody)
    wanted = {
        p["package"].split("/")[1] for p in yaml.safe_load((ROOT / "packages.yml").read_text())["packages"]
    }
    assert {p.name for p in (bare_project / "dbt_packages").iterdir() if p.is_dir()} == wanted
    assert "already" in install.install(bare_project, hub=nobody)


def test_checkouts_of_the_real_packages_take_the_place_of_the_stand_ins(bare_project: Path) -> None:
    install.install(bare_project, hub="http://127.0.0.1:9/")
    checkouts = bare_project / "checkouts"
    shutil.copytree(STAND_INS / "dbt_utils", checkouts / "dbt_utils")
    with pytest.raises(SystemExit, match="has no dbt_expectations"):
        install.install_from(bare_project, checkouts)
    shutil.copytree(STAND_INS / "dbt_expectations", checkouts / "dbt_expectations")
    (checkouts / "dbt_utils" / "macros" / "real.sql").write_text("{# real #}")
    install.install_from(bare_project, checkouts)
    assert "already" in install.install(bare_project, hub="http://127.0.0.1:9/")
    assert (bare_project / "dbt_packages" / "dbt_utils" / "macros" / "real.sql").exists()


def test_half_an_installation_is_done_again(bare_project: Path) -> None:
    (bare_project / "dbt_packages" / "dbt_utils").mkdir(parents=True)
    install.install(bare_project, hub="http://127.0.0.1:9/")
    assert (bare_project / "dbt_packages" / "dbt_utils" / "dbt_project.yml").exists()


def test_other_stand_ins_are_installed_again(bare_project: Path) -> None:
    install.install(bare_project, hub="http://127.0.0.1:9/")
    (bare_project / "offline_packages" / "dbt_utils" / "macros" / "new.sql").write_text("{# new #}")
    assert "stand-ins" in install.install(bare_project, hub="http://127.0.0.1:9/")
    assert (bare_project / "dbt_packages" / "dbt_utils" / "macros" / "new.sql").exists()


def test_a_hub_that_never_answers_is_given_up(bare_project: Path) -> None:
    silent = threading.Event()

    class Silent(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            silent.wait(10)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Silent) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        began = time.monotonic()
        said = install.install(bare_project, hub=f"http://127.0.0.1:{server.server_port}/")
        silent.set()
        server.shutdown()
    assert "stand-ins" in said
    assert time.monotonic() - began < 5


def test_a_hub_whose_packages_cannot_be_had_is_given_up(
    bare_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install, "_answers", lambda url: True)
    monkeypatch.setattr(install, "_from_hub", lambda project: False)
    assert "stand-ins" in install.install(bare_project)


def test_a_stand_in_exists_for_what_is_used_and_for_nothing_else(manifest: dict[str, Any]) -> None:
    text = "".join(
        p.read_text()
        for folder in ("models", "snapshots", "seeds", "tests/generic", "tests/singular", "macros")
        for p in (ROOT / folder).rglob("*")
        if p.suffix in (".sql", ".yml")
    )
    used = set(re.findall(r"\b(dbt_utils|dbt_expectations)\.(\w+)", text))
    made = {
        (package.name, name)
        for package in STAND_INS.iterdir()
        if package.is_dir()
        for path in package.rglob("*.sql")
        for name in re.findall(r"{% test (\w+)", path.read_text())
    }
    assert used == made


# ------------------------------------------------------------------ staging, on a lake made by hand


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


RAW = {("app", table): schema for table, schema in SCHEMAS.items()} | {
    ("app_log", "events"): EVENTS_SCHEMA,
    ("bureau", "scores"): bureau.SCHEMA,
    ("central_bank", "fx_rates"): fx.SCHEMA,
}
RAW[("app", "risk_evaluations")] = pa.schema(
    [
        f.with_type(pa.list_(pa.string())) if f.name == "reason_codes" else f
        for f in SCHEMAS["risk_evaluations"]
    ]
)

STAGING = ("--select", "path:models/quarantine", "path:models/staging", "path:seeds", "source:*")
ONLY_THESE = ("--indirect-selection", "cautious")  # no test that also needs a mart

CUSTOMER = {
    "customer_id": 1,
    "partner_id": "p",
    "full_name": " Ana Lima ",
    "cpf": "123.456.789-09",
    "email": " Ana@Example.COM",
    "city": " ",
    "state": "sp ",
    "created_at": at("2025-01-01T10:00:00"),
    "updated_at": at("2025-01-01T10:00:00.1234"),
}
ABROAD = CUSTOMER | {"customer_id": 2, "cpf": with_check_digits("000000002"), "state": "South Bohemia "}
ORDER = {
    "order_id": "o1",
    "customer_id": 1,
    "partner_id": "p",
    "product": "personal_loan",
    "currency": "brl",
    "requested_amount": Decimal("100.00"),
    "term_months": 12,
    "status": "in_review",
    "metadata": "{}",
    "created_at": at("2025-01-02T10:00:00"),
    "updated_at": at("2025-01-02T10:00:00"),
}
EVALUATION = {
    "evaluation_id": "e1",
    "order_id": "o1",
    "provider": "scorecard",
    "model_version": "1",
    "decision": "reject",
    "evaluated_at": at("2025-01-02T10:00:01"),
    "created_at": at("2025-01-02T10:00:01"),
}
EVENT = {
    "event_id": "a",
    "customer_id": 1,
    "actor": "customer",
    "event_type": "login",
    "occurred_at": at("2025-01-02T10:00:00"),
    "properties": "{}",
    "received_at": at("2025-01-02T10:00:05"),
    "_source_file": "2025-01-02/10.jsonl.gz",
    "_source_line": 1,
}
RATE = {
    "currency": "USD",
    "buy": Decimal("5.1"),
    "sell": Decimal("5.2"),
    "quoted_at": at("2025-01-02T16:00:00"),
    "bulletin": "Fechamento PTAX",
}


def land(lake: Path, day: str, batch: str, rows: dict[str, list[dict]]) -> None:
    """Write one batch of every table, empty where `rows` has none."""
    for (source, table), schema in RAW.items():
        here = rows.get(f"{source}.{table}", [])
        landing = {"_batch_id": batch, "_extracted_at": datetime.now(UTC), "_source_deleted": False}
        folder = lake / "raw" / source / table / f"extract_date={day}"
        folder.mkdir(parents=True, exist_ok=True)
        whole = pa.Table.from_pylist(
            [landing | row for row in here], schema=pa.schema([*schema, *LANDING_FIELDS])
        )
        pq.write_table(whole, folder / f"{batch}.parquet")


FIRST_DAY = {
    "app.customers": [
        CUSTOMER,
        ABROAD,
        CUSTOMER | {"customer_id": 3, "cpf": with_check_digits("000000003")},
    ],
    "app.credit_orders": [ORDER, ORDER | {"order_id": "o2", "product": "moon_loan"}],
    "app.risk_evaluations": [
        EVALUATION | {"reason_codes": ["NEGATIVE_RECORD", "BAD_MOON", "LOW_SCORE"]},
        EVALUATION | {"evaluation_id": "e2", "reason_codes": []},
    ],
    "app_log.events": [EVENT | {"_source_line": 2, "received_at": at("2025-01-02T10:00:09")}, EVENT],
    "central_bank.fx_rates": [RATE, RATE | {"bulletin": "Abertura", "quoted_at": at("2025-01-02T13:00:00")}],
}
SECOND_DAY = {
    "app.customers": [
        CUSTOMER | {"full_name": "Ana Lima Souza", "updated_at": at("2025-01-03T08:00:00")},
        # the same millisecond: the later batch counts
        ABROAD | {"updated_at": at("2025-01-01T10:00:00.1231")},
        # its time went back, as a transaction's start may: the later batch counts
        CUSTOMER
        | {
            "customer_id": 3,
            "cpf": with_check_digits("000000003"),
            "full_name": "Eva Prado",
            "updated_at": at("2024-12-31T10:00:00.1236"),
        },
    ],
    "app.credit_orders": [ORDER | {"_source_deleted": True}],
    "app_log.events": [
        # a late file: received before the line that is built
        EVENT | {"received_at": at("2025-01-02T10:00:01"), "_source_file": "2025-01-02/10-late.jsonl.gz"},
        EVENT | {"event_id": "b", "event_type": "moon_walk"},
    ],
}


@pytest.fixture(scope="session")
def staging(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Two days built one by one; then the same two at once in `at_once.duckdb`."""
    install.install(ROOT)
    project = Project(tmp_path_factory.mktemp("staging"))
    select = (*STAGING, "--exclude-resource-type", "test", "unit_test")
    land(project.lake, "2025-01-02", "00000001", FIRST_DAY)
    project.dbt("build", *select)
    land(project.lake, "2025-01-03", "00000002", SECOND_DAY)
    project.dbt("build", *select)
    project.dbt("build", *select, WAREHOUSE=str(project.folder / "at_once.duckdb"))
    return project


def test_days_built_one_by_one_are_the_days_built_at_once(staging: Project) -> None:
    tables = [f"stg_{source}__{table}" for source, table in RAW]
    rows = {t: sorted(staging.query(f"from staging.{t}"), key=str) for t in tables}
    again = {t: sorted(staging.query(f"from staging.{t}", "at_once.duckdb"), key=str) for t in tables}
    assert rows == again
    assert sum(map(len, rows.values())) == 11


def test_a_backfill_reads_its_days_and_no_other(staging: Project, tmp_path: Path) -> None:
    late = Project(tmp_path)
    shutil.copytree(staging.lake, late.lake)
    shutil.copyfile(staging.folder / "warehouse.duckdb", tmp_path / "warehouse.duckdb")
    tables = "app__customers app__bank_accounts app__bank_transactions".split()
    select = (
        *("--select", *(f"{layer}_{table}" for layer in ("quarantine", "stg") for table in tables)),
        *("stg_app__customer_versions", "int_bank_transactions__by_day", "int_bank_transactions__daily"),
    )
    account = {
        "account_id": 1,
        "customer_id": 1,
        "bank_code": "001",
        "opened_at": CUSTOMER["created_at"],
        "updated_at": CUSTOMER["created_at"],
    }

    def booked(number: int) -> dict[str, list[dict]]:
        """A transaction of that number and amount, and a customer of that name."""
        transaction = {
            **{"transaction_id": number, "account_id": 1, "amount": Decimal(number), "currency": "BRL"},
            **{"kind": "pix_in", "booked_at": CUSTOMER["created_at"], "created_at": CUSTOMER["created_at"]},
        }
        return {
            "app.bank_accounts": [account] if number == 1 else [],
            "app.bank_transactions": [transaction],
            "app.customers": [CUSTOMER | {"full_name": f"Ana {number}"}],
        }

    def found() -> tuple[list, list, list]:
        return (
            [
                n
                for (n,) in late.query(
                    "select transaction_id from staging.stg_app__bank_transactions order by 1"
                )
            ],
            [int(net) for (net,) in late.query("select net from intermediate.int_bank_transactions__daily")],
            [
                batch
                for (batch,) in late.query(
                    "select _batch_id from staging.stg_app__customer_versions where customer_id = 1 order by 1"
                )
            ],
        )

    land(late.lake, "2025-01-03", "00000009", booked(1))
    late.dbt("run", *select)
    assert found() == ([1], [1], ["00000001", "00000002", "00000009"])
    # in the range, before and after it; later than what is built by number or by day, never by both
    land(late.lake, "2024-12-31", "00000003", booked(2))
    land(late.lake, "2025-01-01", "00000004", booked(4))
    land(late.lake, "2025-01-02", "00000010", booked(8))
    late.dbt("run", "--vars", "{backfill_from: 2025-01-01, backfill_to: 2025-01-01}", *select)
    assert found() == ([1, 4], [5], ["00000001", "00000002", "00000004", "00000009"])
    assert late.query("select full_name from staging.stg_app__customers where customer_id = 1") == [
        ("Ana 1",)
    ]
    late.dbt("run", "--vars", "{backfill_from: 2024-12-31}", *select)
    assert found()[:2] == ([1, 2, 4, 8], [15])
    without_tests = ("--exclude-resource-type", "test", "unit_test")
    late.dbt(
        *("build", "--full-refresh", *without_tests, *select, "transaction_kind_mapping"),
        WAREHOUSE=str(tmp_path / "at_once.duckdb"),
    )
    for table in ("staging.stg_app__customers", "intermediate.int_bank_transactions__daily"):
        assert late.query(f"from {table} order by all") == late.query(
            f"from {table} order by all", "at_once.duckdb"
        )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("{backfill_to: 2025-01-02}", "backfill_to needs backfill_from"),
        (
            "{backfill_from: 2025-01-03, backfill_to: 2025-01-02}",
            "2025-01-02 is before backfill_from 2025-01-03",
        ),
        ("{backfill_from: 3/1/2025}", "backfill_from is '3/1/2025'; give it as YYYY-MM-DD"),
    ],
)
def test_days_that_are_no_range_are_refused(staging: Project, given: str, said: str) -> None:
    done = staging.try_dbt("compile", "--select", "stg_app__customers", "--vars", given)
    assert done.returncode != 0
    assert said in done.stdout


def test_a_table_built_without_a_column_that_its_model_has_now_is_refused(
    staging: Project, tmp_path: Path
) -> None:
    older = Project(tmp_path)
    shutil.copytree(staging.lake, older.lake)
    shutil.copyfile(staging.folder / "warehouse.duckdb", tmp_path / "warehouse.duckdb")
    with duckdb.connect(str(tmp_path / "warehouse.duckdb")) as connection:
        connection.execute("alter table staging.stg_app__customers drop column city")
    select = ("--select", "quarantine_app__customers", "stg_app__customers")

    done = older.try_dbt("run", *select)

    assert done.returncode != 0
    assert "stg_app__customers was built without city, which the model has now: build it" in done.stdout
    older.dbt("run", *select, "--full-refresh")
    everything = "from staging.stg_app__customers order by all"
    assert older.query(everything) == staging.query(everything)


def test_the_latest_version_of_a_record_is_kept(staging: Project) -> None:
    kept = staging.query(
        "select customer_id, full_name, _batch_id from staging.stg_app__customers order by 1"
    )
    assert kept == [
        (1, "Ana Lima Souza", "00000002"),
        (2, "Ana Lima", "00000002"),
        (3, "Eva Prado", "00000002"),
    ]


def test_times_are_utc_to_the_millisecond(staging: Project) -> None:
    rows = staging.query("select updated_at from staging.stg_app__customers where customer_id = 3")
    assert rows == [(datetime(2024, 12, 31, 10, 0, 0, 124000),)]


def test_values_are_normalised(staging: Project) -> None:
    rows = staging.query(
        "select cpf, email, city, state from staging.stg_app__customers where customer_id = 1"
    )
    assert rows == [("12345678909", "ana@example.com", None, "SP")]
    assert staging.query("select distinct currency from staging.stg_app__credit_orders") == [("BRL",)]


def test_a_region_that_is_no_state_code_stays_as_it_is(staging: Project) -> None:
    rows = staging.query("select state from staging.stg_app__customers where customer_id = 2")
    assert rows == [("South Bohemia",)]


def test_a_deletion_is_a_column(staging: Project) -> None:
    rows = staging.query("select order_id, deleted_at from staging.stg_app__credit_orders order by 1")
    # the end of the day that found it gone: midnight in São Paulo
    assert rows == [("o1", datetime(2025, 1, 4, 3)), ("o2", None)]


def test_a_lost_parent_is_found(staging: Project) -> None:
    damaged = staging.folder / "no_parent.duckdb"
    shutil.copyfile(staging.folder / "warehouse.duckdb", damaged)
    with duckdb.connect(str(damaged)) as connection:
        connection.execute("update staging.stg_app__credit_orders set customer_id = 99")
    done = staging.try_dbt("test", "--select", "assert_no_parent_is_unknown", WAREHOUSE=str(damaged))
    assert "Got 1 result" in done.stdout


def test_staging_without_its_quarantine_is_refused(staging: Project) -> None:
    done = staging.try_dbt("run", "--select", "stg_app__customers")
    assert done.returncode != 0
    assert "`dbt build --select quarantine staging`" in done.stdout


def test_an_event_is_the_line_received_first(staging: Project) -> None:
    rows = staging.query("select event_id, _source_file from staging.stg_app_log__events order by 1")
    assert rows == [("a", "2025-01-02/10-late.jsonl.gz"), ("b", "2025-01-02/10.jsonl.gz")]


def test_an_unknown_value_is_kept_and_flagged(staging: Project) -> None:
    orders = staging.query(
        "select product, product_mapped from staging.stg_app__credit_orders order by order_id"
    )
    assert orders == [("personal_loan", "personal_loan"), ("moon_loan", "unmapped")]
    reasons = staging.query(
        "select reason_codes_mapped from staging.stg_app__risk_evaluations order by evaluation_id"
    )
    assert reasons == [(["negative_record", "unmapped", "low_score"],), ([],)]


def test_the_closing_bulletin_is_known(staging: Project) -> None:
    rows = staging.query("select bulletin, is_closing from staging.stg_central_bank__fx_rates order by 1")
    assert rows == [("Abertura", False), ("Fechamento PTAX", True)]


def test_an_unknown_value_warns_and_fails_nothing(staging: Project) -> None:
    said = staging.dbt("test", *STAGING, *ONLY_THESE)
    assert "ERROR=0" in said
    warned = re.findall(r"Warning in test mapped_(stg_\w+?__\w+?)_(?:product|event_type|reason_codes)", said)
    assert sorted(warned) == ["stg_app__credit_orders", "stg_app__risk_evaluations", "stg_app_log__events"]


def test_an_empty_lake_is_said_in_one_line(tmp_path: Path) -> None:
    done = Project(tmp_path).try_dbt("run", "--select", "stg_app__customers")
    assert done.returncode != 0
    assert "the lake has nothing of any raw table; run `python -m ingestion run` first" in done.stdout
    assert "Traceback" not in done.stdout


def test_a_day_that_is_no_day_is_refused(tmp_path: Path) -> None:
    done = Project(tmp_path).try_dbt("run", "--select", "stg_app__customers", AS_OF_DATE="31/12/2025")
    assert done.returncode != 0
    assert "as_of_date is '31/12/2025'; give it as YYYY-MM-DD" in done.stdout


# A test's name, and of one that fails in more than one way the table; what it must find.
DAMAGE = {
    "every_landed_row_has_one_fate": "delete from staging.stg_app__customers where customer_id = 3",
    "one_row_per of stg_app__customers": "update staging.stg_app__customers set email = null where customer_id = 1",
    "one_row_per of stg_central_bank__fx_rates": "insert into staging.stg_central_bank__fx_rates"
    " from staging.stg_central_bank__fx_rates limit 1",
    "one_row_per of product_mapping": "update reference.product_mapping set source_value = null",
    "unique": "update staging.stg_app__customers set cpf = '1'",
    "accepted_range": "update staging.stg_app__credit_orders set requested_amount = -1",
    "accepted_values": "update staging.stg_app__credit_orders set status = 'moon'",
    "expect_column_value_lengths_to_equal": "update staging.stg_app__customers set cpf = '1'",
    "expect_column_pair_values_A_to_be_greater_than_B": "update staging.stg_app__credit_orders"
    " set decided_at = created_at - interval 1 day",
}


def test_every_kind_of_test_finds_its_damage(staging: Project) -> None:
    damaged = staging.folder / "damaged.duckdb"
    shutil.copyfile(staging.folder / "warehouse.duckdb", damaged)
    with duckdb.connect(str(damaged)) as connection:
        for statement in DAMAGE.values():
            connection.execute(statement)
    done = staging.try_dbt("test", *STAGING, *ONLY_THESE, WAREHOUSE=str(damaged))
    results = json.loads((staging.folder / "target" / "run_results.json").read_text())["results"]
    manifest = json.loads((staging.folder / "target" / "manifest.json").read_text())
    failed = set()
    for result in results:
        node = manifest["nodes"][result["unique_id"]]
        if result["status"] == "fail" and "test_metadata" in node:
            name, table = node["test_metadata"]["name"], node["attached_node"].split(".")[-1]
            failed |= {name, f"{name} of {table}"}
    assert done.returncode != 0
    assert DAMAGE.keys() - failed == set()
