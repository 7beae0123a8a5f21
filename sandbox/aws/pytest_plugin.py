"""A fixture for any test suite: `pytest_plugins = ["<folder>.pytest_plugin"]`, then ask for `local_aws`."""

from collections.abc import Iterator

import pytest

from . import control
from .errors import LocalAwsError


@pytest.fixture(scope="session", name="local_aws")
def fixture_local_aws() -> Iterator[control.LocalAws]:
    """One local AWS for the session."""
    try:
        with control.local_aws() as running:
            yield running
    except LocalAwsError as error:
        pytest.fail(str(error))
