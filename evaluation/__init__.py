"""Evaluation: which checkpoints, how they are measured, and what is written of it.

`checkpoints` says which and what they started from, `policies` loads them, `answers` asks them, `beliefs` and
`order` measure, `judges` compares texts, `report` writes, with `page` and `plots`.

Contract: this face is quick to import; `evaluate.py` imports the other rooms once it knows that there is
something to evaluate.
"""

from evaluation.checkpoints import Checkpoint, default_output, fill_settings, find_checkpoints

__all__ = ["Checkpoint", "default_output", "fill_settings", "find_checkpoints"]
