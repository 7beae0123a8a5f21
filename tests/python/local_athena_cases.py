"""Statements, what Athena does with them, and who says so.

A case is `(statement, expectation, source)`. Expectations: `Rows` for the rows of the result without its header,
`Fails` for an execution that fails and why, `Refused` for a statement that StartQueryExecution does not take.
Sources are pages of AWS's documentation (below `DOCS`), issues, code of clients, or `assumed`: what Trino's and
Hive's own words lead to expect, which nobody has checked on AWS. A source vouches for the outcome; words of an
error that it does not quote are assumed as well. A wrong expectation is a bug of this file.

Cases run in order in one database; later ones may use the tables of earlier ones.
"""

import re
from dataclasses import dataclass

DOCS = "https://docs.aws.amazon.com/athena/latest/ug/"
WRANGLER = "https://github.com/aws/aws-sdk-pandas/blob/main/"
ASSUMED = "assumed"
DATABASE = "conformance"
"""In which they run."""


@dataclass(frozen=True)
class Rows:
    """The statement succeeds with these rows; None accepts any."""

    rows: list[list[str | None]] | None = None
    update_count: int | None = None


@dataclass(frozen=True)
class Fails:
    """The execution fails; the reason matches."""

    pattern: str


@dataclass(frozen=True)
class Refused:
    """InvalidRequestException; the text matches."""

    pattern: str


OK = Rows()


def one(value: str | None) -> Rows:
    """One row of one value."""
    return Rows([[value]])


def text(*lines: str) -> Rows:
    """Rows of one value each."""
    return Rows([[line] for line in lines])


def fields(*names: str) -> Rows:
    """What SHOW COLUMNS answers: Hive fills names up to 20 characters."""
    return text(*(name.ljust(20) for name in names))


def exactly(words: str) -> str:
    """A pattern for these very words somewhere in the text."""
    return re.escape(words)


CASES: list[tuple[str, Rows | Fails | Refused, str]] = []


def cases(source: str, *added: tuple[str, Rows | Fails | Refused]) -> None:
    """Adds cases of one source."""
    CASES.extend((statement, expectation, source) for statement, expectation in added)


# How values are printed.
cases(
    DOCS + "data-types.html",
    ("select true", one("true")),
    ("select cast(1 as tinyint)", one("1")),
    ("select cast(-7 as smallint)", one("-7")),
    ("select 2147483647", one("2147483647")),
    ("select 9223372036854775807", one("9223372036854775807")),
    ("select cast('12.50' as decimal(10, 2))", one("12.50")),
    ("select decimal '0.00'", one("0.00")),
    ("select date '2024-02-29'", one("2024-02-29")),
    ("select timestamp '2024-01-02 03:04:05.678'", one("2024-01-02 03:04:05.678")),
    ("select cast('ab' as char(4))", one("ab  ")),
    ("select cast('abc' as varchar(2))", one("ab")),
    ("select array[1, 2]", one("[1, 2]")),
    ("select map(array['a', 'b'], array[1, 2])", one("{a=1, b=2}")),
    ("select cast(row(1, 'x') as row(a int, b varchar))", one("{a=1, b=x}")),
    ("select row(1, 'x')", one("{field0=1, field1=x}")),
)
cases(
    "https://github.com/pyathena-dev/PyAthena/blob/master/pyathena/converter.py",
    ("select cast(null as integer)", one(None)),
    ("select ''", one("")),
    ("select x'00ff'", one("00 ff")),
    ("select timestamp '2024-01-02 03:04:05.678 UTC'", one("2024-01-02 03:04:05.678 UTC")),
    ("select time '03:04:05.678'", one("03:04:05.678")),
    ("select json_parse('{\"a\": [1]}')", one('{"a":[1]}')),
    ("select 1e0", one("1.0")),
    ("select nan()", one("NaN")),
    ("select infinity()", one("Infinity")),
)
cases(
    ASSUMED,
    ("select array[1, null]", one("[1, null]")),
    ("select 'a\nb,\"c\"'", one('a\nb,"c"')),
    ("select 1e12", one("1.0E12")),
    ("select 12345678.9e0", one("1.23456789E7")),
    ("select 0.001e0", one("0.001")),
    ("select 0.0001e0", one("1.0E-4")),
    ("select -0e0", one("-0.0")),
    ("select cast(1.5e0 as real)", one("1.5")),
    ("select array[map(array['k'], array[row(1)])]", one("[{k={field0=1}}]")),
    ("select interval '1' day", one("1 00:00:00.000")),
    ("select interval '14' month", one("1-2")),
    ("select uuid '12151fd2-7586-11e9-8f9e-2a86e4085a59'", one("12151fd2-7586-11e9-8f9e-2a86e4085a59")),
    ("values 1, 2", Rows([["1"], ["2"]])),
    ("select * from (values (1, 'a'))", Rows([["1", "a"]])),
)

