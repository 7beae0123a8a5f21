"""The short form of `make soak`: runs killed at random moments, and the proof that the campaign can fail."""

import random

import pytest

from tests.soak.campaign import PHASES, campaign


@pytest.mark.parametrize("place", PHASES)
def test_killed_at_random_moments_nothing_is_lost_or_doubled(place: str) -> None:
    seed = random.randrange(10**6)
    result = campaign(place, seed, kills=3)
    assert result.violation is None, f"seed {seed}"
    assert result.missed == [], f"seed {seed}: no kill hit these phases, so it proved nothing of them"
    assert result.verified == sum(result.phases.values()) >= 3
    assert result.files > 0


def test_a_campaign_against_files_written_in_place_fails() -> None:
    result = campaign("folder", 1, kills=10, sabotage="plain-write")
    assert result.violation is not None
