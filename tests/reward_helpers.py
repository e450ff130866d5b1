"""What tests of computed rewards need: prompts that state constraints, and their rewards counted by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from helpers import evaluation, json_lines

from rewards import Constraint, constraints_of, reward, satisfaction

QUICK = ["split=all", "n_samples=3", "max_new_tokens=6"]
ASKED = [
    [{"kind": "words", "at_least": 3, "at_most": 9}],
    [{"kind": "no_digits"}, {"kind": "no_commas"}],
    [{"kind": "lower_case"}, {"kind": "includes", "texts": ["sun"]}, {"kind": "words", "at_most": 4}],
]
NAMES = ("base", "one", "two")


def row(i: int, **fields: Any) -> dict[str, Any]:
    """A prompt with ranked responses that states constraints."""
    responses = [{"text": f"It is {i}.", "reward": 3}, {"text": "No.", "reward": 1}]
    asked = {"constraints": ASKED[i % len(ASKED)]}
    return {"id": f"p{i}", "prompt": f"Say {i}", "responses": responses, **asked, **fields}


def evaluate_models(models: Sequence[str], file: str, output: Path, *overrides: str) -> tuple[Any, list[Any]]:
    """Evaluate; (report.json, predictions.jsonl)."""
    listed = ",".join(models)
    evaluation(f"ckpt=[{listed}]", f"datasets=[{file}]", f"output={output}", *QUICK, *overrides)
    return json.loads((output / "report.json").read_text()), json_lines(output / "predictions.jsonl")


def asked_in(line: Mapping[str, Any]) -> tuple[Constraint, ...]:
    """The constraints of a prediction's prompt."""
    return constraints_of(ASKED[int(line["id"][1:]) % len(ASKED)], "here")


def rewards_by_hand(lines: Sequence[Mapping[str, Any]], name: str) -> dict[str, list[float]]:
    """{prompt's id: the rewards of its samples}, computed anew from the texts."""
    found: dict[str, list[float]] = {}
    for line in lines:
        if line["checkpoint"] == name and "response" in line:
            found.setdefault(line["id"], []).append(reward(asked_in(line), line["response"]))
    return found


def met_by_hand(lines: Sequence[Mapping[str, Any]], name: str) -> dict[str, list[list[bool]]]:
    """{prompt's id: for every sample, whether each constraint is met}."""
    found: dict[str, list[list[bool]]] = {}
    for line in lines:
        if line["checkpoint"] == name and "response" in line:
            flags = [satisfaction(one, line["response"]) == 1 for one in asked_in(line)]
            found.setdefault(line["id"], []).append(flags)
    return found


def mean(values: Any) -> float:
    """The plain mean."""
    return float(np.mean(list(values)))


def wins(ours: Mapping[str, list[float]], theirs: Mapping[str, list[float]]) -> float:
    """The mean over prompts of the win rate over all pairs of samples."""
    return mean(mean([(a > b) + 0.5 * (a == b) for a in ours[p] for b in theirs[p]]) for p in ours)