# The language: engine version 3.
cases(
    DOCS + "engine-versions-reference-0003.html",
    ("select concat_ws('-', 'a', 'b')", one("a-b")),
    ("select from_unixtime_nanos(1)", OK),
    ("create table wrong as select uuid() as myuuid", Fails("NOT_SUPPORTED: Unsupported Hive type: uuid")),
    ("create table uuids as select cast(uuid() as varchar) as myuuid", Rows([], update_count=1)),
    (
        "select to_iso8601(cast(date '2024-01-02' as timestamp with time zone)),"
        " to_iso8601(cast(date '2024-01-02' as timestamp))",
        Rows([["2024-01-02T00:00:00.000Z", "2024-01-02T00:00:00.000"]]),
    ),
    (
        "select minute(interval '14' month)",
        Fails("Unexpected parameters \\(interval year to month\\) for function minute"),
    ),
    ("select listagg(x, ',') within group (order by x) from (values 'b', 'a') as t (x)", one("a,b")),
)
cases(
    ASSUMED,
    ("select 1 / 0", Fails("DIVISION_BY_ZERO")),
    ("select cast('x' as integer)", Fails("INVALID_CAST_ARGUMENT: Cannot cast 'x' to INT")),
    ("select count(*) filter (where x > 1) from (values 1, 2) as t (x)", one("1")),
    ("(select 1)", one("1")),
)
cases(
    ASSUMED,
    ("select 1 / 0.0", one("Infinity")),
    ("select 'it''s 1.5'", one("it's 1.5")),
    ('select 1 as "1.5"', one("1")),
    ("-- a comment\nselect 1", one("1")),
    ("/* another */ select 1;", one("1")),
    ("select 1 -- the end", one("1")),
    ("select ';'", one(";")),
    ("select 1; -- the end", one("1")),
    ("select 1 ; ;", one("1")),
    ("select 'a''b;' || \"x\" from (values 'c') as t (x)", one("a'b;c")),
    ("select array[1.5e0, null], map(array[1.5e0], array[x'0a'])", Rows([["[1.5, null]", "{1.5=0a}"]])),
    ("select array[timestamp '2024-01-02 03:04:05.678', null]", one("[2024-01-02 03:04:05.678, null]")),
    ("select array['a,b', 'it''s \"q\"', '']", one('[a,b, it\'s "q", ]')),
    ("select cast(row(null, array[]) as row(a varchar, b array(integer)))", one("{a=null, b=[]}")),
    ("select map(array['k'], array[null])", one("{k=null}")),
    ("select cast(null as array(integer))", one(None)),
    ("select ' ', '\t', '\r\n'", Rows([[" ", "\t", "\r\n"]])),
    ("select cast('-0.10' as decimal(3, 2)), cast('1e-3' as double)", Rows([["-0.10", "0.001"]])),
    ("select timestamp '2024-01-02 03:04:05.678 Europe/Rome'", one("2024-01-02 03:04:05.678 Europe/Rome")),
    ("select cast(timestamp '2024-01-02 03:04:05.678' as timestamp(0))", one("2024-01-02 03:04:06")),
    ("select cast(1.1 as real), cast(16777216 as real)", Rows([["1.1", "1.6777216E7"]])),
)

# Functions and clauses that AWS documents, or says to be Trino's.
cases(
    DOCS + "functions-env3.html",
    ("select date_diff('day', date '2024-01-01', date '2024-03-01')", one("60")),
    ("select try(1 / 0)", one(None)),
    ("select approx_distinct(x) from (values 1, 2, 2) as t (x)", one("2")),
    ("select regexp_replace('a1b2', '\\d', '')", one("ab")),
    ("select element_at(array[1], 2)", one(None)),
    ("select json_extract_scalar('{\"a\": 1.50}', '$.a')", one("1.50")),
)
cases(DOCS + "flattening-arrays.html", ("select x from unnest(array[3, 4]) as t (x)", Rows([["3"], ["4"]])))
cases(DOCS + "select.html", ("with a as (select 1 as x) select x from a", one("1")))
cases(
    WRANGLER + "tests/unit/test_athena.py",
    ("select 1.5 / 2", one("0.75")),
    ("select typeof(1.5)", one("double")),
    ("select -infinity()", one("-Infinity")),
    ("select nan() as nan, infinity() as inf, 1.2 as regular", Rows([["NaN", "Infinity", "1.2"]])),
    ("select cast(row(1, 'foo') as row(id bigint, value varchar)) as col0", one("{id=1, value=foo}")),
    ("select typeof(current_timestamp)", one("timestamp(3) with time zone")),
    ("select random(-1)", Fails("INVALID_FUNCTION_ARGUMENT")),
    ("select 1 as foo, 2 as foo", Rows([["1", "2"]])),
)

