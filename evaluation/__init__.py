"""Evaluation: which checkpoints, how they are measured, and what is written of it.

`checkpoints` says which and what they started from, `policies` loads them, `kinds` says what is measured on
which prompt. On prompts with beliefs: `answers` asks, `samples` are judged by `judges`, `beliefs` measures.
Where a program computes rewards, `rewarded` measures what is sampled, by `reward_metrics`. On given
responses: `scoring` gives log-probs, `responses` measures by `order`, `unpaired` or `likelihood`.
Of a task, `tasks` asks a benchmark's questions and has the answers judged. `engines` say what writes,
`predictions` keeps responses and `kept` what else checkpoints said; `differences` compares them; `report`
writes, with `tables`, `page` and `plots`, into a `folder` that was tried.

Contract: this face is quick to import; `evaluate.py` imports the other rooms once it knows that there is
something to evaluate.
"""

from evaluation.checkpoints import (
    Checkpoint,
    check_held_out,
    default_output,
    fill_settings,
    find_checkpoints,
)
from evaluation.folder import check_folder

__all__ = [
    "Checkpoint",
    "check_folder",
    "check_held_out",
    "default_output",
    "fill_settings",
    "find_checkpoints",
]
