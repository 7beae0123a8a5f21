"""Settings from the environment, with defaults that make the demo work; `.env.example` lists them."""

import os
from datetime import date, datetime
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeVar
from zoneinfo import ZoneInfo

from dotenv import dotenv_values
from pydantic import BaseModel, Field, SecretStr, ValidationError

from ingestion.errors import ConfigurationError

BUSINESS_ZONE = ZoneInfo("America/Sao_Paulo")


# A model of plain pydantic: importing pydantic-settings takes longer than a small increment.
class Settings(BaseModel):
    """What one ingestion run needs to know; build it with `load_settings`."""

    world: str = Field("synthetic", pattern=r"^[a-z][a-z0-9_-]*$")
    lake: str = ""
    source_id: str = ""
    sources_file: Path | None = None
    log_format: Literal["", "text", "json"] = ""
    source_dsn: SecretStr = SecretStr("")
    source_timeout: str = Field("6h", pattern=r"^[1-9]\d*(ms|s|min|h|d)$")
    bureau_url: str = ""
    bureau_api_key: SecretStr = SecretStr("")
    fx_url: str = "https://olinda.bcb.gov.br"
    event_log: str = ""
    extract_date: date = Field(default_factory=lambda: datetime.now(BUSINESS_ZONE).date())

    @cached_property
    def lake_root(self) -> str:
        """The lake's folder: `LAKE`, or `lake` for the synthetic world and `lake-<world>` for any other."""
        return self.lake or ("lake" if self.world == "synthetic" else f"lake-{self.world}")


class StorageSettings(BaseModel):
    """How objects are kept on S3; build it with `load_storage_settings`."""

    lake_kms_key_id: str = ""
    lake_lease_seconds: float = Field(60.0, gt=0)


def load_settings() -> Settings:
    """Read the settings: environment first, then `.env`, then what the running sandbox wrote.

    Raises:
        ConfigurationError: a setting has a value that cannot be read.
    """
    dotenv = dotenv_values(".env")

    def setting(name: str, default: str) -> str:
        return os.environ.get(name) or dotenv.get(name) or default

    world = setting("WORLD", "synthetic")
    endpoints = Path(setting("SANDBOX_DIR", ".sandbox")) / world / "endpoints.env"
    return _read(Settings, endpoints, Path(".env"))


def load_storage_settings() -> StorageSettings:
    """Read the settings of S3 from the environment, then `.env`; raises as `load_settings`."""
    return _read(StorageSettings, Path(".env"))


Model = TypeVar("Model", bound=BaseModel)


def _read(model: type[Model], *files: Path) -> Model:
    """A model whose fields are the environment's variables, or else those of the last file that has them."""
    found: dict[str, str] = {}
    for values in (*map(dotenv_values, files), os.environ):
        found |= {name: values[name.upper()] for name in model.model_fields if values.get(name.upper())}
    try:
        return model(**found)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors())
        raise ConfigurationError(f"settings cannot be read: {problems} (.env.example lists them)") from None
