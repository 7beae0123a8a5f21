"""Checks that an AWS account is ready for the lakehouse, before anything is built in it.

`python -m sandbox.preflight` looks and changes nothing; it says what is missing and the command that adds it.
`--policy` prints the permissions that the platform needs, as one IAM policy to hand to an administrator.
"""

import json
import os
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

DATABASES = (
    "raw", "staging", "intermediate", "marts", "snapshots", "quarantine", "reference", "tables",
)  # fmt: skip
SCAN_LIMIT = 10 * 1024**3
"""Bytes that one query of the workgroup may scan: at 5 USD a terabyte, 5 cents."""
OK, MISSING, UNKNOWN = "ok", "missing", "unknown"


@dataclass(frozen=True)
class Found:
    """What a check found; `remedy` is what to do where something is missing."""

    subject: str
    state: str
    text: str
    remedy: str = ""


class Account:
    """The account that the environment's credentials lead to."""

    def __init__(self) -> None:
        import boto3

        self.client: Callable[[str], Any] = boto3.client
        self.region = boto3.session.Session().region_name or ""
        self.identity = self.client("sts").get_caller_identity()

    @property
    def user(self) -> str:
        """The caller's own name, in letters that a bucket's name may have."""
        name = self.identity["Arn"].rpartition("/")[2].partition("@")[0].rpartition(":")[2]
        return re.sub(r"[^a-z0-9-]+", "-", name.lower()).strip("-")

    @property
    def lake(self) -> str:
        """LAKE where it is on S3, else the bucket of the convention."""
        lake = os.environ.get("LAKE", "")
        return lake if lake.startswith("s3://") else f"s3://importau-lakehouse-{self.user}"

    @property
    def bucket(self) -> str:
        """The lake's bucket."""
        return self.lake.removeprefix("s3://").partition("/")[0]

    @property
    def workgroup(self) -> str:
        """The workgroup that dbt uses."""
        return os.environ.get("ATHENA_WORKGROUP") or "primary"


def policy(account_id: str, region: str, lake: str, workgroup: str) -> dict[str, Any]:
    """The least that ingestion and dbt need for a lake, `s3://bucket/prefix`, as an IAM policy."""
    objects = f"arn:aws:s3:::{lake.removeprefix('s3://').rstrip('/')}"
    bucket = objects.partition("/")[0]
    glue = f"arn:aws:glue:{region}:{account_id}"

    def allow(actions: str, *resources: str) -> dict[str, Any]:
        return {"Effect": "Allow", "Action": actions.split(), "Resource": list(resources)}

    tables = [f"{glue}:{kind}/{name}" for name in DATABASES for kind in ("database", "table")]
    tables = [f"{arn}/*" if ":table/" in arn else arn for arn in tables]
    return {
        "Version": "2012-10-17",
        "Statement": [
            allow("s3:ListBucket s3:GetBucketLocation s3:ListBucketMultipartUploads", bucket),
            # Raw is written once and never deleted.
            allow(
                "s3:GetObject s3:PutObject s3:AbortMultipartUpload s3:ListMultipartUploadParts",
                f"{objects}/*",
            ),
            allow("s3:DeleteObject", *(f"{objects}/{name}/*" for name in ("processed", "curated", "spool"))),
            allow(
                "athena:StartQueryExecution athena:GetQueryExecution athena:GetQueryResults"
                " athena:StopQueryExecution athena:GetWorkGroup",
                f"arn:aws:athena:{region}:{account_id}:workgroup/{workgroup}",
            ),
            allow("athena:GetDataCatalog athena:ListDataCatalogs sts:GetCallerIdentity", "*"),
            allow(
                "glue:GetDatabase glue:GetDatabases glue:CreateDatabase glue:GetTable glue:GetTables"
                " glue:CreateTable glue:UpdateTable glue:DeleteTable glue:GetTableVersions"
                " glue:DeleteTableVersion glue:GetPartitions",
                f"{glue}:catalog",
                *tables,
            ),
        ],
    }


def checks(account: Account) -> Iterator[Found]:
    """Every check, one after the other; none of them changes anything."""
    yield Found("identity", OK, f"{account.identity['Arn']}, region {account.region}")
    yield from _bucket(account)
    yield from _workgroup(account)
    yield from _catalogue(account)
    yield from _permissions(account)


def _bucket(account: Account) -> Iterator[Found]:
    s3, bucket, name = account.client("s3"), account.bucket, shlex.quote(account.bucket)
    if (problem := _problem(lambda: s3.head_bucket(Bucket=bucket))) is not None:
        where = f" --create-bucket-configuration LocationConstraint={account.region}"
        where = "" if account.region == "us-east-1" else where
        yield Found(
            "bucket", MISSING, f"{bucket}: {problem}", f"aws s3api create-bucket --bucket {name}{where}"
        )
        return
    yield Found("bucket", OK, bucket)
    for subject, ask, is_right, remedy in (
        (
            "versioning",
            lambda: s3.get_bucket_versioning(Bucket=bucket),
            lambda found: found.get("Status") == "Enabled",
            f"aws s3api put-bucket-versioning --bucket {name} --versioning-configuration Status=Enabled",
        ),
        (
            "encryption",
            lambda: s3.get_bucket_encryption(Bucket=bucket),
            lambda found: bool(found["ServerSideEncryptionConfiguration"]["Rules"]),
            f"aws s3api put-bucket-encryption --bucket {name} --server-side-encryption-configuration"
            ' \'{"Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]}\'',
        ),
        (
            "public access",
            lambda: s3.get_public_access_block(Bucket=bucket),
            lambda found: all(found["PublicAccessBlockConfiguration"].values()),
            f"aws s3api put-public-access-block --bucket {name} --public-access-block-configuration"
            " BlockPublicAcls=true,IgnorePublicAcls=true,BlockPublicPolicy=true,RestrictPublicBuckets=true",
        ),
    ):
        said: dict[str, Any] = {}
        problem = _problem(lambda ask=ask, said=said: said.update(ask()))
        right = problem is None and is_right(said)
        absent = problem in (None, "ServerSideEncryptionConfigurationNotFoundError") or (
            problem == "NoSuchPublicAccessBlockConfiguration"
        )
        state = OK if right else MISSING if absent else UNKNOWN
        text = {OK: "as it should be", MISSING: "not set", UNKNOWN: str(problem)}[state]
        yield Found(subject, state, text, "" if right else remedy)