# Errors of queries.
cases(
    "https://repost.aws/knowledge-center/athena-column-cannot-be-resolved-error",
    (
        "select nope",
        Fails(
            exactly(
                "COLUMN_NOT_FOUND: line 1:8: Column 'nope' cannot be resolved or requester is not authorized to access requested resources"
            )
        ),
    ),
)
cases(
    "https://github.com/guardian/athena-cli/issues/39",
    ("foo", Refused("line 1:1: mismatched input 'foo'. Expecting: 'ALTER', 'ANALYZE'")),
    ("select 1 from", Refused("line 1:14: mismatched input '<EOF>'. Expecting: ")),
    ("select 1 frm t", Refused("line 1:14: mismatched input 't'. Expecting: ")),
)
cases(
    DOCS + "tables-databases-columns-names.html",
    (
        "select `a` from t",
        Refused("line 1:8: backquoted identifiers are not supported; use double quotes to quote identifiers"),
    ),
)
cases(
    "https://github.com/aws-solutions-library-samples/cloud-intelligence-dashboards-framework/issues/135",
    ("truncate table t", Refused("Queries of this type are not supported")),
)
cases(
    DOCS + "unsupported-ddl.html",
    *(
        (statement, Refused("Queries of this type are not supported"))
        for statement in (
            "alter index i on t rebuild", "alter view v as select 1", "analyze t", "commit", "create function f as 'x'",
            "create index i on table t (c) as 'x'", "create role r", "create temporary macro m() 1",
            "drop function f", "drop index i on t", "drop role r", "export table t to 's3://x/y'", "grant role r to user u",
            "import table t from 's3://x/y'", "lock database d shared", "lock table t shared", "revoke role r from user u",
            "rollback", "set role r", "show compactions", "show current roles", "show grant", "show indexes",
            "show locks", "show principals r", "show role grant r", "show roles", "show stats for t",
            "show transactions", "start transaction", "unlock database d", "unlock table t", "use default",
        )
    ),
)  # fmt: skip
cases(
    DOCS + "troubleshooting-athena.html",
    ("select nope(1)", Fails("FUNCTION_NOT_FOUND: line 1:8: Function 'nope' not registered")),
    ("show functions", OK),
)
cases(
    ASSUMED,
    ("show functions like 'pi'", text("pi\tdouble\t\tscalar\ttrue\tThe constant Pi")),
    ("select * from nope.t", Fails("SCHEMA_NOT_FOUND: line 1:15: Schema 'nope' does not exist")),
    (
        "select * from nope",
        Fails("TABLE_NOT_FOUND: line 1:15: Table 'awsdatacatalog.[a-z0-9_]+.nope' does not exist"),
    ),
    ("select '1' = 1", Fails("TYPE_MISMATCH: line 1:12: Cannot apply operator: varchar\\(1\\) = integer")),
    ("\n\nselect nope", Fails("COLUMN_NOT_FOUND: line 3:8: ")),
    ("select a, a as a from (values 1) as t (a)", Rows([["1", "1"]])),
    ("select * from system.runtime.nodes", Fails("CATALOG_NOT_FOUND: line 1:15: Catalog 'system' not found")),
    (
        'select 1 from (values 1) as t (x), "system".metadata.catalogs',
        Fails("CATALOG_NOT_FOUND: line 1:36: Catalog 'system' not found"),
    ),
    ("select * from iceberg.a.b", Fails("CATALOG_NOT_FOUND: line 1:15: Catalog 'iceberg' not found")),
    ("with function f() returns integer return 1 select f()", Refused("mismatched input 'f'")),
    ("with function as (select 1 as x) select x from function", one("1")),
    ("show session", Refused("Queries of this type are not supported")),
    ("show catalogs", Refused("Queries of this type are not supported")),
    ("call system.runtime.kill_query('x', 'y')", Refused("Queries of this type are not supported")),
    ("set session query_max_run_time = '1s'", Refused("Queries of this type are not supported")),
    ("comment on table t is 'x'", Refused("Queries of this type are not supported")),
    ("create materialized view v as select 1", Refused("Queries of this type are not supported")),
    ("create or replace table t as select 1 as x", Refused("Queries of this type are not supported")),
    ("select 1; select 2", Refused("Only one sql statement is allowed. Got: select 1; select 2")),
)

# Databases.
cases(
    DOCS + "create-database.html",
    (
        "create database db_a comment 'first' location 's3://data/db_a/' with dbproperties ('creator' = 'me')",
        OK,
    ),
    ("create schema if not exists db_a", OK),
    ("create database `db-b`", OK),
    ("create database db-c", Fails("FAILED: ParseException line 1:18 missing EOF at '-' near 'db'")),
)
cases(
    DOCS + "show-databases.html",
    ("show databases like 'db_*'", text("db_a")),
    ("show schemas like 'db*'", text("db-b", "db_a")),
    ("show databases 'nope'", Rows([])),
)
cases(
    DOCS + "drop-database.html",
    ("create external table db_a.t (x int) location 's3://data/db_a/t/'", OK),
    (
        "drop database db_a",
        Fails(
            exactly(
                "InvalidOperationException(message:Database db_a is not empty. One or more tables exist.)"
            )
        ),
    ),
    ("drop database if exists db_a cascade", OK),
    ("drop schema `db-b`", OK),
    ("drop database if exists db_a", OK),
    ("drop database db_a", Fails("Database does not exist: db_a")),
)
cases(
    ASSUMED,
    ("create database default", Fails("Database default already exists")),
    (
        "create table db_none.t (x int) location 's3://data/x/' tblproperties ('table_type' = 'iceberg')",
        Fails("Database does not exist: db_none"),
    ),
)

