"""The local Athena against what Athena is documented or known to do; one server for the whole file."""

import contextlib
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import psutil
import pytest
from conftest import ROOT
from local_athena_cases import CASES, DATABASE, Fails, Refused, Rows
from moto.glue.responses import GlueResponse
from moto.s3.models import s3_backends
from moto.s3.utils import _VersionedKeyStore

from realtime.features import _STORE, open_athena
from sandbox.aws import LocalAws
from sandbox.aws.athena.engine import Engine
from sandbox.aws.athena.execution import Execution
from sandbox.aws.corrections import glue, s3

pytest_plugins = ["sandbox.aws.pytest_plugin"]

OUTPUT = "s3://results/out/"
OVER = ("SUCCEEDED", "FAILED", "CANCELLED")


@dataclasses.dataclass
class Outcome:
    """How an execution ended."""

    execution: dict
    rows: list[list[str | None]]
    update_count: int | None = None

    @property
    def state(self) -> str:
        return self.execution["Status"]["State"]

    @property
    def reason(self) -> str:
        return self.execution["Status"].get("StateChangeReason", "")


class Client:
    """Runs statements as a client does: start, poll, read pages."""

    def __init__(self, aws: LocalAws, database: str = "default") -> None:
        self.athena, self.s3, self.glue = aws.client("athena"), aws.client("s3"), aws.client("glue")
        self.database = database

    def start(self, sql: str, **more) -> str:
        request = {
            "QueryString": sql,
            "QueryExecutionContext": {"Database": self.database},
            "ResultConfiguration": {"OutputLocation": OUTPUT},
        } | more
        return self.athena.start_query_execution(**request)["QueryExecutionId"]

    def wait(self, name: str, patience: float = 60) -> dict:
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            execution = self.athena.get_query_execution(QueryExecutionId=name)["QueryExecution"]
            if execution["Status"]["State"] in OVER:
                return execution
            time.sleep(0.02)
        raise AssertionError(f"{execution['Query']} is still {execution['Status']['State']}")

    def run(self, sql: str, **more) -> Outcome:
        execution = self.wait(self.start(sql, **more))
        if execution["Status"]["State"] != "SUCCEEDED":
            # whoever expects rows sees why there are none
            return Outcome(execution, [[execution["Status"].get("StateChangeReason")]])
        pages = self.athena.get_paginator("get_query_results").paginate(
            QueryExecutionId=execution["QueryExecutionId"]
        )
        rows, count = [], None
        for page in pages:
            count = page["UpdateCount"]
            rows += [
                [value.get("VarCharValue") for value in row["Data"]] for row in page["ResultSet"]["Rows"]
            ]
        header = execution["StatementType"] == "DML" and bool(rows)
        return Outcome(execution, rows[1:] if header else rows, count)


@pytest.fixture(scope="module")
def client(local_aws: LocalAws) -> Client:
    found = Client(local_aws, DATABASE)
    for bucket in ("results", "data"):
        found.s3.create_bucket(Bucket=bucket)
    found.glue.create_database(DatabaseInput={"Name": "conformance"})
    return found


@pytest.fixture
def refused(client: Client) -> type[Exception]:
    return client.athena.exceptions.InvalidRequestException


# --- conformance -----------------------------------------------------------------------------


def test_every_case_names_its_source() -> None:
    assumed = sum(source == "assumed" for _, _, source in CASES)
    assert len(CASES) - assumed >= 250
    documented = (ROOT / "docs/local_athena.md").read_text()
    assert f"lists {len(CASES)} statements" in documented
    assert f"the {assumed} marked `assumed`" in documented
    assert [s for s, _, source in CASES if not (source == "assumed" or source.startswith("https://"))] == []


def test_conformance(client: Client, refused: type[Exception]) -> None:
    """All cases, in order: tables of earlier ones are used by later ones."""
    wrong = []
    for statement, expected, source in CASES:
        try:
            outcome = client.run(statement)
        except refused as error:
            text = error.response["Error"]["Message"]
            if not (isinstance(expected, Refused) and re.search(expected.pattern, text)):
                wrong.append((statement, expected, f"refused: {text}", source))
            continue
        seen = f"{outcome.state} {outcome.reason} {outcome.rows} {outcome.update_count}"
        match expected:
            case Rows(rows, count):
                fits = outcome.state == "SUCCEEDED" and rows in (None, outcome.rows)
                fits = fits and count in (None, outcome.update_count)
            case Fails(pattern):
                fits = outcome.state == "FAILED" and re.search(pattern, outcome.reason)
            case Refused():
                fits = False
        if not fits:
            wrong.append((statement, expected, seen, source))
    report = "\n".join(
        f"{s!r}\n    expected {e}\n    saw {seen}\n    source {source}" for s, e, seen, source in wrong
    )
    assert not wrong, f"{len(wrong)} of {len(CASES)} cases differ:\n{report}"


