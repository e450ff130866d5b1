"""From what the cells made to the results' file: plain numbers, one value a question.

Contract: nothing is drawn or tested here; what is not known (no such answers, no such curve) is null or left
out. A file that is missing or damaged is a UserError that names it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from experiments import answers, collapse
from experiments.cells import Cell
from experiments.made import made_by, seconds_of
from experiments.results import Json
from experiments.rows import BASE, Place, Wanted, has_margins, is_trained
from experiments.values import (
    DIGITS,
    REMEDY,
    asked_line,
    by_question,
    lines_of,
    measures_of,
    value_line,
    weights_of,
)
from reporting.curves import read_run
from reporting.files import Fields, read_lines
from reporting.reading import read_evaluation
from reporting.record import Evaluation
from utils import UserError

CURVE_POINTS = 40  # of a run, at most: means of neighbours
CURVES = (
    "rewards_train/margins_majority",
    "rewards_train/margins_minority",
    "rewards_eval/margins_majority",
    "rewards_eval/margins_minority",
    "js_distance_train",
    "js_distance_eval",
)


def collect(cells: Sequence[Cell], folder: Path, wanted: Wanted) -> Json:
    """All that tables and figures are drawn from."""
    questions, values, references, shown = [], [], [], []
    for group, slug in wanted.groups:
        for split in wanted.splits:
            of_split = _Split(folder, group, slug, split, wanted)
            questions.append(of_split.questions())
            values += of_split.values()
            references += of_split.references()
            shown += of_split.answers()
    return {
        "made": made(wanted, folder),
        "questions": questions,
        "values": values,
        "references": references,
        "curves": list(curves(folder, wanted)),
        "answers": shown,
        "collapse": collapse.collect(folder, wanted),
        "cells": list(seconds_of(cells, folder)),
    }


class _Split:
    """One population's evaluations on one split."""

    def __init__(self, folder: Path, group: str, slug: str, split: str, wanted: Wanted):
        self.name = {"group": group, "split": split}
        self.split, self.wanted = split, wanted
        self.places = {seed: Place(folder, seed, slug) for seed in wanted.seeds}
        self.evaluations: dict[tuple[str, str], Evaluation] = {}
        self.lines: dict[tuple[str, str], list[Fields]] = {}
        for method in wanted.methods:
            for seed, place in self.places.items():
                report = place.report(method, split)
                self.evaluations[method, seed] = read_evaluation(report)
                self.lines[method, seed] = lines_of(report)
        self.weights = weights_of(self._first_lines())

    def _first_lines(self) -> list[Fields]:
        lines = self.lines[self.wanted.methods[0], self.wanted.seeds[0]]
        if not lines:
            place = self.places[self.wanted.seeds[0]].report(self.wanted.methods[0], self.split)
            raise UserError(f"{place}: holds no by_prompt.jsonl; {REMEDY}")
        return lines

    def questions(self) -> Json:
        """What is asked, and what each question counts: the sum of its prompts' weights."""
        return asked_line(self.name, len(self._first_lines()), self.weights)

    def values(self) -> Iterator[Json]:
        """A value a question, of every row, seed and measure."""
        for method in self.wanted.methods:
            for seed, place in self.places.items():
                found = measures_of(self.lines[method, seed])
                found |= answers.by_question(self.evaluations[method, seed])
                if has_margins(method):
                    margins = list(read_lines(place.margins(method, self.split), REMEDY))
                    for metric in ("margin_majority", "margin_minority"):
                        found[metric] = by_question(margins, metric)
                for metric, held in found.items():
                    values = [held.get(question) for question in self.weights]
                    yield value_line(self.name, method, seed, metric, values)

    def references(self) -> Iterator[Json]:
        """What guessing gets, with its interval over questions."""
        method = BASE if BASE in self.wanted.methods else self.wanted.methods[0]
        evaluation = self.evaluations[method, self.wanted.seeds[0]]
        for row, summaries in evaluation.results.items():
            if row not in evaluation.checkpoints:
                for metric, summary in summaries.items():
                    yield {**self.name, "row": row, "metric": metric, **summary}

    def answers(self) -> list[Json]:
        """Answers by belief to a few questions."""
        by_method = {m: [self.evaluations[m, s] for s in self.wanted.seeds] for m in self.wanted.methods}
        shown = answers.side_by_side(by_method, self.wanted.shown_questions)
        return [{**self.name, **line} for line in shown]


# --- runs ---------------------------------------------------------------------------------------------------


def curves(folder: Path, wanted: Wanted) -> Iterator[Json]:
    """Margins and JSD over training, of every run."""
    for group, slug in wanted.groups:
        for seed in wanted.seeds:
            for method in filter(is_trained, wanted.methods):
                run = read_run(Place(folder, seed, slug).run(method))
                for key in CURVES:
                    curve = run.curves.get(key)
                    if curve is not None and any(curve.y):
                        x, y = thinned(curve.x, curve.y)
                        row = {"group": group, "method": method, "seed": seed, "key": key}
                        yield {**row, "x": x, "y": y}


def thinned(x: Sequence[float], y: Sequence[float]) -> tuple[list[float], list[float]]:
    """A curve of at most CURVE_POINTS points: means of neighbours."""
    parts = np.array_split(np.arange(len(x)), min(CURVE_POINTS, len(x)))
    means = [(float(np.mean(np.take(x, part))), float(np.mean(np.take(y, part)))) for part in parts]
    return [round(a, 1) for a, _ in means], [round(b, DIGITS) for _, b in means]


def made(wanted: Wanted, folder: Path) -> Json:
    """On what, by which versions, and how the measures were made."""
    _, slug = wanted.groups[0]
    report = Place(folder, wanted.seeds[0], slug).report(wanted.methods[0], wanted.splits[0])
    return made_by(read_evaluation(report))