# CREATE TABLE, of files.
cases(
    DOCS + "create-table.html",
    ("create external table people (id int comment 'key', name string, born date) location 's3://data/people/'", OK),
    ("create external table if not exists people (id int) location 's3://data/people/'", OK),
    ("create external table people (id int) location 's3://data/people/'", Fails(exactly("AlreadyExistsException(message:Table people already exists.)"))),
    ("create table plain (id int) location 's3://data/plain/'", Fails("EXTERNAL")),
    ("create external table nowhere (id int)", Fails("Table location can not be null")),
    ("create external table typed (a tinyint, b smallint, c bigint, d double, e float, f decimal(10,2), g char(3),"
     " h varchar(5), i binary, j timestamp, k boolean, l array<int>, m map<string,int>, n struct<x:int,y:string>)"
     " stored as parquet location 's3://data/typed/'", OK),
    ("create external table odd (a uuid) location 's3://data/odd/'", Fails("cannot recognize input near 'uuid' in column type")),
    ("create external table doubled (a int, a string) location 's3://data/d/'", Fails("Duplicate column name: a")),
    ("create external table `_under` (`_id` int) location 's3://data/u/'", OK),
    ("create external table events (id bigint, kind string) partitioned by (year int, month int)"
     " row format delimited fields terminated by ',' escaped by '\\\\' lines terminated by '\\n'"
     " location 's3://data/events/' tblproperties ('skip.header.line.count' = '1')", OK),
    ("create external table unknown_format (id int) stored as foo location 's3://data/f/'", Fails("Unrecognized file format in STORED AS clause: 'FOO'")),
    ("create external table clustered (id int) clustered by (id) into 4 buckets stored as orc location 's3://data/c/'", OK),
)  # fmt: skip
cases(
    DOCS + "reserved-words.html",
    *(
        (
            f"create external table words (id int, {word} string) location 's3://data/w/'",
            Fails(f"cannot recognize input near '{word}'"),
        )
        for word in "date timestamp user table select order group from where partition decimal double int time values views".split()
    ),
    ("create external table words (`date` string, `user` string) location 's3://data/words/'", OK),
    (
        "create external table select (id int) location 's3://data/w/'",
        Fails("cannot recognize input near 'select'"),
    ),
    ('drop table "words"', Fails("cannot recognize input near '\"words\"'")),
    ('select "date" from words', Rows([])),
    ("select date from words", Rows([])),
    ("select order from words", Refused("mismatched input 'order'")),
)
cases(
    DOCS + "ctas-insert-into.html",
    (
        "show create table people",
        Rows(),
    ),
)
cases(
    DOCS + "show-create-table.html",
    ("show create table typed", OK),
    ("show create table nope", Fails("Table not found")),
)
cases(
    DOCS + "show-tables.html",
    ("show tables like 'people*'", text("people")),
    ("show tables 'ev*|peo*'", text("events", "people")),
    ("show tables in default 'nope'", Rows([])),
)
cases(
    DOCS + "describe-table.html",
    (
        "describe people",
        text(
            "id                  \tint                 \tkey                 ",
            "name                \tstring              \t                    ",
            "born                \tdate                \t                    ",
        ),
    ),
    ("desc nope", Fails("Table not found")),
)
cases(
    DOCS + "show-columns.html",
    ("show columns in people", fields("id", "name", "born")),
    ("show columns from events", fields("id", "kind", "year", "month")),
)
cases(
    DOCS + "show-tblproperties.html",
    ("show tblproperties events ('skip.header.line.count')", one("1")),
    ("show tblproperties events", text("EXTERNAL\tTRUE", "skip.header.line.count\t1")),
)