def test_show_create_table_can_be_run_again(client: Client) -> None:
    client.run(
        "create external table again (id int comment 'it''s', s string) partitioned by (d string)"
        " row format delimited fields terminated by ';' location 's3://data/again/' tblproperties ('a' = 'b')"
    )
    first = client.run("show create table again").rows
    assert first[0] == ["CREATE EXTERNAL TABLE `again`("]
    qualified = client.run("show create table conformance.again").rows
    assert qualified == [["CREATE EXTERNAL TABLE `conformance.again`("], *first[1:]]
    statement = "\n".join(row[0] for row in first)
    client.run("drop table again")
    assert client.run(statement.replace("\\'", "''")).reason == ""
    assert client.run("show create table again").rows == first


def test_show_create_table_leaves_out_what_is_the_default(client: Client) -> None:
    """Line by line what `test_athena` of awswrangler expects of a table of Parquet files, and no more."""
    client.run("create external table plainly (`a` tinyint, `b` string) partitioned by (`p` bigint)"
               " stored as parquet location 's3://data/plainly/'")  # fmt: skip
    assert [row[0] for row in client.run("show create table plainly").rows][:-3] == [
        "CREATE EXTERNAL TABLE `plainly`(",
        "  `a` tinyint, ",
        "  `b` string)",
        "PARTITIONED BY ( ",
        "  `p` bigint)",
        "ROW FORMAT SERDE ",
        "  'org.apache.hadoop.hive.ql.io.parquet.serde.ParquetHiveSerDe' ",
        "STORED AS INPUTFORMAT ",
        "  'org.apache.hadoop.hive.ql.io.parquet.MapredParquetInputFormat' ",
        "OUTPUTFORMAT ",
        "  'org.apache.hadoop.hive.ql.io.parquet.MapredParquetOutputFormat'",
        "LOCATION",
    ]


def test_backslashes_and_line_breaks_in_ddl(client: Client) -> None:
    """As PyAthena's and most other people's tables of text files have them."""
    client.s3.put_object(Bucket="data", Key="escapes/x", Body=b"1\ta b\n2\tc\n")
    client.run(
        r"create external table escapes (id int, s string comment 'a\\b') row format delimited"
        r" fields terminated by '\t' lines terminated by '\n' location 's3://data/escapes/'"
    )
    assert client.run("select * from escapes").rows == [["1", "a b"], ["2", "c"]]
    table = client.glue.get_table(DatabaseName=client.database, Name="escapes")["Table"]["StorageDescriptor"]
    assert table["SerdeInfo"]["Parameters"]["field.delim"] == "\t"
    assert table["Columns"][1]["Comment"] == "a\\b"
    assert ["  'field.delim'='\\t', "] in client.run("show create table escapes").rows
    client.run(
        r"""create external table commented (id int comment '"s\'\'t\'r" -- ; \\', s string comment 'of
          two lines') location 's3://data/commented/'"""
    )
    table = client.glue.get_table(DatabaseName=client.database, Name="commented")["Table"][
        "StorageDescriptor"
    ]
    assert [column["Comment"] for column in table["Columns"]] == ["\"s''t'r\" -- ; \\", "of two lines"]
    client.run(
        "create external table literals (id int) row format serde 'org.apache.hadoop.hive.serde2.avro.AvroSerDe'"
        " with serdeproperties ('avro.schema.literal' = '{\n   \"name\" : \"x\"\n}') stored as avro"
        " location 's3://data/literals/'"
    )
    table = client.glue.get_table(DatabaseName=client.database, Name="literals")["Table"]
    kept = table["StorageDescriptor"]["SerdeInfo"]["Parameters"]["avro.schema.literal"]
    assert kept == '{\n "name" : "x"\n}'


def test_tables_of_json(client: Client) -> None:
    client.s3.put_object(Bucket="data", Key="jsons/x", Body=b'{"id": 1}\n')
    serde = "org.openx.data.jsonserde.JsonSerDe"
    client.run(
        f"create external table jsons (id int) row format serde '{serde}'"
        " with serdeproperties ('ignore.malformed.json' = 'true') location 's3://data/jsons/'"
    )
    assert client.run("select * from jsons").rows == [["1"]]
    table = client.glue.get_table(DatabaseName=client.database, Name="jsons")["Table"]["StorageDescriptor"]
    assert table["OutputFormat"] == "org.apache.hadoop.hive.ql.io.IgnoreKeyTextOutputFormat"


# --- the API ---------------------------------------------------------------------------------


def test_result_files(client: Client) -> None:
    outcome = client.run("select 1 as a, cast(null as varchar) as n, '' as e, 'x\"y' as q")
    location = outcome.execution["ResultConfiguration"]["OutputLocation"]
    assert location == f"{OUTPUT}{outcome.execution['QueryExecutionId']}.csv"
    body = client.s3.get_object(Bucket="results", Key=location.removeprefix("s3://results/"))["Body"].read()
    assert body == b'"a","n","e","q"\n"1",,"","x""y"\n'
    assert outcome.rows == [["1", None, "", 'x"y']]
    client.s3.get_object(Bucket="results", Key=location.removeprefix("s3://results/") + ".metadata")
    assert client.run("show databases").execution["ResultConfiguration"]["OutputLocation"].endswith(".txt")


