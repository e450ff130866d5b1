"""config/evaluate.yaml, for those who evaluate without its door.

Contract: keys and values as the file has them, without what is Hydra's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

FILE = Path(__file__).parent.parent / "config" / "evaluate.yaml"
OF_HYDRA = ("defaults", "hydra")


def default_keys() -> dict[str, Any]:
    """The keys of an evaluation for which nothing is given."""
    config = OmegaConf.to_container(OmegaConf.load(FILE))
    return {key: value for key, value in config.items() if key not in OF_HYDRA}
