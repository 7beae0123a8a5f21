"""What `python -m sandbox.preflight` says of an account (moto's)."""

import boto3
import pytest
from typer.testing import CliRunner

from sandbox import preflight


@pytest.fixture
def lake(bucket: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("LAKE", f"{bucket}/lake")
    monkeypatch.setenv("ATHENA_WORKGROUP", bucket.removeprefix("s3://"))
    return bucket.removeprefix("s3://")


def states() -> dict[str, str]:
    return {found.subject: found.state for found in preflight.checks(preflight.Account())}


def test_what_is_missing_is_named_and_its_remedy_mends_it(lake: str) -> None:
    found = {each.subject: each for each in preflight.checks(preflight.Account())}
    assert {name for name, each in found.items() if each.state == preflight.MISSING} == {
        "versioning", "encryption", "public access", "workgroup",
    }  # fmt: skip
    assert all(each.remedy for each in found.values() if each.state == preflight.MISSING)

    # what the remedies say
    s3, athena = boto3.client("s3"), boto3.client("athena")
    s3.put_bucket_versioning(Bucket=lake, VersioningConfiguration={"Status": "Enabled"})
    s3.put_bucket_encryption(
        Bucket=lake,
        ServerSideEncryptionConfiguration={
            "Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]
        },
    )
    blocked = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
    s3.put_public_access_block(Bucket=lake, PublicAccessBlockConfiguration=dict.fromkeys(blocked, True))
    athena.create_work_group(
        Name=lake, Configuration={"BytesScannedCutoffPerQuery": preflight.SCAN_LIMIT}
    )  # fmt: skip
    assert preflight.MISSING not in states().values()


def test_without_a_bucket_the_command_that_makes_one_is_said(
    lake: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LAKE")
    account = preflight.Account()
    assert account.bucket == f"importau-lakehouse-{account.user}"
    bucket = next(found for found in preflight.checks(account) if found.subject == "bucket")
    assert bucket.state == preflight.MISSING
    assert f"create-bucket --bucket {account.bucket}" in bucket.remedy


def test_the_policy_lets_nobody_delete_what_was_landed() -> None:
    wanted = preflight.policy("123456789012", "sa-east-1", "s3://lake/prefix", "primary")
    deletes = [
        s for s in wanted["Statement"] if any("Delete" in a and a.startswith("s3:") for a in s["Action"])
    ]
    prefixes = [
        resource.removeprefix("arn:aws:s3:::lake/prefix/") for s in deletes for resource in s["Resource"]
    ]
    assert prefixes == ["processed/*", "curated/*", "spool/*"]
    assert not any(
        "iam:" in action or action.endswith("*") for s in wanted["Statement"] for action in s["Action"]
    )


def test_without_credentials_it_says_what_to_set(lake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import typer

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # it remembers credentials
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    app = typer.Typer()
    app.command()(preflight.main)
    done = CliRunner().invoke(app, [])
    assert done.exit_code == 2
    assert "set AWS_PROFILE or AWS_ACCESS_KEY_ID" in done.output
