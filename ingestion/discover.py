"""Writes a `sources.yml` for a PostgreSQL schema that nobody described: keys, cursors, likely personal data.

What it cannot decide it says in comments. Values are looked at for shapes of personal data, a thousand
rows of each table, and are never printed.
"""

import json
import re
import unicodedata
from dataclasses import dataclass, field

import psycopg
import pyarrow as pa
import yaml
import yaml12
from psycopg import sql

from ingestion import postgres
from ingestion.config import TableConfig
from ingestion.errors import ConfigurationError, IngestionError
from ingestion.lake import LANDING_NAMES

SAMPLE_ROWS = 1000
SHARE = 0.5  # of the values of a sample that must have a shape

_KINDS = {"r": "table", "p": "table", "v": "view", "m": "materialized view", "f": "foreign table"}
_RELATIONS = """
    select c.oid, c.relname, c.relkind::text
    from pg_class as c
    where c.relnamespace = to_regnamespace(%s) and c.relkind in ('r', 'p', 'v', 'm', 'f')
        and not c.relispartition
    order by c.relname
"""
_COLUMNS = """
    select a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, coalesce(t.typbasetype, 0) <> 0,
        format_type(case when t.typtype = 'd' then t.typbasetype else t.oid end,
            case when t.typtype = 'd' then t.typtypmod else a.atttypmod end),
        exists (
            select from pg_index as i
            where i.indrelid = a.attrelid and i.indkey[0] = a.attnum and i.indisvalid and i.indpred is null
        )
    from pg_attribute as a join pg_type as t on t.oid = a.atttypid
    where a.attrelid = %s and a.attnum > 0 and not a.attisdropped
    order by a.attnum
"""
# The primary key, or else the unique index with the fewest columns, none of which may be null.
_KEY = """
    select (
        select array_agg(a.attname::text order by k.place)
        from unnest(i.indkey[0:i.indnkeyatts - 1]) with ordinality as k (attnum, place)
        join pg_attribute as a on a.attrelid = i.indrelid and a.attnum = k.attnum
    ), i.indisprimary
    from pg_index as i
    where i.indrelid = %s and i.indisunique and i.indisvalid and i.indpred is null and i.indexprs is null
        and not exists (
            select from pg_attribute as a
            where a.attrelid = i.indrelid and a.attnum = any (i.indkey[0:i.indnkeyatts - 1])
                and not a.attnotnull
        )
    order by i.indisprimary desc, i.indnkeyatts, i.indexrelid
    limit 1
"""

# Words of a column's name, in Portuguese and English, best first.
_CHANGED = re.compile(
    r"(^|_)(last_?updated?|updated?|modified|last_modified|changed|last_change|atualizad[oa]|atualizacao"
    r"|alterad[oa]|alteracao|modificad[oa]|modificacao)(_|$)"
)
_CREATED = re.compile(
    r"(^|_)(created|creation|inserted|occurred|recorded|received|logged|happened|event_time|criad[oa]"
    r"|criacao|inserid[oa]|inclusao|ocorrid[oa]|ocorrencia|cadastrad[oa]|cadastro|registrad[oa]|registro"
    r"|recebid[oa])(_|$)"
)
_PII_NAMES = {
    "cpf": r"cpf",
    "cnpj": r"cnpj",
    "email": r"e_?mails?",
    "phone": r"phones?|mobile|cellphone|telefones?|celular|fone|whatsapp",
    "birth_date": r"birth|birthday|birthdate|born|dob|nascimento|nasc",
    "address": r"address\d?|street|zip|zipcode|postal|postcode|endereco|logradouro|cep|bairro",
    "document": r"rg|cnh|passport|passaporte|ssn|tax_id|pis|nis|titulo_eleitor",
    "bank_account": r"iban|card_number|numero_cartao|conta_corrente|pix|chave_pix",
    "ip_address": r"ip|ip_address|ip_addr",
    "name": r"(full|first|last|middle|sur|fore|given|family)_?name|nome|sobrenome",
}
_PII_WORDS = {kind: re.compile(rf"(^|_)({words})(_|$)") for kind, words in _PII_NAMES.items()}
_PII_SHAPES = {
    "cpf": r"^\d{3}\.\d{3}\.\d{3}-\d{2}$",
    "cnpj": r"^\d{2}\.\d{3}\.\d{3}/\d{4}-\d{2}$",
    "email": r"^[^@\s]+@[^@\s]+\.[A-Za-z]{2,}$",
    "phone": r"^(\+\d{1,3}[ -]?)?\(?\d{2,3}\)?[ -]?9?\d{4}[ -]?\d{4}$",
    "ip_address": r"^\d{1,3}(\.\d{1,3}){3}$",
}
# A name alone names anything; in a table of people, a person.
_PEOPLE = re.compile(
    r"(^|_)(customers?|clients?|users?|persons?|people|employees?|staff|contacts?|members?|patients?|actors?"
    r"|clientes?|pessoas?|usuarios?|funcionarios?|titulares?|socios?)(_|$)"
)


