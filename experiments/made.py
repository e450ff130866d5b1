"""How results were made: of which commit, on what, by which commands, and how long they took.

Contract: what the machine does not say is left empty.
"""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from experiments.cells import Cell, Records
from experiments.results import Json
from reporting.record import Evaluation


def commit() -> str:
    return _said_by("git", "rev-parse", "--short", "HEAD") or "unknown"


def made_on() -> Json:
    """The commit and the machine."""
    return {
        "commit": commit(),
        "cpu": f"{os.cpu_count()} cores, {platform.machine()}",
        "gpus": _said_by("nvidia-smi", "--query-gpu=name", "--format=csv,noheader").splitlines(),
    }


def made_by(evaluation: Evaluation) -> Json:
    """The same, with the versions and how the measures were made, as one evaluation says it."""
    settings = evaluation.settings
    how = ("n_samples", "temperature", "max_new_tokens", "judge", "embedder")
    return {
        **made_on(),
        "versions": {name: settings.get(name) for name in ("torch", "transformers")},
        "measured": {key: settings.get(key) for key in how},
    }


def seconds_of(cells: Sequence[Cell], folder: Path) -> Iterator[Json]:
    """Each cell's command, and how long it took."""
    records = Records(folder, cells)
    for cell in records.cells:
        yield {"cell": cell.name, "seconds": records.seconds(cell), "command": cell.shown}


def _said_by(*command: str) -> str:
    """What a command prints; "" where it is not there, or fails."""
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