# ALTER TABLE, of files.
cases(
    DOCS + "alter-table-add-columns.html",
    ("alter table people add columns (city string comment 'where', zip string)", OK),
    ("show columns in people", fields("id", "name", "born", "city", "zip")),
    ("alter table people add columns (city string)", Fails("Duplicate column name: city")),
)
cases(
    DOCS + "alter-table-replace-columns.html",
    ("alter table people replace columns (id int, name string)", OK),
    ("show columns in people", fields("id", "name")),
)
cases(
    DOCS + "alter-table-change-column.html",
    ("alter table people change column name full_name string comment 'new'", OK),
    ("alter table people change nope x string", Fails("Invalid column reference nope")),
    ("show columns in people", fields("id", "full_name")),
)
cases(
    DOCS + "alter-table-set-tblproperties.html",
    ("alter table people set tblproperties ('classification' = 'csv')", OK),
    ("show tblproperties people('classification')", one("csv")),
)
cases(
    DOCS + "alter-table-set-location.html",
    ("alter table people set location 's3://data/people2/'", OK),
)
cases(
    DOCS + "alter-table-add-partition.html",
    (
        "alter table events add partition (year = 2024, month = 1) partition (year = 2024, month = 2) location 's3://data/feb/'",
        OK,
    ),
    ("alter table events add partition (year = 2024, month = 1)", Fails("already exists")),
    ("alter table events add if not exists partition (year = 2024, month = 1)", OK),
    ("alter table events add partition (nope = 1)", Fails("partition columns do not match")),
    ("show partitions events", text("year=2024/month=1", "year=2024/month=2")),
    ('select * from "events$partitions" order by month', Rows([["2024", "1"], ["2024", "2"]])),
)
cases(
    DOCS + "alter-table-rename-partition.html",
    (
        "alter table events partition (year = 2024, month = 2) rename to partition (year = 2023, month = 2)",
        OK,
    ),
    ("show partitions events", text("year=2023/month=2", "year=2024/month=1")),
)
cases(
    DOCS + "alter-table-drop-partition.html",
    ("alter table events drop partition (year = 2023, month = 2)", OK),
    ("alter table events drop partition (year = 2023, month = 2)", Fails("Partition not found")),
    ("alter table events drop if exists partition (year = 2023, month = 2)", OK),
    (
        "alter table events drop partition (year = 2024, month = 1), partition (year = 2024, month = 9)",
        Fails("Partition not found"),
    ),
)
cases(
    DOCS + "unsupported-ddl.html",
    ("alter table people rename to persons", Fails("only supported for Iceberg")),
    *(
        (f"alter table events {what}", Fails("cannot recognize input near .* in alter table statement"))
        for what in (
            "archive partition (year = 2024, month = 1)", "clustered by (id) into 4 buckets",
            "exchange partition (year = 2024, month = 1) with table people", "not clustered", "not skewed", "not sorted",
            "not stored as directories", "partition (year = 2024, month = 1) change column id id int",
            "partition (year = 2024, month = 1) compact 'major'", "partition (year = 2024, month = 1) concatenate",
            "partition (year = 2024, month = 1) set fileformat orc", "set serdeproperties ('a' = 'b')",
            "set skewed location (1 = 's3://data/one/')", "skewed by (id) on (1)", "touch",
            "unarchive partition (year = 2024, month = 1)",
        )
    ),
    ("create table people2 like people", Fails("ParseException")),
    ("drop temporary macro m", Fails("ParseException")),
    ("dfs -ls", Refused("mismatched input 'dfs'")),
)  # fmt: skip
cases(
    DOCS + "delete-statement.html",
    ("delete from people", Fails("NOT_SUPPORTED")),
    ("delete from events where year = 2024", Fails("NOT_SUPPORTED: Modifying Hive table rows")),
)
cases(DOCS + "update-statement.html", ("update people set id = 1", Fails("NOT_SUPPORTED")))
cases(
    DOCS + "merge-into-statement.html",
    (
        "merge into people as t using (values 1) as s (id) on t.id = s.id when matched then delete",
        Fails("NOT_SUPPORTED"),
    ),
)
cases(
    DOCS + "optimize-statement.html", ("optimize people rewrite data using bin_pack", Fails("NOT_SUPPORTED"))
)
cases(DOCS + "vacuum-statement.html", ("vacuum people", Fails("NOT_SUPPORTED")))
cases(
    ASSUMED,
    ("alter table people drop column id", Fails("only supported for Iceberg")),
    ("show partitions people", Fails("is not a partitioned table")),
    (
        "alter table people foo",
        Fails("cannot recognize input near 'foo' '<EOF>' '<EOF>' in alter table statement"),
    ),
)

# CTAS.
cases(
    DOCS + "create-table-as.html",
    ("create table made as select 1 as id, 'x' as name", Rows([], update_count=1)),
    ("select * from made", Rows([["1", "x"]])),
    ("create table made as select 1 as id", Fails("TABLE_ALREADY_EXISTS")),
    ("create table if not exists made as select 1 as id", OK),
    ("create table empty_one as select 1 as id with no data", Rows([], update_count=0)),
    ("select count(*) from empty_one", one("0")),
    ("create table orc_one with (format = 'ORC', write_compression = 'SNAPPY') as select 1 as id", OK),
    ("create table avro_one with (format = 'AVRO') as select 1 as id", OK),
    ("create table json_one with (format = 'JSON') as select 1 as id", OK),
    ("create table text_one with (format = 'TEXTFILE', field_delimiter = ',') as select 1 as id, 2 as x", OK),
    ("select * from orc_one, avro_one, json_one, text_one", Rows([["1", "1", "1", "1", "2"]])),
    ("create table parted with (partitioned_by = array['p']) as select 1 as id, 'a' as p union all select 2, 'b'", Rows([], update_count=2)),
    ("show partitions parted", text("p=a", "p=b")),
    ("create table bucketed with (bucketed_by = array['id'], bucket_count = 2) as select 1 as id", OK),
    ("create table wrong with (foo = 'bar') as select 1 as id", Fails("table property 'foo' does not exist")),
    ("create table wrong with (format = 'CSV') as select 1 as id", Fails("INVALID_TABLE_PROPERTY")),
    ("create table wrong with (table_type = 'delta') as select 1 as id", Fails("INVALID_TABLE_PROPERTY")),
    ("create table placed with (external_location = 's3://data/placed/') as select 1 as id", OK),
    ("create table placed2 with (external_location = 's3://data/placed/') as select 1 as id", Fails("HIVE_PATH_ALREADY_EXISTS: .*Athena will not delete data in your account")),
    ("create table wrong with (table_type = 'ICEBERG') as select 1 as id", Fails("is_external")),
    ("create table wrong with (partitioning = array['id']) as select 1 as id", Fails("INVALID_TABLE_PROPERTY")),
    ("create table wrong with (table_type = 'ICEBERG', is_external = false, bucket_count = 2) as select 1 as id", Fails("INVALID_TABLE_PROPERTY")),
    ("create table `wrong` as select 1 as id", Refused("backquoted identifiers are not supported")),
)  # fmt: skip
cases(
    "https://github.com/dbt-labs/dbt-adapters/issues/1599",
    (
        "create table wrong with (a.b = 'c') as select 1 as id",
        Refused("mismatched input '.*'. Expecting: '='"),
    ),
)
cases(
    "https://github.com/dbt-labs/dbt-adapters/issues/424",
    (
        "create table wrong as select cast(now() as timestamp(6)) as ts",
        Fails(
            exactly(
                "Incorrect timestamp precision for timestamp(6); the configured precision is MILLISECONDS; column name: ts"
            )
        ),
    ),
)
cases(
    DOCS + "ctas-insert-into.html",
    (
        "create table wrong with (partitioned_by = array['p']) as select x as id, x as p from unnest(sequence(1, 101)) as t (x)",
        Fails("HIVE_TOO_MANY_OPEN_PARTITIONS: Exceeded limit of 100 open writers for partitions/buckets"),
    ),
    (
        "create table hundred with (partitioned_by = array['p']) as select x as id, x as p from unnest(sequence(1, 100)) as t (x)",
        OK,
    ),
    (
        "insert into hundred select x, x from unnest(sequence(201, 301)) as t (x)",
        Fails("HIVE_TOO_MANY_OPEN_PARTITIONS"),
    ),
)
cases(
    ASSUMED,
    (
        "create table wrong as select now() as ts",
        Fails(exactly("Unsupported Hive type: timestamp(3) with time zone")),
    ),
    ("create table wrong as select nope as x", Fails("COLUMN_NOT_FOUND: line 1:30: ")),
    ("create table wrong as selec 1", Refused("mismatched input|extraneous input")),
)

