"""`discover` on a schema that nobody wrote for us, and `run` on what it wrote."""

import io
import json
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import duckdb
import psycopg
import pytest
import yaml
from conftest import SETTINGS

from ingestion.__main__ import main
from ingestion.config import load_sources
from ingestion.discover import discover
from sandbox.postgres import Postgres

SCHEMA = """
    create schema "Video Loja";
    set search_path to "Video Loja";
    create domain year as int check (value between 1901 and 2155);
    create domain tax_code as text;
    create type mpaa_rating as enum ('G', 'PG', 'R');
    create type point2 as (x int, y int);

    create table actor (
        actor_id serial primary key, first_name text not null, last_name text not null,
        last_update timestamptz not null default now()
    );
    create index on actor (last_update);
    create table film (
        film_id int primary key, title varchar(255) not null, release_year year, rating mpaa_rating,
        length int, minutes_squared int generated always as (length * length) stored,
        rental_rate numeric(4, 2), score numeric, features text[], fulltext tsvector, at point2,
        atoms numeric(45, 2), counts numeric(60)[],
        last_update timestamp without time zone not null default '2024-05-05'
    );
    create table film_actor (
        actor_id int references actor, film_id int references film, last_update timestamptz not null default now(),
        primary key (actor_id, film_id)
    );
    create table "Clientes" (
        "Código" uuid primary key default gen_random_uuid(), "Nome" text, "Documento" tax_code, contato text,
        "dataNascimento" date, "dataAtualização" timestamptz
    );
    create table "Order Details" (
        order_id int not null, line int not null, price numeric(9, 2), "inserted_at" timestamptz not null default now()
    );
    create unique index on "Order Details" (order_id, line);
    create table log_lines (line text, "when" timestamptz default now());
    create table partial_key (id int not null, alive bool);
    create unique index on partial_key (id) where alive;
    create table settings (name text primary key, value jsonb);
    create table payment (
        payment_id int, paid_at timestamptz not null, amount numeric(7, 2) not null, primary key (payment_id, paid_at)
    ) partition by range (paid_at);
    create table payment_2024 partition of payment for values from ('2024-01-01') to ('2025-01-01');
    create table payment_2025 partition of payment for values from ('2025-01-01') to ('2026-01-01');
    create table readings (id bigint primary key, measured_at timestamptz, value numeric(6, 2), created_at timestamptz);
    create table never_used (id bigint primary key, updated_at timestamptz not null default now());
    create view actor_names as select first_name, last_name from actor;
    create materialized view top as select film_id from film;

    insert into actor (first_name, last_name) select 'Penelope', 'Guiness' from generate_series(1, 20);
    insert into film (film_id, title, release_year, rating, length, rental_rate, score, features, fulltext, at)
        select i, 'Film ' || i, 2006, 'PG', i, 0.99, 1.5 * i, array['Trailers', null], to_tsvector('a fat cat'), row(1, i)::point2
        from generate_series(1, 30) as i;
    update film set atoms = 1234567890123456789012345678901234567890123.45, counts = array[repeat('1', 60)::numeric, null];
    insert into film_actor select a, f from generate_series(1, 20) a, generate_series(1, 3) f;
    insert into "Clientes" ("Nome", "Documento", contato, "dataNascimento", "dataAtualização")
        select 'Maria ' || i, '123.456.789-0' || i, 'maria' || i || '@example.invalid', '1980-02-03', now()
        from generate_series(1, 5) as i;
    insert into "Order Details" select i, 1, 9.99 from generate_series(1, 40) as i;
    insert into log_lines values ('a line');
    insert into settings values ('a', '{"b": 1}');
    insert into payment select i, '2024-12-30 12:00+00'::timestamptz + i * interval '1 day', i from generate_series(1, 4) i;
    insert into readings values (1, 'infinity', 'NaN', now()), (2, now(), 1.5, now()), (3, now(), 2.5, null);
"""
SECRETS = ("maria", "Maria", "123.456", "Penelope", "1980")


@pytest.fixture(scope="module")
def server(new_folder: Callable[[str], Path]) -> Iterator[str]:
    folder = new_folder("postgres")
    with (folder / "log").open("wb") as log:
        postgres = Postgres(folder / "pgdata", log)
        with psycopg.connect(postgres.dsn, autocommit=True) as connection:
            connection.execute(SCHEMA)
        yield postgres.dsn
        postgres.stop()


@dataclass
class Done:
    """What a command left: its exit code, and what it printed."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture(scope="module")
def run(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Done]]:
    """Runs a command of `python -m ingestion` in a folder of its own, as a stranger's lender."""
    with pytest.MonkeyPatch.context() as patch:
        for name in SETTINGS:
            patch.delenv(name, raising=False)
        for name, value in {"SOURCE_DSN": server, "WORLD": "stranger", "LOG_FORMAT": "json"}.items():
            patch.setenv(name, value)
        folder = tmp_path_factory.mktemp("stranger")
        patch.chdir(folder)

        def run(*arguments: str) -> Done:
            with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
                code = main(list(arguments))
            return Done(code, out.getvalue(), err.getvalue())

        run.folder = folder
        yield run


@pytest.fixture(scope="module")
def written(run) -> str:
    done = run("discover", "-", "--schema", "Video Loja", "--output", "sources.yml")
    assert done.returncode == 0, done.stderr
    return (run.folder / "sources.yml").read_text()