def test_statistics(client: Client) -> None:
    statistics = client.run("select count(*) from information_schema.tables").execution["Statistics"]
    times = {name: value for name, value in statistics.items() if name.endswith("InMillis")}
    parts = ("QueryQueueTimeInMillis", "EngineExecutionTimeInMillis")
    assert times["TotalExecutionTimeInMillis"] == sum(times[name] for name in parts)
    assert min(times[name] for name in (*parts, "QueryPlanningTimeInMillis")) > 0


def test_column_info(client: Client) -> None:
    name = client.start(
        "select cast(1 as decimal(10,2)) d, 'a' v, 1 i, 1e0 f, now() t, cast(1 as real) r, array[1] l"
    )
    client.wait(name)
    info = client.athena.get_query_results(QueryExecutionId=name)["ResultSet"]["ResultSetMetadata"][
        "ColumnInfo"
    ]
    kinds = [(c["Name"], c["Type"], c["Precision"], c["Scale"]) for c in info]
    assert kinds[:4] == [
        ("d", "decimal", 10, 2),
        ("v", "varchar", 1, 0),
        ("i", "integer", 10, 0),
        ("f", "double", 17, 0),
    ]
    assert [kind for _, kind, _, _ in kinds[4:]] == ["timestamp with time zone", "float", "array"]
    for sql, kind in (("show databases", "string"), ("explain select 1", "varchar")):
        name = client.run(sql).execution["QueryExecutionId"]
        found = client.athena.get_query_results(QueryExecutionId=name)["ResultSet"]["ResultSetMetadata"]
        assert [column["Type"] for column in found["ColumnInfo"]] == [kind]


def test_writes_describe_their_count(client: Client) -> None:
    """https://github.com/pyathena-dev/PyAthena/blob/master/tests/pyathena/test_cursor.py: CTAS has a description."""
    name = client.run("create table written_count as select 1 as x").execution["QueryExecutionId"]
    results = client.athena.get_query_results(QueryExecutionId=name)
    info = results["ResultSet"]["ResultSetMetadata"]["ColumnInfo"]
    assert [(c["Name"], c["Type"], c["Precision"]) for c in info] == [("rows", "bigint", 19)]
    assert (results["ResultSet"]["Rows"], results["UpdateCount"]) == ([], 1)


def test_pages(client: Client) -> None:
    name = client.start("select x, 'é\n' as s from unnest(sequence(1, 2500)) as t (x) order by x")
    client.wait(name)
    first = client.athena.get_query_results(QueryExecutionId=name, MaxResults=10)
    assert [row["Data"][0]["VarCharValue"] for row in first["ResultSet"]["Rows"]] == [
        "x",
        *map(str, range(1, 10)),
    ]
    second = client.athena.get_query_results(
        QueryExecutionId=name, MaxResults=10, NextToken=first["NextToken"]
    )
    assert second["ResultSet"]["Rows"][0]["Data"] == [{"VarCharValue": "10"}, {"VarCharValue": "é\n"}]
    assert len(client.run("select x from unnest(sequence(1, 2500)) as t (x)").rows) == 2500


def test_database_in_quotes(client: Client) -> None:
    """As awswrangler sends it with DDL."""
    client.run("create external table quoted (id int) location 's3://data/quoted/'")
    context = {"Database": f"`{client.database}`"}
    assert client.run("describe `quoted`", QueryExecutionContext=context).reason == ""


def test_columns_of_iceberg_tables_are_current(client: Client) -> None:
    """awswrangler and dbt-athena see no others."""
    client.run(
        "create table current_ones (id int) location 's3://data/current/' tblproperties ('table_type' = 'ICEBERG',"
        " 'vacuum_max_snapshot_age_seconds' = '60')"
    )
    client.run("alter table current_ones add columns (name string)")
    table = client.glue.get_table(DatabaseName=client.database, Name="current_ones")["Table"]
    current = {
        c["Name"]: c["Parameters"]["iceberg.field.current"] for c in table["StorageDescriptor"]["Columns"]
    }
    assert current == {"id": "true", "name": "true"}
    assert table["Parameters"]["vacuum_max_snapshot_age_seconds"] == "60", "a commit keeps what Athena wrote"


def test_writes_list_their_files(client: Client) -> None:
    for sql in ("create table listed as select 1 as x", "insert into listed values 2",
                "unload (select 1 as x) to 's3://data/listed/' with (format = 'PARQUET')"):  # fmt: skip
        outcome = client.run(sql)
        location = outcome.execution["Statistics"]["DataManifestLocation"]
        body = client.s3.get_object(Bucket="results", Key=location.removeprefix("s3://results/"))[
            "Body"
        ].read()
        files = body.decode().split()
        assert len(files) == 1
        bucket, _, key = files[0].removeprefix("s3://").partition("/")
        client.s3.head_object(Bucket=bucket, Key=key)


