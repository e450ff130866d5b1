"""Evaluation: which checkpoints, how they are measured, and what is written of it.

`checkpoints` says which and what they started from, `policies` loads them, `answers` asks them, `kept` keeps
what they said, `beliefs` and `order` measure, `samples` are judged by `judges`, `report` writes, with `page`
and `plots`, into a `folder` that was tried.

Contract: this face is quick to import; `evaluate.py` imports the other rooms once it knows that there is
something to evaluate.
"""

from evaluation.checkpoints import Checkpoint, default_output, fill_settings, find_checkpoints
from evaluation.folder import check_folder

__all__ = ["Checkpoint", "check_folder", "default_output", "fill_settings", "find_checkpoints"]