@dataclass
class Column:
    """A column of the source: its type, that of its domain's base, and whether an index begins with it."""

    name: str
    kind: str
    base: str
    is_not_null: bool
    is_indexed: bool


@dataclass
class Relation:
    """What was found out about a table or view; with a `problem` it cannot be landed as it is."""

    name: str
    lake_name: str
    kind: str
    columns: list[Column] = field(default_factory=list)
    key: tuple[str, ...] = ()
    cursor: str | None = None
    is_empty: bool = False
    pii: dict[str, str] = field(default_factory=dict)
    numeric: dict[str, str] = field(default_factory=dict)
    rename: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    problem: str | None = None


def discover(dsn: str, schema: str) -> str:
    """The text of a `sources.yml` that lands every table of `schema` that can be told apart by a key.

    Raises:
        IngestionError: PostgreSQL cannot be reached.
        ConfigurationError: there is no such schema, or nothing in it.
    """
    with postgres.connect(dsn) as snapshot, snapshot.psycopg() as connection:
        found = connection.execute(_RELATIONS, (postgres.quoted(schema),)).fetchall()
        if not found:
            raise ConfigurationError(
                f"PostgreSQL has no table in a schema {schema}; choose one with --schema"
            )
        relations: list[Relation] = []
        for oid, name, kind in found:
            lake_name = _lake_name(name, {r.lake_name for r in relations})
            relations.append(
                _inspect(connection, snapshot, schema, oid, Relation(name, lake_name, _KINDS[kind]))
            )
    return _to_yaml(schema, relations)


def _inspect(
    connection: psycopg.Connection, snapshot: postgres.Snapshot, schema: str, oid: int, relation: Relation
) -> Relation:
    for name, kind, is_not_null, _, base, is_indexed in connection.execute(_COLUMNS, (oid,)):
        relation.columns.append(Column(name, kind, base, is_not_null, is_indexed))
    key = connection.execute(_KEY, (oid,)).fetchone()
    if key is None:
        relation.problem = f"{relation.kind} without a primary key or unique not-null index: decide on a key"
    else:
        relation.key = tuple(key[0])
        if not key[1]:
            relation.notes.append("key: a unique index, there is no primary key")
    _choose_cursor(relation)
    try:
        with connection.transaction():
            _look(connection, snapshot, schema, relation)
    except psycopg.OperationalError:
        raise
    except psycopg.Error as error:
        relation.problem = f"PostgreSQL refused: {postgres.message(error)}"
    except IngestionError as error:
        relation.problem = str(error)
    return relation


def _choose_cursor(relation: Relation) -> None:
    """The column that tells a changed row, or at least a new one; other candidates are noted."""
    times = [c for c in relation.columns if c.base.startswith("timestamp")]
    changed = [c for c in times if _CHANGED.search(_words(c.name))]
    created = [c for c in times if _CREATED.search(_words(c.name))]
    # Without an index every increment reads the table; with nulls it misses rows.
    candidates = sorted(changed, key=lambda c: (not c.is_not_null, not c.is_indexed))
    candidates += sorted(
        (c for c in created if c not in changed), key=lambda c: (not c.is_not_null, not c.is_indexed)
    )
    if not candidates:
        relation.notes.append("cursor: none found, so the table is compared whole at every run")
        return
    chosen = candidates[0]
    relation.cursor = chosen.name
    about = [chosen.kind, "indexed" if chosen.is_indexed else "no index: every run reads the whole table"]
    if not chosen.is_not_null:
        about.append("may be null: such rows are compared at every run")
    if chosen not in changed:
        about.append("append-only? changed rows are found by `run --reconcile` alone")
    others = ", ".join(c.name for c in candidates[1:])
    relation.notes.append(f"cursor: {'; '.join(about)}" + (f"; other candidates: {others}" if others else ""))