def test_missing_output_location_is_refused(client: Client, refused: type[Exception]) -> None:
    with pytest.raises(
        refused, match=r"No output location provided\. An output location is required either through"
    ):
        client.athena.start_query_execution(QueryString="select 1")
    with pytest.raises(refused, match="Unable to verify/create output bucket nowhere"):
        client.start("select 1", ResultConfiguration={"OutputLocation": "s3://nowhere/"})
    with pytest.raises(refused, match="outputLocation is not a valid S3 path"):
        client.start("select 1", ResultConfiguration={"OutputLocation": "nowhere"})


def test_unknown_things_are_refused(client: Client, refused: type[Exception]) -> None:
    athena = client.athena
    with pytest.raises(refused, match="WorkGroup nope is not found"):
        client.start("select 1", WorkGroup="nope")
    with pytest.raises(refused, match="QueryExecution nope was not found"):
        athena.get_query_execution(QueryExecutionId="nope")
    failed = client.run("select 1 / 0").execution["QueryExecutionId"]
    with pytest.raises(refused, match=r"Query did not finish successfully\. Final query state: FAILED"):
        athena.get_query_results(QueryExecutionId=failed)
    with pytest.raises(athena.exceptions.ResourceNotFoundException):
        athena.get_prepared_statement(StatementName="nope", WorkGroup="primary")
    with pytest.raises(athena.exceptions.MetadataException):
        athena.get_table_metadata(CatalogName="AwsDataCatalog", DatabaseName="conformance", TableName="nope")


def test_what_only_aws_has_is_refused(client: Client, refused: type[Exception]) -> None:
    with pytest.raises(refused, match="the local Athena has no StartSession"):
        client.athena.start_session(WorkGroup="primary", EngineConfiguration={"MaxConcurrentDpus": 2})


def test_request_token_starts_once(client: Client, refused: type[Exception]) -> None:
    token = "t" * 32
    first = client.start("select 1", ClientRequestToken=token)
    assert client.start("select 1", ClientRequestToken=token) == first
    with pytest.raises(refused, match="Idempotent parameters do not match"):
        client.start("select 2", ClientRequestToken=token)


def test_lists_and_batches(client: Client) -> None:
    names = [client.run(f"select {number}").execution["QueryExecutionId"] for number in range(3)]
    listed = client.athena.list_query_executions(MaxResults=2)
    more = client.athena.list_query_executions(MaxResults=2, NextToken=listed["NextToken"])
    assert [*listed["QueryExecutionIds"], *more["QueryExecutionIds"]][:3] == names[::-1]
    batch = client.athena.batch_get_query_execution(QueryExecutionIds=[names[0], "nope"])
    assert [x["Query"] for x in batch["QueryExecutions"]] == ["select 0"]
    assert [x["QueryExecutionId"] for x in batch["UnprocessedQueryExecutionIds"]] == ["nope"]


def test_execution_parameters(client: Client) -> None:
    assert client.run("select ? || 'b', ? + 1", ExecutionParameters=["'a?'", "41"]).rows == [["a?b", "42"]]
    assert client.run("select typeof(1.5), typeof(?)", ExecutionParameters=["2.5"]).rows == [["double"] * 2]
    client.run("create table with_parameters as select 0 as x")
    inserted = client.run("insert into with_parameters values (?)", ExecutionParameters=["1"])
    assert inserted.update_count == 1
    assert "DataManifestLocation" in inserted.execution["Statistics"]
    assert "INVALID_PARAMETER_USAGE" in client.run("select ?, ?", ExecutionParameters=["1"]).reason
    client.athena.create_prepared_statement(
        StatementName="stored", WorkGroup="primary", QueryStatement="select ? * 2"
    )
    assert client.run("execute stored", ExecutionParameters=["21"]).rows == [["42"]]
    listed = client.athena.list_prepared_statements(WorkGroup="primary")["PreparedStatements"]
    assert [statement["StatementName"] for statement in listed] == ["stored"]
    client.athena.delete_prepared_statement(StatementName="stored", WorkGroup="primary")


def test_execution_parameters_that_are_words(client: Client) -> None:
    """`Washington` is a string, as test_athena.py of awswrangler has it, which runs on AWS; constants are not."""
    given = ["Washington", "1", "DATE '2020-01-01'", "null", "true"]
    row = client.run("select ?, ?, ?, ?, ?", ExecutionParameters=given).rows
    assert row == [["Washington", "1", "2020-01-01", None, "true"]]
    place = "s3://data/words_ctas/"
    made = client.run(
        f"create table words_ctas with (external_location = '{place}') as select ? as city",
        ExecutionParameters=["Washington"],
    )
    assert (made.update_count, client.run("select * from words_ctas").rows) == (1, [["Washington"]])
    unloaded = "unload (select ? as city) to 's3://data/words_unload/' with (format = 'JSON')"
    assert client.run(unloaded, ExecutionParameters=["Washington"]).reason == ""
    hidden = client.run("select * from (system.runtime.nodes) where ? = 1", ExecutionParameters=["1"])
    assert "CATALOG_NOT_FOUND" in hidden.reason


