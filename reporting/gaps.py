"""How far each checkpoint is from the group: by prompt, and share by share.

Contract: distributions go in, plain numbers come out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from measures.distributions import js_distance
from reporting.record import Shares


class Point(NamedTuple):
    """One option of one prompt: its share in the survey and in the model."""

    survey: float
    model: float
    prompt: int  # number of its Shares
    option: str


class Calibration(NamedTuple):
    """The shares of one checkpoint against the survey's, over all options that prompts offer."""

    checkpoint: str
    points: Sequence[Point]
    correlation: float | None  # Pearson's; None where a side does not vary
    mean_gap: float  # mean absolute difference


def gaps_of(shares: Sequence[Shares]) -> dict[str, dict[int, float]]:
    """JS distance to the group, by checkpoint, then by the prompt's number."""
    gaps: dict[str, dict[int, float]] = {}
    for number, of_prompt in enumerate(shares):
        for name, q in of_prompt.checkpoints.items():
            gaps.setdefault(name, {})[number] = float(js_distance(of_prompt.belief_probs, q))
    return gaps


def calibrations_of(shares: Sequence[Shares]) -> list[Calibration]:
    """One a checkpoint, in the order in which they appear."""
    points: dict[str, list[Point]] = {}
    for number, of_prompt in enumerate(shares):
        for name, q in of_prompt.checkpoints.items():
            for column, offered in enumerate(of_prompt.offered):
                if offered:
                    point = Point(
                        of_prompt.belief_probs[column], q[column], number, of_prompt.options[column]
                    )
                    points.setdefault(name, []).append(point)
    return [_calibration(name, of_checkpoint) for name, of_checkpoint in points.items()]


def _calibration(name: str, points: Sequence[Point]) -> Calibration:
    survey = np.array([point.survey for point in points])
    model = np.array([point.model for point in points])
    correlation = None
    if survey.std() > 0 and model.std() > 0:
        correlation = float(np.corrcoef(survey, model)[0, 1])
    return Calibration(name, points, correlation, float(np.abs(survey - model).mean()))