cases(
    WRANGLER + "awswrangler/athena/_read.py",
    ("create table wrong as select 1 as a, 2 as a", Fails("specified more than once")),
    ("create table wrong as select null as a", Fails("COLUMN_TYPE_UNKNOWN")),
    ("create table wrong as select max(1)", Fails("Column name not specified")),
)

# INSERT.
cases(
    DOCS + "insert-into.html",
    ("insert into made values (2, 'y'), (3, 'z')", Rows([], update_count=2)),
    ("insert into made (id) values (4)", Rows([], update_count=1)),
    ("select name from made where id = 4", one(None)),
    ("insert into made select * from made", Rows([], update_count=4)),
    ("insert into nope values (1)", Fails("TABLE_NOT_FOUND")),
    ("insert into made values ('a', 'b')", Fails("TYPE_MISMATCH")),
)

# Iceberg.
cases(
    DOCS + "querying-iceberg-creating-tables.html",
    ("create table ice (id int, name string, ts timestamp, amount decimal(10,2)) partitioned by (day(ts), bucket(4, id))"
     " location 's3://data/ice/' tblproperties ('table_type' = 'ICEBERG', 'format' = 'parquet',"
     " 'vacuum_max_snapshot_age_seconds' = '60')", OK),
    ("create external table wrong (id int) location 's3://data/i/' tblproperties ('table_type' = 'ICEBERG')", Fails("(?i)external")),
    ("create table wrong (id int) location 's3://data/i/' tblproperties ('table_type' = 'ICEBERG', 'foo' = 'bar')", Fails("Unsupported table property key: foo")),
    ("create table wrong (id smallint) location 's3://data/i/' tblproperties ('table_type' = 'ICEBERG')", Fails("smallint")),
    ("create table wrong (id char(3)) location 's3://data/i/' tblproperties ('table_type' = 'ICEBERG')", Fails("char")),
    ("create table wrong (id int) tblproperties ('table_type' = 'ICEBERG')", Fails("Table location can not be null")),
    ("create table truncated (id int, s string) partitioned by (truncate(2, s)) location 's3://data/tr/' tblproperties ('table_type' = 'ICEBERG')", OK),
)  # fmt: skip
cases(
    DOCS + "querying-iceberg-updating-iceberg-table-data.html",
    (
        "insert into ice values (1, 'a', timestamp '2024-01-01 00:00:00.123456', decimal '1.50'), (2, 'b', null, null)",
        Rows([], update_count=2),
    ),
    ("update ice set name = 'c' where id = 1", Rows([], update_count=1)),
    ("delete from ice where id = 2", Rows([], update_count=1)),
    (
        "merge into ice as t using (values (1, 'd'), (3, 'e')) as s (id, name) on t.id = s.id"
        " when matched then update set name = s.name when not matched then insert (id, name) values (s.id, s.name)",
        Rows([], update_count=2),
    ),
    (
        "select id, name, ts from ice order by id",
        Rows([["1", "d", "2024-01-01 00:00:00.123456"], ["3", "e", None]]),
    ),
)
cases(
    DOCS + "querying-iceberg-time-travel-and-version-travel-queries.html",
    (
        "select count(*) from ice for timestamp as of (current_timestamp - interval '1' day)",
        Fails("No version history|before|INVALID_ARGUMENTS|snapshot"),
    ),
    (
        "select count(*) from ice for version as of 9999999999",
        Fails("Iceberg snapshot ID does not exists: 9999999999"),
    ),
)
cases(
    DOCS + "querying-iceberg-table-data.html",
    ('select count(*) > 2 from "ice$history"', one("true")),
    ('select count(*) > 0 from "ice$files"', one("true")),
    ('select count(*) > 2 from "ice$snapshots"', one("true")),
    ('select count(*) > 0 from "ice$partitions"', one("true")),
    ('select count(*) > 0 from "ice$manifests"', one("true")),
    ('select name from "ice$refs"', one("main")),
)
cases(
    DOCS + "querying-iceberg-evolving-table-schema.html",
    ("alter table ice add columns (note string comment 'free', points int)", OK),
    ("alter table ice change column points points bigint", OK),
    ("alter table ice change column points score bigint", OK),
    ("alter table ice drop column note", OK),
    ("show columns in ice", fields("id", "name", "ts", "amount", "score")),
    ("select score from ice where id = 1", one(None)),
)
cases(
    DOCS + "querying-iceberg-alter-table-rename.html",
    ("alter table ice rename to ice2", OK),
    ("select count(*) from ice2", one("2")),
    ("select count(*) from ice", Fails("TABLE_NOT_FOUND")),
)
cases(
    DOCS + "querying-iceberg-alter-table-set-properties.html",
    ("alter table ice2 set tblproperties ('optimize_rewrite_delete_file_threshold' = '10')", OK),
    ("alter table ice2 set tblproperties ('foo' = 'bar')", Fails("Unsupported table property key: foo")),
    ("insert into ice2 (id) values (9)", OK),
    ("show tblproperties ice2('optimize_rewrite_delete_file_threshold')", one("10")),
    ("show tblproperties ice2('vacuum_max_snapshot_age_seconds')", one("60")),
    ("alter table ice2 unset tblproperties ('optimize_rewrite_delete_file_threshold')", OK),
)
cases(
    DOCS + "querying-iceberg-describe-table.html",
    ("describe ice2", text(
        "# Table schema:\t\t", "# col_name\tdata_type\tcomment", "id\tint\t", "name\tstring\t", "ts\ttimestamp\t",
        "amount\tdecimal(10,2)\t", "score\tbigint\t", "\t\t", "# Partition spec:\t\t",
        "# field_name\tfield_transform\tcolumn_name", "ts\tday\tts", "id\tbucket[4]\tid",
    )),
)  # fmt: skip
cases(
    DOCS + "querying-iceberg-data-optimization.html",
    ("optimize ice2 rewrite data using bin_pack", OK),
    ("optimize ice2 rewrite data using bin_pack where ts < timestamp '2025-01-01 00:00:00'", OK),
    ("vacuum ice2", OK),
    ("select count(*) from ice2", one("3")),
)
cases(
    DOCS + "querying-iceberg-creating-tables.html",
    ("create table made_ice with (table_type = 'ICEBERG', is_external = false, format = 'PARQUET', location = 's3://data/made_ice/',"
     " partitioning = array['bucket(id, 4)'], vacuum_min_snapshots_to_keep = 3) as select 1 as id, cast(now() as timestamp(6)) as ts", Rows([], update_count=1)),
    ("show tblproperties made_ice('vacuum_min_snapshots_to_keep')", one("3")),
    ("show tblproperties made_ice('table_type')", one("ICEBERG")),
)  # fmt: skip
cases(
    DOCS + "querying-iceberg-supported-data-types.html",
    *(
        (
            f"create table wrong with (table_type = 'ICEBERG', is_external = false) as select {value} as x",
            Fails(why),
        )
        for value, why in (
            ("cast(1 as tinyint)", "NOT_SUPPORTED: Type not supported for Iceberg: tinyint"),
            ("cast(1 as smallint)", "NOT_SUPPORTED: Type not supported for Iceberg: smallint"),
            ("cast('a' as char(3))", "NOT_SUPPORTED: Type not supported for Iceberg: char"),
            ("array[cast(1 as smallint)]", "NOT_SUPPORTED: Type not supported for Iceberg: smallint"),
            ("json '1'", "NOT_SUPPORTED: Type not supported for Iceberg: json"),
        )
    ),
)
cases(
    ASSUMED,
    (
        "create table wrong with (table_type = 'ICEBERG', is_external = false) as select timestamp '2024-01-01 00:00:00' as x",
        Fails(
            exactly(
                'NOT_SUPPORTED: Timestamp precision (0) not supported for Iceberg. Use "timestamp(6)" instead.'
            )
        ),
    ),
    (
        "create table wrong with (table_type = 'ICEBERG', is_external = false) as select current_timestamp as x",
        Fails(exactly("Unsupported Hive type: timestamp(3) with time zone")),
    ),
    ("alter table ice2 add partition (id = 1)", Fails("not supported for Iceberg")),
)
cases(
    DOCS + "querying-iceberg-additional-operations.html",
    ("msck repair table ice2", Fails("not supported for Iceberg")),
)
cases(
    DOCS + "querying-iceberg-evolving-table-schema.html",
    ("alter table ice2 replace columns (id int)", Fails("not supported for Iceberg")),
)
cases(
    "https://dev.classmethod.jp/articles/checked-whether-the-error-that-occurs-when-creating-more-than-100-partitions-with-ctas-insert-in-athena-also-occurs-in-iceberg/",
    ("create table wrong with (table_type = 'ICEBERG', is_external = false, partitioning = array['id']) as select x as id from unnest(sequence(1, 101)) as t (x)",
     Fails("TOO_MANY_OPEN_PARTITIONS: Exceeded limit of 100 open writers for partitions")),
)  # fmt: skip