def test_prepared_statements_that_write(client: Client) -> None:
    """https://docs.aws.amazon.com/athena/latest/ug/querying-with-prepared-statements-prepare.html"""
    client.run("create table prepared_cities as select 'xxxxxx' as city, 'yyy' as country where false")
    client.run("prepare my_insert from insert into prepared_cities select city, country from"
               " (values ('rome', 'it'), ('boston', 'usa')) as t (city, country) where country = ?")  # fmt: skip
    inserted = client.run("execute my_insert using 'usa'")
    assert (inserted.reason, inserted.update_count) == ("", 1)
    assert "DataManifestLocation" in inserted.execution["Statistics"]
    client.run("prepare my_unload from unload (select * from prepared_cities where country = ?)"
               " to 's3://data/prepared/' with (format = 'PARQUET')")  # fmt: skip
    assert client.run("execute my_unload using 'usa'").reason == ""
    listed = client.s3.list_objects_v2(Bucket="data", Prefix="prepared/")["Contents"]
    assert len(listed) == 1
    assert client.run("select * from prepared_cities").rows == [["boston", "usa"]]


def test_result_reuse(client: Client, refused: type[Exception]) -> None:
    """https://docs.aws.amazon.com/athena/latest/ug/reusing-query-results.html, key features."""

    def run(sql: str, minutes: int = 5, **more) -> dict:
        reuse = {"ResultReuseByAgeConfiguration": {"Enabled": True, "MaxAgeInMinutes": minutes}}
        return client.run(sql, ResultReuseConfiguration=reuse, **more).execution

    def reused(execution: dict) -> bool:
        return execution["Statistics"]["ResultReuseInformation"]["ReusedPreviousResult"]

    first = run("select random()")
    again = run("select random()")
    assert (reused(first), reused(again)) == (False, True)
    assert again["QueryExecutionId"] != first["QueryExecutionId"]
    assert again["ResultConfiguration"] == first["ResultConfiguration"]
    pages = [
        client.athena.get_query_results(QueryExecutionId=x["QueryExecutionId"])["ResultSet"]
        for x in (first, again)
    ]
    assert pages[0] == pages[1]
    assert not reused(client.run("select random()").execution), "nobody asked for it"
    assert not reused(run("select random()", QueryExecutionContext={"Database": "default"}))
    elsewhere = {"OutputLocation": "s3://results/elsewhere/"}
    assert not reused(run("select random()", ResultConfiguration=elsewhere))
    assert not reused(run("select ?", ExecutionParameters=["1"]))
    assert not reused(run("select ?", ExecutionParameters=["2"]))
    assert not reused(run("select random()", minutes=0)), "too old"
    assert not [reused(run(sql)) for sql in ("show databases", "show databases")][1], "only of queries"
    for execution in client.athena.list_query_executions()["QueryExecutionIds"]:
        client.s3.delete_object(Bucket="results", Key=f"out/{execution}.csv")
    assert not reused(run("select random()")), "its file is gone"
    with pytest.raises(refused, match="less than or equal to 10080"):
        run("select 1", minutes=10081)


@pytest.mark.parametrize(("seconds", "is_reused"), [(299, True), (301, False)])
def test_result_reuse_ends_with_its_age(
    monkeypatch: pytest.MonkeyPatch, seconds: int, is_reused: bool
) -> None:
    """Of five minutes, in this process: no client can turn the server's clock."""
    engine = Engine("us-east-1", 1)
    monkeypatch.setattr(engine, "submit", lambda run: None)
    account, bucket = "1" * 12, f"results-{seconds}"
    s3_backends[account]["aws"].create_bucket(bucket, "us-east-1")
    allowed = {"ResultReuseByAgeConfiguration": {"Enabled": True, "MaxAgeInMinutes": 5}}

    def execution() -> Execution:
        return Execution(
            engine, account, query="select 1", context={}, configuration={}, output=f"s3://{bucket}",
            workgroup="primary", parameters=None, prepared={}, reuse=allowed,
        )  # fmt: skip

    earlier, later = execution(), execution()
    engine.storage(account).write(earlier.result_location, b"")
    earlier.state, earlier.ended = "SUCCEEDED", time.time()
    monkeypatch.setattr(time, "time", lambda: earlier.ended + seconds)
    later.start([earlier])
    assert later.describe()["Statistics"]["ResultReuseInformation"] == {"ReusedPreviousResult": is_reused}
    assert later.state == ("SUCCEEDED" if is_reused else "QUEUED")


