"""One local AWS for all tests here, and for all workers of pytest-xdist."""

import contextlib
import os

import boto3
import pytest

from sandbox.aws import LocalAwsError, local_aws

_open = contextlib.ExitStack()


def pytest_configure(config: pytest.Config) -> None:
    """Leaves out 171 warnings of how dbt-tests-adapter writes its fixtures."""
    config.addinivalue_line("filterwarnings", "ignore:Class-scoped fixtures defined as instance methods")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Starts it, unless there is one: the environment's, or for a worker that of the process it works for."""
    if session.config.option.collectonly:
        return
    if "AWS_ENDPOINT_URL" not in os.environ:
        try:
            environment = _open.enter_context(local_aws()).environment
        except LocalAwsError as error:
            pytest.exit(str(error), returncode=1)
        patch = _open.enter_context(pytest.MonkeyPatch.context())
        for name, value in environment.items():
            patch.setenv(name, value)
    boto3.client("s3").create_bucket(Bucket="dbt-tests")


def pytest_sessionfinish() -> None:
    """Ends what was started here; nothing of it stays."""
    _open.close()
