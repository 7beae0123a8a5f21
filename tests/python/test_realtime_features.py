"""What an order was decided on is what the warehouse says of it, as of its request."""

from collections.abc import Callable
from pathlib import Path

from tests.soak.parity import run
from tests.soak.realtime import Stack


def test_features_and_scores_are_those_of_the_warehouse(new_folder: Callable[[str], Path]) -> None:
    folder = new_folder("parity")
    with Stack(folder, scale=0.05, lease=15) as stack:
        compared, differences = run(stack, folder, 300, seed=3)

    assert differences == []
    # Every feature was there to be compared.
    assert {name for name, count in compared.items() if not count} == set()
    assert compared["score"] > 200