def test_named_queries(client: Client) -> None:
    athena = client.athena
    name = athena.create_named_query(Name="n", Database="default", QueryString="select 1")["NamedQueryId"]
    athena.update_named_query(NamedQueryId=name, Name="m", QueryString="select 2")
    assert athena.get_named_query(NamedQueryId=name)["NamedQuery"]["QueryString"] == "select 2"
    assert athena.list_named_queries()["NamedQueryIds"] == [name]
    athena.delete_named_query(NamedQueryId=name)
    assert athena.batch_get_named_query(NamedQueryIds=[name])["NamedQueries"] == []


def test_catalogue_calls(client: Client) -> None:
    client.run(
        "create external table described (id int comment 'c') partitioned by (d string) location 's3://data/d/'"
    )
    athena, place = client.athena, {"CatalogName": "AwsDataCatalog", "DatabaseName": "conformance"}
    table = athena.get_table_metadata(**place, TableName="described")["TableMetadata"]
    assert table["Columns"] == [{"Name": "id", "Type": "int", "Comment": "c"}]
    assert table["PartitionKeys"] == [{"Name": "d", "Type": "string"}]
    assert table["Parameters"]["location"] == "s3://data/d"
    names = [
        t["Name"] for t in athena.list_table_metadata(**place, Expression="descr.*")["TableMetadataList"]
    ]
    assert names == ["described"]
    databases = athena.list_databases(CatalogName="AwsDataCatalog")["DatabaseList"]
    assert {"conformance", "default"} <= {database["Name"] for database in databases}
    assert athena.list_data_catalogs()["DataCatalogsSummary"][0]["CatalogName"] == "AwsDataCatalog"


def test_workgroup_settings_win_when_enforced(client: Client) -> None:
    configuration = {"ResultConfiguration": {"OutputLocation": "s3://results/enforced"}}
    client.athena.create_work_group(Name="enforcing", Configuration=configuration)
    execution = client.run("select 1", WorkGroup="enforcing").execution
    assert execution["ResultConfiguration"]["OutputLocation"].startswith("s3://results/enforced/")
    client.athena.update_work_group(WorkGroup="enforcing", State="DISABLED")
    with pytest.raises(
        client.athena.exceptions.InvalidRequestException, match="WorkGroup enforcing is disabled"
    ):
        client.start("select 1", WorkGroup="enforcing")


def test_bytes_scanned_limit(client: Client) -> None:
    client.run("create table big with (format = 'TEXTFILE', write_compression = 'NONE') as"
               " select rpad(cast(x as varchar), 1000, 'x') as s from unnest(sequence(1, 10000)) as t (x)"
               " cross join unnest(sequence(1, 2)) as u (y)")  # fmt: skip
    scanned = client.run("select count(s) from big").execution["Statistics"]["DataScannedInBytes"]
    assert scanned > 10_000_000
    client.athena.create_work_group(Name="frugal", Configuration={"BytesScannedCutoffPerQuery": 10_000_000})
    outcome = client.run("select count(s) from big", WorkGroup="frugal")
    assert (outcome.state, outcome.reason) == (
        "CANCELLED",
        "Query cancelled! : Bytes scanned limit was exceeded",
    )


_LONG = "select count(*) from unnest(sequence(1, 10000)) a (x), unnest(sequence(1, 10000)) b (y), unnest(sequence(1, 1000)) c (z)"


def test_cancel_ends_the_statement_on_the_engine(client: Client) -> None:
    name = client.start(_LONG)
    assert (
        client.athena.get_query_execution(QueryExecutionId=name)["QueryExecution"]["Status"]["State"]
        == "RUNNING"
    )
    begun = time.monotonic()
    client.athena.stop_query_execution(QueryExecutionId=name)
    assert client.wait(name)["Status"]["State"] == "CANCELLED"
    assert time.monotonic() - begun < 5


def test_more_statements_than_may_run_wait_in_the_queue(client: Client) -> None:
    names = [client.start(_LONG) for _ in range(10)]
    states = [
        execution["Status"]["State"]
        for execution in client.athena.batch_get_query_execution(QueryExecutionIds=names)["QueryExecutions"]
    ]
    for name in reversed(names):
        client.athena.stop_query_execution(QueryExecutionId=name)
    assert sorted(states) == ["QUEUED"] * 2 + ["RUNNING"] * 8
    assert {client.wait(name)["Status"]["State"] for name in names} == {"CANCELLED"}


# --- what stays behind ------------------------------------------------------------------------