# Views.
cases(
    DOCS + "create-view.html",
    ("create view v3 select 1", Refused("Expecting: 'AS'")),
    ("create view v as select id, name from made where id = 1", OK),
    ("create view v as select 1 as x", Fails("TABLE_ALREADY_EXISTS|already exists")),
    ("create or replace view v as select id, name as label from made where id = 2", OK),
    ('create view "v-2" as select 1 as "a b"', OK),
    ("select distinct * from v", Rows([["2", "y"]])),
    ('select * from "v-2"', one("1")),
)
cases(
    "https://github.com/laughingman7743/PyAthena/blob/master/tests/pyathena/sqlalchemy/test_base.py",
    (f"create view shown_v as select id from {DATABASE}.made", OK),
    (
        "show create view shown_v",
        text(f"CREATE VIEW {DATABASE}.shown_v AS", "SELECT id", "FROM", f"  {DATABASE}.made"),
    ),
    ("drop view shown_v", OK),
)
cases(
    DOCS + "show-views.html",
    ("show views", text("v", "v-2")),
    ("show views like 'v'", text("v")),
)
cases(DOCS + "describe-view.html", ("show columns in v", fields("id", "label")))
cases(
    DOCS + "drop-view.html",
    ('drop view "v-2"', OK),
    ('drop view if exists "v-2"', OK),
    ("drop view `v`", Refused("backquoted identifiers are not supported")),
    ("drop view nope", Fails("does not exist")),
)
cases(
    ASSUMED,
    (
        "create view zoned as select now() as ts",
        Fails(
            exactly("Invalid column type for column ts: Unsupported Hive type: timestamp(3) with time zone")
        ),
    ),
    ("create view broken as select nope from made", Fails("COLUMN_NOT_FOUND: line 1:30: ")),
    ("drop table v", Fails("Cannot drop a view with DROP TABLE")),
    ("drop view made", Fails("is a table|a table with that name exists")),
    ("show create view made", Fails("is a table, not a view")),
)