def _workgroup(account: Account) -> Iterator[Found]:
    athena, name = account.client("athena"), account.workgroup
    found: dict[str, Any] = {}
    problem = _problem(lambda: found.update(athena.get_work_group(WorkGroup=name)))
    limit = f"BytesScannedCutoffPerQuery={SCAN_LIMIT}"
    if "WorkGroup" not in found:
        remedy = f"aws athena create-work-group --name {shlex.quote(name)} --configuration {limit}"
        yield Found("workgroup", MISSING, f"{name}: {problem or 'not found'}", remedy)
        return
    configuration = found["WorkGroup"].get("Configuration", {})
    cutoff = configuration.get("BytesScannedCutoffPerQuery")
    yield Found("workgroup", OK, name)
    remedy = f"aws athena update-work-group --work-group {shlex.quote(name)} --configuration-updates {limit}"
    text = f"{cutoff / 1024**3:.1f} GB a query" if cutoff else "none: a query may scan everything"
    yield Found("scan limit", OK if cutoff else MISSING, text, "" if cutoff else remedy)


def _catalogue(account: Account) -> Iterator[Found]:
    glue = account.client("glue")
    known: list[str] = []

    def ask() -> None:
        for page in glue.get_paginator("get_databases").paginate():
            known.extend(found["Name"] for found in page["DatabaseList"])

    if (problem := _problem(ask)) is not None:
        yield Found("catalogue", UNKNOWN, problem, "grant what --policy prints")
        return
    there = [name for name in DATABASES if name in known]
    text = f"has {', '.join(there)}" if there else "empty"
    yield Found("catalogue", OK, f"{text}; the rest is made by the first run")


def _permissions(account: Account) -> Iterator[Found]:
    """What the caller may do, where it may ask."""
    from botocore.config import Config

    arn = account.identity["Arn"]
    if role := re.fullmatch(r"arn:aws:sts::(\d+):assumed-role/([^/]+)/.*", arn):
        arn = f"arn:aws:iam::{role[1]}:role/{role[2]}"
    denied: list[str] = []

    def ask() -> None:
        iam = account.client("iam", config=Config(retries={"total_max_attempts": 1}))
        wanted = policy(account.identity["Account"], account.region, account.lake, account.workgroup)
        for statement in wanted["Statement"]:
            answer = iam.simulate_principal_policy(
                PolicySourceArn=arn, ActionNames=statement["Action"], ResourceArns=statement["Resource"]
            )
            denied.extend(
                result["EvalActionName"]
                for result in answer["EvaluationResults"]
                if result["EvalDecision"] != "allowed"
            )

    problem = _problem(ask)
    remedy = "hand the output of `python -m sandbox.preflight --policy` to an administrator"
    if problem is not None:
        yield Found("permissions", UNKNOWN, f"cannot be asked ({problem})", remedy)
    elif denied:
        yield Found("permissions", MISSING, ", ".join(sorted(set(denied))), remedy)
    else:
        yield Found("permissions", OK, "all that is needed")


def _problem(ask: Callable[[], object]) -> str | None:
    """AWS's code of what went wrong, or None."""
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError

    try:
        ask()
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    except (BotoCoreError, ResponseParserError) as error:
        return type(error).__name__
    return None


def main(
    show_policy: Annotated[
        bool, typer.Option("--policy", help="Print the permissions that are needed, as an IAM policy.")
    ] = False,
) -> None:
    """Check an AWS account: identity, bucket, workgroup, catalogue, permissions. Changes nothing."""
    console = Console()
    accounts: list[Account] = []
    if (problem := _problem(lambda: accounts.append(Account()))) is not None:
        Console(stderr=True).print(
            f"[red]error:[/red] AWS does not know who is asking: {problem}; set AWS_PROFILE or"
            " AWS_ACCESS_KEY_ID, and AWS_REGION",
            highlight=False,
            soft_wrap=True,
        )
        raise typer.Exit(2)
    account = accounts[0]
    if show_policy:
        wanted = policy(account.identity["Account"], account.region, account.lake, account.workgroup)
        print(json.dumps(wanted, indent=2))
        return
    found = list(checks(account))
    grid = Table(box=None, header_style="dim", pad_edge=False)
    for column in ("check", "", "found"):
        grid.add_column(column)
    colours = {OK: "green", MISSING: "red", UNKNOWN: "yellow"}
    for each in found:
        grid.add_row(each.subject, f"[{colours[each.state]}]{each.state}[/]", each.text)
    console.print(grid)
    for each in found:
        if each.remedy:
            console.print(
                f"\n{each.subject}:\n  {each.remedy}", highlight=False, soft_wrap=True, markup=False
            )
    raise typer.Exit(1 if any(each.state == MISSING for each in found) else 0)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app(prog_name="python -m sandbox.preflight")
