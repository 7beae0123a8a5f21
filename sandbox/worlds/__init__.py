"""The lenders the sandbox can play."""

from pathlib import Path

from sandbox.errors import SandboxError
from sandbox.worlds.base import World


def create(name: str, seed: int, scale: float, berka_dir: Path) -> World:
    """Makes the world of that name. `seed` and `scale` mean something to generated worlds only."""
    if name == "synthetic":
        from sandbox.worlds.synthetic import SyntheticWorld

        return SyntheticWorld(seed=seed, scale=scale)
    if name == "berka":
        from sandbox.worlds.berka import BerkaWorld

        return BerkaWorld(berka_dir)
    raise SandboxError(f"the sandbox has no world {name!r}: choose synthetic or berka with WORLD")
