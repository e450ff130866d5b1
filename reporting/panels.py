"""What the charts show, whoever draws them: one small chart a metric, one color a name.

Contract: a Story goes in, records of plain numbers come out; page and figures for papers draw the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from reporting.record import Difference, Evaluation, Story
from reporting.tables import title_of
from reporting.words import HEADLINE, TITLES, better_side

# legible on white and on near-black
COLORS = ("#2f7fd0", "#e0772b", "#2c9f6f", "#9a6bd6", "#d9485f", "#1d9fae", "#b0853b", "#7a8794")
GROUP = "#8a8f98"  # the survey
BETTER, WORSE, UNSURE = "#2c9f6f", "#d9485f", "#8a8f98"
LONGEST_NAME = 18


class Differences(NamedTuple):
    """One metric's paired differences."""

    metric: str
    title: str
    side: int  # see `better_side`
    rows: Sequence[Difference]


class Mean(NamedTuple):
    """One row of a chart of means."""

    name: str
    is_guess: bool  # no checkpoint: a reference row
    value: float
    low: float | None
    high: float | None


class Means(NamedTuple):
    """One metric's means."""

    metric: str
    title: str
    rows: Sequence[Mean]


def colors_of(story: Story) -> dict[str, str]:
    """A color for every checkpoint and run; a run has its checkpoint's."""
    names: dict[str, None] = {}
    for evaluation in story.evaluations:
        names |= dict.fromkeys(evaluation.checkpoints)
        for shares in evaluation.shares:
            names |= dict.fromkeys(shares.checkpoints)
    names |= dict.fromkeys(run.name for run in story.runs)
    return {name: COLORS[i % len(COLORS)] for i, name in enumerate(names)}


def differences_of(evaluation: Evaluation) -> list[Differences]:
    """Of the metrics that a reader looks for first."""
    panels = []
    for kind, titles in TITLES.items():
        for metric in filter(HEADLINE.__contains__, titles):
            rows = [d for d in evaluation.differences if (d.metric, d.kind) == (metric, kind)]
            if rows:
                title = title_of(metric, kind, evaluation.n_samples, evaluation.judges)
                panels.append(Differences(metric, title, better_side(metric), rows))
    return panels


def means_of(evaluation: Evaluation) -> list[Means]:
    """Of the metrics that a reader looks for first: a row for whatever has the metric."""
    panels = []
    for kind, titles in TITLES.items():
        for metric in filter(HEADLINE.__contains__, titles):
            rows = list(_means(evaluation, metric))
            if rows:
                title = title_of(metric, kind, evaluation.n_samples, evaluation.judges)
                panels.append(Means(metric, title, rows))
    return panels


def _means(evaluation: Evaluation, metric: str) -> Iterable[Mean]:
    for name, summaries in evaluation.results.items():
        summary = summaries.get(metric)
        if summary is not None and summary["value"] is not None:
            yield Mean(name, is_guess(name), summary["value"], summary["low"], summary["high"])


def is_guess(name: str) -> bool:
    """Is a row no checkpoint's? Those stand in brackets."""
    return name.startswith("(") and name.endswith(")")


def verdict_of(difference: Difference, side: int) -> str:
    """better | worse | unsure: what the interval says of the first checkpoint, where a side is better."""
    if (
        difference.low is None
        or difference.high is None
        or difference.low <= 0 <= difference.high
        or not side
    ):
        return "unsure"
    return "better" if side * difference.value > 0 else "worse"


VERDICT_COLORS: Mapping[str, str] = {"better": BETTER, "worse": WORSE, "unsure": UNSURE}


def shortened(text: str, longest: int = LONGEST_NAME) -> str:
    """A text of one line that fits, of letters that can be drawn."""
    drawable = "".join(letter if letter.isprintable() else " " for letter in text)
    line = " ".join(drawable.split())
    return line if len(line) <= longest else line[: longest - 1] + "…"
