"""Settings of the sandbox, from the environment or `.env`; the defaults make the demo work."""

from pathlib import Path

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from sandbox.errors import SandboxError


class Settings(BaseSettings):
    """Where a world lives and which one it is."""

    model_config = SettingsConfigDict(env_file=".env", env_ignore_empty=True, extra="ignore")

    # A plain name: it is a folder below SANDBOX_DIR, which `down --wipe` deletes.
    world: str = Field("synthetic", pattern=r"^[a-z][a-z0-9_-]*$")
    sandbox_dir: Path = Path(".sandbox")
    sandbox_port: int = 0
    """Port of the third-party APIs; 0 takes any free one."""
    sandbox_dirt: float = Field(0.0, ge=0, le=1)
    """Share of a day's rows that are bad data, in a generated world; 0 is none."""
    sandbox_deletes: bool = False
    """Whether records are deleted, in a generated world."""
    berka_dir: Path = Path("../shared/data/berka")

    @property
    def folder(self) -> Path:
        """The folder that holds everything of this world."""
        return self.sandbox_dir.resolve() / self.world


def load(**overrides: object) -> Settings:
    """Reads the settings; overrides that are not None win over the environment."""
    try:
        return Settings(**{name: value for name, value in overrides.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]).upper()
        raise SandboxError(f"setting {name} is not valid ({first['msg']}): correct it") from None