def _look(
    connection: psycopg.Connection, snapshot: postgres.Snapshot, schema: str, relation: Relation
) -> None:
    """Find out what needs the rows: whether there are any, shapes of personal data, what cannot be landed."""
    identifier = sql.Identifier(schema, relation.name)
    texts = [c for c in relation.columns if c.base == "text" or c.base.startswith("character")]
    shapes: dict[str, list[str]] = {}
    if texts:
        counts = [
            sql.SQL("count({0}), count(*) filter (where {0}::text ~ {1})").format(
                sql.Identifier(c.name), sql.Literal(shape)
            )
            for c in texts
            for shape in _PII_SHAPES.values()
        ]
        query = sql.SQL("select {} from (select * from {} limit {}) as sample").format(
            sql.SQL(", ").join(counts), identifier, sql.Literal(SAMPLE_ROWS)
        )
        row = iter(connection.execute(query).fetchone())
        for column in texts:
            for kind in _PII_SHAPES:
                present, alike = next(row), next(row)
                if present and alike / present >= SHARE:
                    shapes.setdefault(column.name, []).append(kind)
    for column in relation.columns:
        kind = _kind_by_name(relation, column) or next(iter(shapes.get(column.name, [])), None)
        if kind:
            relation.pii[column.name] = kind
    fixed = [*relation.key, *filter(None, [relation.cursor])]
    taken = {*LANDING_NAMES, *(name.lower() for name in fixed)}
    for column in relation.columns:
        if column.name not in fixed:
            if column.name.lower() in taken:
                relation.rename[column.name] = f"{column.name}_2"
            taken.add(column.name.lower())
    table = TableConfig(
        source="discovered",
        table=relation.lake_name,
        kind="postgres",
        key=relation.key,
        cursor=relation.cursor,
        options={"schema": schema, "relation": relation.name, "rename": relation.rename},
    )
    relation.is_empty = postgres.is_empty(snapshot, table)
    relation.notes += _unfit(connection, snapshot, table)
    for column in postgres.describe(snapshot, table):
        if pa.types.is_decimal256(getattr(column.type, "value_type", column.type)):
            relation.numeric[column.name] = "string"
            relation.notes.append(
                f"{column.name}: text keeps all of its {column.type}; DuckDB would read numbers of more than"
                " 38 digits as doubles, Athena not at all"
            )
    relation.notes += [
        f"{c.name}: numeric without precision lands as text; say numeric: decimal(38,9) for numbers"
        for c in relation.columns
        if c.base == "numeric"
    ]


def _unfit(connection: psycopg.Connection, snapshot: postgres.Snapshot, table: TableConfig) -> list[str]:
    """What of the sample would become dead letters, by column."""
    columns = [c for c in postgres.describe(snapshot, table) if c.unfit]
    if not columns:
        return []
    counts = ", ".join(f"count(*) filter (where {c.unfit})" for c in columns)
    sample = f"select * from {postgres.source(table)} limit {SAMPLE_ROWS}"  # noqa: S608, names are quoted
    found = connection.execute(f"select {counts} from ({sample}) as sample").fetchone()  # noqa: S608
    return [
        f"{c.name}: {count} of the first {SAMPLE_ROWS:,} rows would become dead letters: {c.reason}"
        for c, count in zip(columns, found, strict=True)
        if count
    ]


def _kind_by_name(relation: Relation, column: Column) -> str | None:
    words = _words(column.name)
    for kind, pattern in _PII_WORDS.items():
        if pattern.search(words) and not (kind in ("birth_date",) and column.base == "boolean"):
            return kind
    if re.search(r"(^|_)name$", words) and _PEOPLE.search(_words(relation.name)):
        return "name"
    return None


def _to_yaml(schema: str, relations: list[Relation]) -> str:
    source = _lake_name(schema, set())
    lines = [
        "# Written by `python -m ingestion discover`; read it before you rely on it.",
        "# pii is likely personal data, by the names of columns and the shapes of values.",
        "",
        f"{source}:",
        "  kind: postgres",
        f"  schema: {_flow(schema)}",
        "  overlap_seconds: 3600",
    ]
    landable = [r for r in relations if r.problem is None]
    lines.append("  tables:" if landable else "  tables: {}")
    for relation in relations:
        lines += [f"    # {_one_line(note)}" for note in relation.notes] if relation.problem is None else []
        entry: dict[str, object] = {}
        if relation.name != relation.lake_name:
            entry["relation"] = relation.name
        entry |= {"key": list(relation.key), "cursor": relation.cursor}
        if relation.is_empty:
            entry["may_be_empty"] = True
        if relation.rename:
            entry["rename"] = relation.rename
        if relation.numeric:
            entry["numeric"] = relation.numeric
        if relation.pii:
            entry["pii"] = relation.pii
        text = f"{relation.lake_name}: {_flow(entry)}"
        if relation.problem is None:
            lines.append(f"    {text}")
        else:
            lines += [f"    # not landed, {_one_line(relation.problem)}", f"    # {text}"]
    return "\n".join(lines) + "\n"


def _flow(value: object) -> str:
    """A value as YAML on one line."""
    text = yaml.safe_dump(
        value, default_flow_style=True, sort_keys=False, width=float("inf"), allow_unicode=True
    )
    text = text.removesuffix("\n").removesuffix("\n...")
    # PyYAML knows YAML 1.1, in which 1e5 is a text; JSON is YAML of either kind.
    return text if yaml12.parse_yaml(text) == value else json.dumps(value, ensure_ascii=False)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _words(name: str) -> str:
    """A name as lower case ASCII words with `_` between them: `dataAtualização` → `data_atualizacao`."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    plain = unicodedata.normalize("NFKD", apart).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "_", plain.lower()).strip("_")


def _lake_name(name: str, taken: set[str]) -> str:
    """A name that the lake and Athena take, and that no other table has."""
    plain = _words(name) if name != name.lower() or not re.fullmatch(r"[a-z][a-z0-9_]*", name) else name
    if not re.match(r"[a-z]", plain) or plain in ("true", "false", "null"):
        plain = f"t_{plain}".rstrip("_")
    number, unique = 2, plain
    while unique in taken:
        unique, number = f"{plain}_{number}", number + 1
    return unique
