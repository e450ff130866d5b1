"""What was measured of checkpoints so far, so that an evaluation that ended early goes on where it was.

Contract: a result is kept in the report's folder under a hash of all that determines it (weights, token ids,
settings, versions), so results of other settings never mix. What cannot be read is measured again. Nothing is
left once the report is written.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import models
import ranks
from ranks import World
from utils import log, write_json

FORMAT = 1  # of what is kept: another one is measured again
FOLDER = "unfinished"  # below the report's folder


class Kept:
    """The results of an evaluation that is under way; all ranks call `get` alike, and the main one writes."""

    def __init__(self, report: Path, world: World):
        self.folder, self.world = report / FOLDER, world
        self.paths: list[Path] = []

    def get(self, name: str, determined_by: Mapping[str, Any], measure: Callable[[], Any]) -> Any:
        """What `measure` returns (plain JSON values), or returned for the same `determined_by` before.

        name: of the checkpoint, for the log.
        """
        path = self.folder / f"{_hash(determined_by)}.json"
        value = ranks.on_main(self.world, lambda: _read(path))
        if value is None:
            value = measure()
            if self.world.is_main:
                _write(path, value)
        elif path not in self.paths:
            log.info("%s was measured before this evaluation ended early: going on from there", name)
        self.paths.append(path)
        return value

    def path(self, name: str) -> Path:
        """A file of this name, which goes when the report is written; whoever asks for it writes it."""
        path = self.folder / name
        self.paths.append(path)
        return path

    def clear(self) -> None:
        """Remove what this evaluation kept, once its report is written."""
        with contextlib.suppress(OSError):  # of another evaluation that is under way, or gone
            for path in self.paths:
                path.unlink(missing_ok=True)
            self.folder.rmdir()


def identity(policy: models.Scorer) -> dict[str, Any]:
    """What determines the outcome of a policy's passes. A call for all ranks."""
    return {"format": FORMAT, **models.identity(policy)}


def _hash(determined_by: Mapping[str, Any]) -> str:
    text = json.dumps(determined_by, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _read(path: Path) -> Any:
    """A kept result; None where there is none, or none that can be read."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def _write(path: Path, value: Any) -> None:
    """Keep a result; where the disk refuses it, the evaluation goes on without."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, value)
    except OSError as error:
        log.warning("%s cannot be written (%s): this checkpoint would be measured again", path, error)