# MSCK, UNLOAD, EXPLAIN, prepared statements.
cases(
    DOCS + "msck-repair-table.html",
    (
        "create external table found (id int) partitioned by (p string) stored as parquet location 's3://data/found/'",
        OK,
    ),
    ("unload (select 1 as id) to 's3://data/found/p=a/' with (format = 'PARQUET')", OK),
    (
        "msck repair table found",
        text("Partitions not in metastore:\tfound:p=a", "Repair: Added partition to metastore found:p=a"),
    ),
    ("msck repair table found", Rows([])),
    ("select * from found", Rows([["1", "a"]])),
)
cases(
    DOCS + "unload.html",
    (
        "unload (select * from made) to 's3://data/unloaded/' with (format = 'PARQUET', compression = 'gzip')",
        Rows([]),
    ),
    (
        "unload (select * from made) to 's3://data/unloaded/' with (format = 'PARQUET')",
        Fails("HIVE_PATH_ALREADY_EXISTS"),
    ),
    (
        "unload (select 1 as a, 'x' as p) to 's3://data/unloaded2/' with (format = 'JSON', partitioned_by = array['p'])",
        Rows([]),
    ),
    ("unload (select 1 as a) to 's3://data/unloaded3/' with (format = 'PARQUET', foo = 1)", Fails("foo")),
    ("unload (select 1 as a) to 's3://data/unloaded3/'", Fails("format")),
)
cases(
    DOCS + "athena-explain-statement.html",
    ("explain select 1", OK),
    ("explain (type logical, format text) select 1", OK),
    ("explain (type io, format json) select 1", OK),
    ("explain analyze select count(*) from made", OK),
)
cases(
    DOCS + "querying-with-prepared-statements-querying-using-sql.html",
    ("prepare my_one from select ? + 1 as x", OK),
    ("execute my_one using 41", one("42")),
    ("execute my_one", Fails("INVALID_PARAMETER_USAGE")),
    ("deallocate prepare my_one", OK),
    ("execute my_one using 1", Fails("PreparedStatement my_one was not found in workGroup primary")),
)

# The end of tables.
cases(
    DOCS + "drop-table.html",
    ("drop table ice2", OK),
    ("drop table if exists ice2", OK),
    ("drop table ice2", Fails("Table not found")),
    ("drop table made_ice", OK),
    ("drop table `people`", OK),
    ("drop table people", Fails("Table not found")),
)
