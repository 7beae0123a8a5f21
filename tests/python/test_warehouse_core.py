"""The core of the warehouse on a dirty world: a seed drawn at run time, a few days, one lake and warehouse.

`python tests/python/campaign.py` is the long form: three seeds, thirty days, twenty killed builds.
"""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import campaign
import pytest
from conftest import Pipeline

SEED = random.SystemRandom().randrange(2**31)
BUILT = ("staging", "quarantine", "intermediate", "marts")


@pytest.fixture(scope="module")
def dirty(new_pipeline: Callable[..., Pipeline]) -> Pipeline:
    print(f"seed {SEED}")
    pipeline = new_pipeline("synthetic")
    campaign.run_days(pipeline, SEED, scale=0.02, dirt=0.05, days=4)
    return pipeline


@pytest.fixture(scope="module")
def target(dirty: Pipeline) -> Path:
    return dirty.folder / "target"


@pytest.mark.parametrize(
    "check",
    [
        campaign.check_quarantine,
        campaign.check_deleted,
        campaign.check_children,
        campaign.check_history,
        campaign.check_status_history,
    ],
    ids=lambda check: check.__name__.removeprefix("check_"),
)
def test_after_days_of_dirt(dirty: Pipeline, check: Callable[[Pipeline], object]) -> None:
    print(f"seed {SEED}")
    assert check(dirty)


def test_days_built_one_by_one_equal_one_full_build(dirty: Pipeline, target: Path) -> None:
    print(f"seed {SEED}")
    print(campaign.check_equal(dirty.warehouse, campaign.rebuild(dirty, dirty.folder), BUILT, target))


def test_a_killed_build_run_again_changes_nothing(dirty: Pipeline, target: Path) -> None:
    print(f"seed {SEED}")
    kept = dirty.folder / "kept.duckdb"
    shutil.copyfile(dirty.warehouse, kept)
    again = campaign.build_killed(dirty, kept, dirty.folder, after=random.uniform(2, 8))
    campaign.check_equal(kept, again, (*BUILT, "snapshots"), target)
