"""What a run remembers between two steps, and what its checkpoints keep in `trainer_state/state.json`."""

from __future__ import annotations

from typing import NamedTuple


class State(NamedTuple):
    """Where a run stands after `step` optimizer steps."""

    reference: str  # fingerprint of the starting weights; "": the loss needs no reference
    data: dict[str, str]  # a hash of the examples of each split
    step: int = 0
    examples: int = 0  # seen so far
    best: float | None = None  # the least eval_metric so far
    best_step: int | None = None
    bad_evals: int = 0  # validations since the best one
    pending: bool = False  # a signal cut the validation of this step
    lines: int = 0  # of metrics.jsonl

    def out_of_patience(self, patience: int | None) -> bool:
        """Have `patience` validations (None: no number of them) passed without a better eval_metric?"""
        return patience is not None and self.bad_evals >= patience