def test_logs_hold_no_data_and_no_file_lands_outside(client: Client, local_aws: LocalAws) -> None:
    """Statements, values and results may be people's; nor does the engine unpack its libraries elsewhere."""
    for sql in ("select 'jane.doe@example.org'", "select cast('jane.doe@example.org' as integer)", "selec 'jane.doe@example.org'",
                "create table pii with (table_type = 'ICEBERG', is_external = false) as select 'jane.doe@example.org' as x",
                "select * from pii where x = 'jane.doe@example.org'", "show tables 'jane.doe@example.org['"):  # fmt: skip
        with contextlib.suppress(client.athena.exceptions.InvalidRequestException):
            client.run(sql)
    kept = [path for path in local_aws.folder.rglob("*") if path.is_file()]
    assert [path.name for path in kept if b"jane.doe" in path.read_bytes()] == []
    engine = psutil.Process(json.loads((local_aws.folder / "server.json").read_text())["trino_pid"])
    libraries = [Path(file.path) for file in engine.memory_maps() if file.path.endswith(".tmp")]
    assert libraries, "writing Parquet needs a native codec"
    assert [path for path in libraries if not path.is_relative_to(local_aws.folder)] == []


def test_nobody_elses_machine_can_reach_it(local_aws: LocalAws) -> None:
    """Neither endpoint asks who it is that comes."""
    for pid in (local_aws.pid, local_aws.trino_pid):
        listening = [c.laddr.ip for c in psutil.Process(pid).net_connections("inet") if c.status == "LISTEN"]
        assert {ip.removeprefix("::ffff:") for ip in listening} == {"127.0.0.1"}


# --- the catalogue under load, and corrections of moto ----------------------------------------


def test_calls_to_glue_come_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[bool] = []
    monkeypatch.setattr(GlueResponse, "call_action", lambda self: held.append(glue.LOCK._is_owned()))
    glue.CorrectedGlue().call_action()
    assert held == [True]


def test_concurrent_iceberg_writers_lose_nothing(client: Client) -> None:
    client.run(
        "create table counted (writer int, n int) location 's3://data/counted/' tblproperties ('table_type' = 'ICEBERG')"
    )
    running = [client.start(f"insert into counted values ({w}, {n})") for n in range(2) for w in range(8)]
    ends = [client.wait(name) for name in running]
    done = sum(end["Status"]["State"] == "SUCCEEDED" for end in ends)
    failed = {end["Status"]["AthenaError"]["ErrorType"] for end in ends if end["Status"]["State"] == "FAILED"}
    assert failed <= {233}, "a commit that gives up says so with Athena's type"
    assert done >= 8
    assert client.run("select count(*) from counted").rows == [[str(done)]]


def test_glue_refuses_a_stale_version(client: Client) -> None:
    client.run("create external table versioned (id int) location 's3://data/v/'")
    table = client.glue.get_table(DatabaseName="conformance", Name="versioned")["Table"]
    definition = {key: table[key] for key in ("Name", "StorageDescriptor", "Parameters", "TableType")}
    request = {"DatabaseName": "conformance", "TableInput": definition, "VersionId": table["VersionId"]}
    client.glue.update_table(**request)
    with pytest.raises(client.glue.exceptions.ConcurrentModificationException):
        client.glue.update_table(**request)


def test_a_described_view_stays_a_view(client: Client) -> None:
    client.run("create view shown as select 1 as x, 'a' as y")
    table = client.glue.get_table(DatabaseName="conformance", Name="shown")["Table"]
    assert [(c["Name"], c["Type"]) for c in table["StorageDescriptor"]["Columns"]] == [
        ("x", "int"),
        ("y", "varchar(1)"),
    ]
    kept = (
        "Name",
        "StorageDescriptor",
        "Parameters",
        "TableType",
        "ViewOriginalText",
        "ViewExpandedText",
        "PartitionKeys",
    )
    definition = {key: table[key] for key in kept if key in table}
    definition["Parameters"] = {**definition["Parameters"], "comment": "what dbt writes"}
    client.glue.update_table(DatabaseName="conformance", TableInput=definition)
    assert client.run("select * from shown").rows == [["1", "a"]]


def test_listing_goes_on_while_objects_are_deleted() -> None:
    s3.install()
    store = _VersionedKeyStore()
    for key in ("a", "b"):
        store[key] = key
    listing = store.items()
    assert next(listing) == ("a", "a")
    dict.pop(store, "b")  # another client deletes it
    assert next(listing) == ("b", "b")


def test_lake_formation_tags_add_up(local_aws: LocalAws) -> None:
    lake = local_aws.client("lakeformation")
    for key in ("one", "two"):
        lake.create_lf_tag(TagKey=key, TagValues=["a"])
    resource = {"Table": {"DatabaseName": "conformance", "Name": "tagged"}}
    assert "LFTagsOnTable" not in lake.get_resource_lf_tags(Resource=resource)
    for key in ("one", "two"):
        lake.add_lf_tags_to_resource(Resource=resource, LFTags=[{"TagKey": key, "TagValues": ["a"]}])
    added = lake.get_resource_lf_tags(Resource=resource)["LFTagsOnTable"]
    assert [tag["TagKey"] for tag in added] == ["one", "two"]
    lake.remove_lf_tags_from_resource(Resource=resource, LFTags=[{"TagKey": "one", "TagValues": ["a"]}])
    tags = lake.get_resource_lf_tags(Resource=resource)["LFTagsOnTable"]
    assert [tag["TagKey"] for tag in tags] == ["two"]


