"""What a run remembers between two steps, and what its checkpoints keep in `trainer_state/state.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

KEYS = ("step", "examples", "best", "best_step", "bad_evals", "pending", "lines", "reference", "data")


class State(NamedTuple):
    """Where a run stands after `step` optimizer steps."""

    reference: str  # fingerprint of the starting weights
    data: dict[str, str]  # a hash of the examples of each split
    step: int = 0
    examples: int = 0  # seen so far
    best: float | None = None  # eval_metric's so far, by eval_mode
    best_step: int | None = None
    bad_evals: int = 0  # validations since the best one
    pending: bool = False  # a signal cut the validation of this step
    lines: int = 0  # of metrics.jsonl

    def out_of_patience(self, patience: int | None) -> bool:
        """Have `patience` validations (None: no number of them) passed without a better eval_metric?"""
        return patience is not None and self.bad_evals >= patience


def to_json(state: State) -> dict[str, Any]:
    """The state as state.json holds it, in the order of `KEYS`."""
    values = state._asdict()
    return {key: values[key] for key in KEYS}


def from_json(values: Mapping[str, Any]) -> State:
    """The state that `to_json` turned into these values. Raises ValueError where the keys are not `KEYS`."""
    if set(values) != set(KEYS):
        raise ValueError("state.json is of another version")
    return State(**values)
