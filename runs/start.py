"""What a run started from: recorded once, by content, since a name may mean something else later.

Contract: `start.json` of a run folder says what the config called its starting weights, which folder that
was, and their fingerprint. `outputs/sft` means the best step of that run at the time; a run that resumes, and
an evaluation, go back to the step that is recorded. Nothing here imports torch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from runs.folder import find_model, holds_steps
from settings import ModelSettings
from utils import UserError, write_json

FILE = "start.json"


class Start(NamedTuple):
    """What a run started from."""

    name: str  # as the config calls it
    source: str  # the folder or file that this was, or a hub name
    fingerprint: str = ""  # of its weights, see `models.fingerprint`; "": an older run, which recorded none
    code: str = ""  # what began it: this project's version and commit; "": as above


def start_of(run: Path, model: ModelSettings) -> Start:
    """What a run of this model starts from, or started from where it has begun.

    Raises UserError where that is not there (any more).
    """
    name = model.archive or model.name_or_path
    # without a checkpoint nothing has begun that another start could spoil
    recorded = read_start(run) if holds_steps(run) else None
    if recorded is not None and recorded.name == name:
        _check_there(run, recorded)
        return recorded
    if model.archive:
        return Start(name, find_model(name))
    path = Path(name)
    return Start(name, str(path.resolve()) if path.is_dir() else name)


def read_start(run: Path) -> Start | None:
    """What a run folder records; None where it has not begun, or is of an older version.

    Raises UserError where the record is damaged.
    """
    path = run / FILE
    if not path.is_file():
        return None
    try:
        return Start(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        remedy = "restore the file, or remove it to take the starting weights as the config names them"
        raise UserError(f"{path}: cannot be read ({error}); {remedy}") from error


def write_start(run: Path, start: Start) -> None:
    """Record it, where a run begins."""
    write_json(run / FILE, start._asdict())


def check_fingerprint(run: Path, recorded: Start, fingerprint: str) -> None:
    """Raises UserError where the weights that are there are not those that the run started from."""
    if recorded.fingerprint and recorded.fingerprint != fingerprint:
        raise UserError(
            f"{run}: the starting weights ({recorded.source}) changed since this run began, and they are its "
            "reference; restore them or choose another run"
        )


def _check_there(run: Path, recorded: Start) -> None:
    path = Path(recorded.source)
    if path.is_absolute() and not path.exists():
        raise UserError(
            f"{run}: its starting weights {recorded.source} are gone, and they are its reference; restore "
            f"the folder, or set its new place as source in {run / FILE}"
        )