# --- dbt --------------------------------------------------------------------------------------

SHORT = "TestIncrementalIceberg or TestIncrementalPredicates or TestHash"


def test_some_classes_of_dbt_tests_adapter(local_aws: LocalAws) -> None:
    """`make conformance-athena` runs all of them."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "tests/dbt_adapter", "-q", "-k", SHORT, "-p", "no:cacheprovider"],
        cwd=ROOT, env=os.environ | local_aws.environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


# --- the end: it kills the engine, so it comes last -------------------------------------------


def test_features_are_read_as_from_duckdb(
    client: Client, local_aws: LocalAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `realtime load-features` reads: the same rows, of the same types, from both engines."""
    # Two scores of one moment's day, a version that came twice, a closing quoted twice, rows that are deleted or old.
    tables = {
        "stg_app__customers": ("customer_id cpf created_at updated_at", ["1, '111', {2}, {3}", "2, '222', {2}, {2}"]),
        "stg_app__customer_versions": (
            "customer_id version_at state monthly_income birth_date created_at _batch_id",
            ["1, {2}, 'SP', {income}, date '1990-05-01', {2}, 'b1'", "1, {2}, 'RJ', {income}, date '1990-05-01', {2}, 'b2'"],
        ),
        "stg_app__bank_accounts": ("account_id customer_id deleted_at", ["7, 1, {never}", "8, 2, {2}", "9, 2, {never}"]),
        "stg_app__bank_transactions": (
            "transaction_id account_id booked_at created_at currency amount deleted_at",
            ["1, 7, {2}, {3}, 'BRL', {income}, {never}", "2, 7, {1}, {1}, 'BRL', {income}, {never}",
             "3, 7, {3}, {2}, 'USD', {income}, {3}"],
        ),
        "stg_bureau__scores": (
            "cpf queried_at score score_version negative_records total_debt deleted_at",
            ["'111', {1}, 500, 'a', 0, {income}, {never}", "'111', {2}, 600, 'a', 1, {income}, {never}",
             "'111', {3}, 700, 'b', 0, {income}, {never}", "'222', {3}, 1, 'b', 0, {income}, {3}"],
        ),
        "stg_central_bank__fx_rates": (
            "currency quoted_at sell is_closing deleted_at",
            ["'USD', {3}, {rate}, true, {never}", "'USD', {3} + interval '1' minute, {rate} + 1, true, {never}",
             "'USD', {3}, {rate}, false, {never}", "'EUR', {1}, {rate}, true, {never}"],
        ),
    }  # fmt: skip
    values = {
        "never": "cast(null as timestamp)",
        "income": "cast('1234.50' as decimal(18, 2))",
        "rate": "cast('5.123456' as decimal(18, 6))",
    }
    days = [None, "timestamp '2025-01-02 12:00:00.000'", "timestamp '2025-12-01 01:30:00.123'"]
    days.append("timestamp '2025-12-02 16:10:00.500'")
    database = duckdb.connect()
    database.execute("create schema staging")
    client.run("create schema staging")
    for table, (columns, rows) in tables.items():
        content = ", ".join(f"({row.format(*days, **values)})" for row in rows)
        select = f"select * from (values {content}) as t ({', '.join(columns.split())})"
        database.execute(f"create table staging.{table} as {select}")
        made = client.run(
            f"create table staging.{table} with (external_location = 's3://data/features/{table}/') as {select}"
        )
        assert made.state == "SUCCEEDED", made.reason
    for name, value in local_aws.environment.items():
        monkeypatch.setenv(name, value)
    after = "timestamp '2025-09-23 00:00:00'"
    with open_athena("s3://results") as athena:
        for name, query in _STORE.items():
            sql = query.format(after=after)
            theirs, ours = athena(sql), database.execute(sql)
            assert [c[0] for c in theirs.description] == [c[0] for c in ours.description]
            rows = sorted(ours.fetchall(), key=repr)
            assert sorted(theirs.fetchall(), key=repr) == rows, name
            assert rows


@pytest.fixture
def engine(local_aws: LocalAws) -> int:
    return json.loads((local_aws.folder / "server.json").read_text())["trino_pid"]


def test_engine_killed_in_mid_query(client: Client, engine: int) -> None:
    name = client.start(_LONG)
    os.kill(engine, signal.SIGKILL)
    end = client.wait(name)
    assert end["Status"]["State"] == "FAILED"
    assert end["Status"]["AthenaError"]["ErrorCategory"] == 1
    assert end["Status"]["AthenaError"]["Retryable"]
    assert client.wait(client.start("select 1"), patience=300)["Status"]["State"] == "SUCCEEDED"