def test_it_finds_keys_cursors_and_names(run, written: str) -> None:
    source = yaml.safe_load(written)["video_loja"]
    found = {name: (entry["key"], entry["cursor"]) for name, entry in source["tables"].items()}
    assert source["schema"] == "Video Loja"
    assert found == {
        "actor": (["actor_id"], "last_update"),
        "clientes": (["Código"], "dataAtualização"),
        "film": (["film_id"], "last_update"),
        "film_actor": (["actor_id", "film_id"], "last_update"),
        "never_used": (["id"], "updated_at"),
        "order_details": (["order_id", "line"], "inserted_at"),
        "payment": (["payment_id", "paid_at"], None),
        "readings": (["id"], "created_at"),
        "settings": (["name"], None),
    }
    assert source["tables"]["film"]["numeric"] == {"atoms": "string", "counts": "string"}
    assert source["tables"]["order_details"]["relation"] == "Order Details"
    assert [n for n, e in source["tables"].items() if e.get("may_be_empty")] == ["never_used"]


def test_it_says_what_it_cannot_decide(written: str) -> None:
    comments = "\n".join(line for line in written.splitlines() if line.lstrip().startswith("#"))
    for words in (
        "not landed, table without a primary key or unique not-null index: decide on a key\n    # log_lines:",
        "decide on a key\n    # partial_key:",
        "not landed, view without",
        "# top:",
        "cursor: timestamp with time zone; indexed",
        "no index: every run reads the whole table",
        "append-only? changed rows",
        "may be null: such rows are compared at every run",
        "cursor: none found, so the table is compared whole",
        "measured_at: 1 of the first 1,000 rows would become dead letters",
        "value: 1 of the first 1,000 rows would become dead letters",
        "score: numeric without precision lands as text",
        "atoms: text keeps all of its decimal256(45, 2)",
    ):
        assert words in comments, words
    assert "payment_2024" not in written


def test_it_marks_likely_personal_data_and_prints_no_value(written: str) -> None:
    tables = yaml.safe_load(written)["video_loja"]["tables"]
    assert tables["clientes"]["pii"] == {
        "Nome": "name",
        "Documento": "cpf",
        "contato": "email",
        "dataNascimento": "birth_date",
    }
    assert tables["actor"]["pii"] == {"first_name": "name", "last_name": "name"}
    assert "pii" not in tables["film"]
    assert [s for s in SECRETS if s in written] == []


def test_run_lands_all_of_it_with_no_code_change(run, written: str, server: str) -> None:
    # the two values that no Parquet reader holds are dead letters, above the default threshold
    done = run("run", "--sources", "sources.yml")
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert [e for e in events if e["event"] == "table_failed"] == []
    assert done.returncode == 3, done.stderr
    assert [e["table"] for e in events if e["event"] == "dead_letter_alert"] == ["video_loja.readings"]
    with psycopg.connect(server) as connection, duckdb.connect() as lake:
        for table in load_sources(run.folder / "sources.yml"):
            files = f"{run.folder}/lake-stranger/raw/{table.source}/{table.table}/*/*.parquet"
            (landed,) = lake.execute(f"select count(*) from read_parquet('{files}')").fetchone()
            (rows,) = connection.execute(f'select count(*) from "Video Loja"."{table.relation}"').fetchone()
            assert landed == rows - (table.table == "readings"), table.name
        film = f"{run.folder}/lake-stranger/raw/video_loja/film/*/*.parquet"
        assert lake.execute(
            f"select release_year, rating, minutes_squared, features, \"at\" from read_parquet('{film}') where film_id = 3"
        ).fetchone() == (2006, "PG", 9, ["Trailers", None], '{"x":1,"y":3}')
        # more digits than DuckDB and Athena have in a number
        wide = lake.execute(f"select atoms, counts from read_parquet('{film}') where film_id = 3").fetchone()
        assert wide == ("1234567890123456789012345678901234567890123.45", ["1" * 60, None])
    # a second run, a comparison and a status work as well, and find nothing new
    for arguments in (["run"], ["run", "--reconcile"]):
        done = run(*arguments, "--sources", "sources.yml")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stderr.splitlines()[-1])["rows"] == 0
    status = json.loads(run("status", "--json", "--sources", "sources.yml").stdout)
    assert {
        t["table"].split(".")[1]: t["open_dead_letters"] for t in status["tables"] if t["open_dead_letters"]
    } == {"readings": 1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["discover", "-", "--schema", "nowhere"], "no table in a schema nowhere"),
        (["discover", "-", "--schema", "Video Loja", "--output", "sources.yml"], "exists"),
        (["run", "--sources", "nowhere.yml"], "cannot be read"),
    ],
)
def test_what_is_wrong_is_a_configuration_error(
    run, written: str, arguments: list[str], message: str
) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_names_that_yaml_or_the_lake_would_take_for_something_else(
    app_schema: psycopg.Connection, server: str, tmp_path: Path
) -> None:
    app_schema.execute(
        """
        create table app."true" (id int primary key, "a\nb: [" numeric, updated_at timestamptz);
        create table app."null" (id int primary key, updated_at timestamptz);
        create table app."1e5" ("1e5" int, "no" text, updated_at timestamptz, primary key ("1e5", "no"));
        create table app."select" ("order" int primary key, extract_date date, "ORDER" int, updated_at timestamptz)
        """
    )
    file = tmp_path / "sources.yml"
    file.write_text(discover(server, "app"))
    found = {t.table: (t.relation, t.key, t.options.get("rename", {})) for t in load_sources(file)}
    assert found == {
        "t_true": ("true", ("id",), {}),
        "t_null": ("null", ("id",), {}),
        "t_1e5": ("1e5", ("1e5", "no"), {}),
        "select": ("select", ("order",), {"extract_date": "extract_date_2", "ORDER": "ORDER_2"}),
    }
