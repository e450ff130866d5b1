"""The keys of an export, checked: config/export.yaml as a record.

Contract: as in `settings`, a door turns its composed config into one frozen record. Nothing slow is imported,
so a wrong key is told at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from checking import Rule, record
from settings import check_for_secrets
from utils import UserError

REPOSITORY = Rule(
    "must be owner/name, as the hub calls it, or null", r"[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*"
)


@dataclass(frozen=True)
class ExportSettings:
    """config/export.yaml."""

    ckpt: str
    to: str | None
    push: Annotated[str | None, REPOSITORY]
    private: bool
    overwrite: bool
    merge: bool
    dtype: Literal["float32", "bfloat16", "float16"] | None
    gguf: Literal["no", "f32", "f16", "bf16", "q8_0"]
    base_model: str | None
    license: str | None
    license_name: str | None
    license_link: str | None


def export_settings(config: Mapping[str, Any]) -> ExportSettings:
    """The record of a composed export config.

    Raises UserError for unknown keys, impossible values and secrets, and where there is nothing to export or
    nowhere to put it.
    """
    check_for_secrets(config)
    if config.get("ckpt") is None:
        raise UserError("ckpt: missing; name a run first, python export.py outputs/gdpo to=FOLDER")
    settings = record(ExportSettings, config, "export.yaml")
    if settings.to is None and settings.push is None:
        raise UserError("config keys to and push: both are null; give to=FOLDER, push=owner/name or both")
    if settings.license == "other" and settings.license_name is None:
        raise UserError("config key license=other: needs license_name=..., and license_link=... where it is")
    if not settings.merge and settings.gguf != "no":
        raise UserError(f"config key gguf={settings.gguf}: takes a whole model; leave out merge=false")
    return settings
