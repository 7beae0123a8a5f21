"""The classes of `dbt-tests-adapter` that dbt-athena supports, against the local Athena.

`make conformance-athena` runs them all; the suite runs a few (`SHORT` in tests/python/test_local_athena.py).
Which classes those are, and what has to be said otherwise, is known from its own functional tests:
https://github.com/dbt-labs/dbt-adapters/tree/main/dbt-athena/tests/functional.
"""

import importlib
import os
from typing import ClassVar

import pytest
from dbt.tests.adapter.basic import files
from dbt.tests.util import run_dbt

pytest_plugins = ["dbt.tests.fixtures.project"]

UNCHANGED = """
    basic.test_base                          BaseSimpleMaterializations
    basic.test_empty                         BaseEmpty
    basic.test_ephemeral                     BaseEphemeral
    basic.test_generic_tests                 BaseGenericTests
    basic.test_incremental                   BaseIncremental
    basic.test_singular_tests                BaseSingularTests
    basic.test_singular_tests_ephemeral      BaseSingularTestsEphemeral
    basic.test_table_materialization         BaseTableMaterialization
    basic.test_validate_connection           BaseValidateConnection
    empty.test_empty                         BaseTestEmpty
    empty.test_empty                         BaseTestEmptyInlineSourceRef
    persist_docs.test_persist_docs           BasePersistDocsAllColumnsMissing
    relations.test_changing_relation_type    BaseChangeRelationTypeValidator
    unit_testing.test_case_insensitivity     BaseUnitTestCaseInsensivity
    unit_testing.test_invalid_input          BaseUnitTestInvalidInput
    utils.test_any_value                     BaseAnyValue
    utils.test_array_append                  BaseArrayAppend
    utils.test_array_construct               BaseArrayConstruct
    utils.test_bool_or                       BaseBoolOr
    utils.test_concat                        BaseConcat
    utils.test_current_timestamp             BaseCurrentTimestampNaive
    utils.test_date_trunc                    BaseDateTrunc
    utils.test_equals                        BaseEquals
    utils.test_escape_single_quotes          BaseEscapeSingleQuotesQuote
    utils.test_except                        BaseExcept
    utils.test_hash                          BaseHash
    utils.test_intersect                     BaseIntersect
    utils.test_length                        BaseLength
    utils.test_listagg                       BaseListagg
    utils.test_position                      BasePosition
    utils.test_replace                       BaseReplace
    utils.test_right                         BaseRight
    utils.test_string_literal                BaseStringLiteral
"""

_SEEDS_CHANGE = "dbt-athena: the test updates a seed in place, which a Hive table cannot"
SKIPPED = {
    "basic.test_adapter_methods BaseAdapterMethod": "dbt-athena: asks for a table before any model has run",
    "basic.test_snapshot_check_cols BaseSnapshotCheckCols": _SEEDS_CHANGE,
    "basic.test_snapshot_timestamp BaseSnapshotTimestamp": _SEEDS_CHANGE,
    "empty.test_empty BaseTestEmptySeedFlag": "dbt-core 1.11 has no option --empty for seeds",
    "utils.test_cast_bool_to_text BaseCastBoolToText": "dbt-athena has no such macro",
    "utils.test_last_day BaseLastDay": "dbt-athena has no such macro",
    "utils.test_safe_cast BaseSafeCast": "dbt-athena has no such macro",
    "python_model.test_python_model BasePythonModelTests": "needs Spark, which the local Athena lacks",
}


def base(line: str) -> type:
    """A class by `module name`."""
    module, name = line.split()
    return getattr(importlib.import_module(f"dbt.tests.adapter.{module}"), name)


@pytest.fixture(scope="class")
def dbt_profile_target() -> dict[str, object]:
    """The profile. dbt-athena finds the local AWS by the environment, as every client does."""
    return {
        "type": "athena",
        "s3_staging_dir": "s3://dbt-tests/staging/",
        "s3_tmp_table_dir": "s3://dbt-tests/temporary/",
        "region_name": os.environ.get("AWS_DEFAULT_REGION", "us-east-1"),
        "database": "awsdatacatalog",
        "schema": "dbt_test",
        "work_group": "primary",
        "threads": 2,
        "poll_interval": 0.05,
        "num_retries": 2,
    }


for _line in filter(None, map(str.strip, UNCHANGED.splitlines())):
    _name = _line.split()[1].replace("Base", "Test", 1)
    globals()[_name] = type(_name, (base(_line),), {"__module__": __name__})


@pytest.mark.parametrize(("line", "reason"), SKIPPED.items())
def test_expected_skip(line: str, reason: str) -> None:
    """Each is one that exists, and is skipped with its reason."""
    assert isinstance(base(line), type)
    pytest.skip(f"{line}: {reason}")


# --- the same on Iceberg ----------------------------------------------------------------------


class _Iceberg:
    """Every table and incremental model as an Iceberg table, whose timestamps have six digits."""

    files: dict[str, str]

    @pytest.fixture(scope="class")
    def project_config_update(self) -> dict:
        return {"models": {"+table_type": "iceberg", "+incremental_strategy": "merge", "+unique_key": "id"}}

    @pytest.fixture(scope="class")
    def models(self) -> dict[str, str]:
        columns = "select id, name, cast(some_date as timestamp(6)) as some_date"
        return {name: sql.replace("select *", columns) for name, sql in self.files.items()}


class TestEphemeralIceberg(_Iceberg, base("basic.test_ephemeral BaseEphemeral")):
    files: ClassVar = {
        "ephemeral.sql": files.base_ephemeral_sql,
        "view_model.sql": files.ephemeral_view_sql,
        "table_model.sql": files.ephemeral_table_sql,
        "schema.yml": files.schema_base_yml,
    }


