"""Training runs from their folders, and which of their numbers are drawn.

Contract: metrics.jsonl is enough, and may still grow: a line that is half written is not there yet. Numbers
that are not finite are gaps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from reporting.files import hashes_of, read_lines, read_object
from reporting.record import Curve, Run

METRICS, CONFIG, START = "metrics.jsonl", "config.yaml", "start.json"
REMEDY = "restore the file, or give another run"
EXAMPLES = "counters/examples"


class Line(NamedTuple):
    """One line of a chart: a number that runs log, and how it is drawn."""

    key: str
    label: str
    style: str  # solid | dashed | dotted


class Panel(NamedTuple):
    """A chart of training: some numbers of every run that has them."""

    name: str  # of its file
    title: str
    about: str
    lines: Sequence[Line]


PANELS = (
    Panel(
        "margins",
        "Reward margins of majority and minority pairs (validation)",
        "Mean of beta times the margin of log-ratios, apart for pairs whose preferred belief is the group's "
        "most common one (solid) and for all others (dashed). Above 0 the preferred answer wins.",
        (
            Line("rewards_eval/margins_majority", "majority", "solid"),
            Line("rewards_eval/margins_minority", "minority", "dashed"),
        ),
    ),
    Panel(
        "margins-train",
        "Reward margins of majority and minority pairs (training steps)",
        "As before, of each step's own pairs.",
        (
            Line("rewards_train/margins_majority", "majority", "solid"),
            Line("rewards_train/margins_minority", "minority", "dashed"),
        ),
    ),
    Panel(
        "jsd",
        "JSD to the group",
        "Jensen-Shannon distance between the model's belief distribution and the group's: on validation "
        "prompts (solid) and on each step's own (dotted). Lower is better.",
        (
            Line("js_distance_eval", "validation", "solid"),
            Line("js_distance_train", "training", "dotted"),
        ),
    ),
    Panel(
        "loss",
        "Loss",
        "Each run's own objective: runs of different losses do not compare.",
        (Line("loss/eval", "validation", "solid"), Line("loss/train", "training", "dotted")),
    ),
    Panel(
        "accuracy",
        "Preferred above the others",
        "Share of validation pairs (solid) and of whole sets (dashed) that implied rewards put in order.",
        (
            Line("rewards_eval/accuracies", "pairs", "solid"),
            Line("rewards_eval/set_accuracies", "sets", "dashed"),
        ),
    ),
)


def read_run(folder: Path) -> Run:
    """A run, finished or at work. Raises UserError for damaged files."""
    return Run(
        name=folder.name,
        folder=str(folder),
        curves=_curves_of(folder / METRICS),
        config=_text_of(folder / CONFIG),
        start=_start_of(folder / START),
        hashes=hashes_of(folder, METRICS, CONFIG),
    )


def _curves_of(path: Path) -> dict[str, Curve]:
    points: dict[str, list[tuple[float, float]]] = {}
    wanted = [line.key for panel in PANELS for line in panel.lines]
    for logged in read_lines(path, REMEDY, grows=True):
        examples = logged.number(EXAMPLES)
        for key in wanted:
            value = logged.number_or_none(key)
            if value is not None and math.isfinite(value):
                points.setdefault(key, []).append((examples, value))
    return {key: Curve(*map(tuple, zip(*pairs))) for key, pairs in points.items()}


def _text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _start_of(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    values = read_object(path, REMEDY).values
    return {key: value for key, value in values.items() if isinstance(value, str)}


def panels_of(runs: Sequence[Run]) -> list[Panel]:
    """The charts of which any run has two points, or one that says something: without lines that no run has.

    Margins that are 0 throughout, as in a run that compares nothing, are no curve.
    """
    panels = []
    for panel in PANELS:
        lines = [line for line in panel.lines if any(has_curve(run, line) for run in runs)]
        if lines:
            panels.append(panel._replace(lines=lines))
    return panels


def has_curve(run: Run, line: Line) -> bool:
    """Does a run have this line, with anything but zeros?"""
    return line.key in run.curves and any(run.curves[line.key].y)