class TestIncrementalIceberg(_Iceberg, base("basic.test_incremental BaseIncremental")):
    files: ClassVar = {"incremental.sql": files.incremental_sql, "schema.yml": files.schema_base_yml}


class TestGenericTestsIceberg(_Iceberg, base("basic.test_generic_tests BaseGenericTests")):
    files: ClassVar = {
        "view_model.sql": files.base_view_sql,
        "table_model.sql": files.base_table_sql,
        "schema.yml": files.schema_base_yml,
        "schema_view.yml": files.generic_test_view_yml,
        "schema_table.yml": files.generic_test_table_yml,
    }


class TestMergeExcludeColumns(
    base("incremental.test_incremental_merge_exclude_columns BaseMergeExcludeColumns")
):
    @pytest.fixture(scope="class")
    def project_config_update(self) -> dict:
        return {"models": {"+table_type": "iceberg", "+incremental_strategy": "merge"}}


class TestIncrementalPredicates(base("incremental.test_incremental_predicates BaseIncrementalPredicates")):
    @pytest.fixture(scope="class")
    def project_config_update(self) -> dict:
        predicates = ["src.id <> 3", "target.id <> 2"]
        return {
            "models": {
                "+table_type": "iceberg",
                "+incremental_strategy": "merge",
                "+incremental_predicates": predicates,
            }
        }

    @pytest.fixture(scope="class")
    def seeds(self) -> dict[str, str]:
        expected = "id,msg,color\n3,anyway,purple\n1,hey,blue\n2,goodbye,red\n2,yo,green\n"
        return {"expected_delete_insert_incremental_predicates.csv": expected}


class TestChangeRelationTypesIceberg(
    base("relations.test_changing_relation_type BaseChangeRelationTypeValidator")
):
    @pytest.fixture(scope="class")
    def project_config_update(self) -> dict:
        return {"models": {"+table_type": "iceberg"}}

    def test_changing_materialization_changes_relation_type(self, project) -> None:
        """Without the step to an incremental model, which dbt-athena cannot do on Iceberg."""
        for materialization, *options in (("view",), ("table",), ("view",), ("table", "--full-refresh")):
            self._run_and_check_materialization(materialization, extra_args=options)


# --- in Athena's words ------------------------------------------------------------------------


class TestArrayConcat(base("utils.test_array_concat BaseArrayConcat")):
    """Arrays that are not empty: an empty one has no type on Athena."""

    @pytest.fixture(scope="class")
    def models(self) -> dict[str, str]:
        both = "array_concat(array_construct([1, 2]), array_construct([3]))"
        return {
            "actual.sql": "select 1 as id, {{ " + both + " }} as array_col",
            "expected.sql": "select 1 as id, {{ array_construct([1, 2, 3]) }} as array_col",
        }


def _typed(project: str, folder: str, seed: str, **columns: str) -> dict:
    return {"name": project, "seeds": {"test": {folder: {seed: {"+column_types": columns}}}}}


class TestDateAdd(base("utils.test_dateadd BaseDateAdd")):
    @pytest.fixture(scope="class")
    def project_config_update(self) -> dict:
        return _typed("test_date_add", "date_add", "data_dateadd", from_time="timestamp", result="timestamp")


class TestUnitTestingTypes(base("unit_testing.test_types BaseUnitTestingTypes")):
    @pytest.fixture
    def data_types(self) -> list[list[str]]:
        return [
            ["1", "1"],
            ["2.0", "2.0"],
            ["'12345'", "12345"],
            ["'string'", "string"],
            ["true", "true"],
            ["date '2024-04-01'", "2024-04-01"],
            ["timestamp '2024-04-01 00:00:00.000'", "'2024-04-01 00:00:00.000'"],
        ]


_EVENTS = """
{{ config(materialized='table', event_time='event_time', table_type='iceberg') }}
select id, cast(timestamp '2020-01-01 00:00:00' + interval '1' day * (id - 1) as timestamp(6)) as event_time
from (values 1, 2, 3) as t (id)
"""
_BATCHES = """
{{ config(
    materialized='incremental', incremental_strategy='microbatch', table_type='iceberg', unique_key='id',
    event_time='event_time', batch_size='day', begin=modules.datetime.datetime(2020, 1, 1, 0, 0, 0)
) }}
select * from {{ ref('input_model') }}
"""


class TestMicrobatch(base("incremental.test_incremental_microbatch BaseMicrobatch")):
    @pytest.fixture(scope="class")
    def models(self) -> dict[str, str]:
        return {"input_model.sql": _EVENTS, "microbatch_model.sql": _BATCHES}


class TestPersistDocs(base("persist_docs.test_persist_docs BasePersistDocs")):
    """What dbt-athena writes: descriptions of tables, views and columns in Glue."""

    def test_has_comments_pglike(self, project) -> None:
        run_dbt(["docs", "generate"])


class TestDocsGenerate(base("basic.test_docs_generate BaseDocsGenerate")):
    """The catalogue has every node and source; its statistics and owners are PostgreSQL's own."""

    @pytest.fixture(scope="class")
    def expected_catalog(self, project) -> None:
        return None

    def test_run_and_generate_no_compile(self, project, expected_catalog) -> None:
        run_dbt(["run"])
        catalog = run_dbt(["docs", "generate", "--no-compile"])
        assert {node.split(".")[-1] for node in catalog.nodes} >= {"model", "second_model", "seed"}
        types = [column.type for column in catalog.nodes["seed.test.seed"].columns.values()]
        assert types == ["int", "string", "string", "string", "timestamp"]

    test_run_and_generate = None
