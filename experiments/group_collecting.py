"""From the evaluations of several groups of people to the results' file: plain numbers, one value a question.

Contract: nothing is drawn or tested here. A file that is missing or damaged is a UserError that names it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from experiments.cells import Cell
from experiments.made import made_by, seconds_of
from experiments.results import Json
from experiments.rows import Place
from experiments.values import asked_line, lines_of, measures_of, rounded, value_line, weights_of
from reporting.files import Fields
from reporting.groups import Matrix, PeopleGroups
from reporting.reading import read_evaluation
from reporting.record import Evaluation
from utils import UserError

UNNAMED = "_unnamed"  # behind the method of a row that knows no names
TRAINED, HELD_OUT = "all groups of training", "all groups held out"


class Wanted(NamedTuple):
    """Which numbers."""

    seeds: Sequence[str]
    rows: Sequence[str]
    splits: Sequence[str]


def collect(cells: Sequence[Cell], folder: Path, wanted: Wanted) -> Json:
    """All that tables and figures are drawn from."""
    parts = [_Split(folder, split, wanted) for split in wanted.splits]
    first = parts[0]
    return {
        "made": made_by(first.evaluations[wanted.rows[0], wanted.seeds[0]]),
        "groups": list(first.people.names),
        "held_out": list(first.people.held_out),
        "questions": [line for part in parts for line in part.questions()],
        "values": [line for part in parts for line in part.values()],
        "references": [],
        "matrices": [line for part in parts for line in part.matrices()],
        "cells": list(seconds_of(cells, folder)),
    }


class _Split:
    """All evaluations on one split."""

    def __init__(self, folder: Path, split: str, wanted: Wanted):
        self.split, self.wanted = split, wanted
        self.evaluations: dict[tuple[str, str], Evaluation] = {}
        self.lines: dict[tuple[str, str], list[Fields]] = {}
        for row in wanted.rows:
            for seed in wanted.seeds:
                report = Place(folder, seed).report(row, split)
                self.evaluations[row, seed] = read_evaluation(report)
                self.lines[row, seed] = lines_of(report)
        self.first = (wanted.rows[0], wanted.seeds[0])
        self.people = groups_of(self.evaluations[self.first])
        trained = [name for name in self.people.names if name not in self.people.held_out]
        self.parts: dict[str, Sequence[str]] = {name: [name] for name in self.people.names}
        self.parts[TRAINED] = trained
        if self.people.held_out:
            self.parts[HELD_OUT] = self.people.held_out

    def _lines_of(self, key: tuple[str, str], part: str) -> list[Fields]:
        return [line for line in self.lines[key] if line.text_or_none("group") in self.parts[part]]

    def questions(self) -> Iterator[Json]:
        """What each group was asked, and what each question counts."""
        for part in self.parts:
            lines = self._lines_of(self.first, part)
            yield asked_line({"group": part, "split": self.split}, len(lines), weights_of(lines))

    def values(self) -> Iterator[Json]:
        """A value a question, of every group, row, seed and measure."""
        for part in self.parts:
            asked = weights_of(self._lines_of(self.first, part))
            named = {"group": part, "split": self.split}
            for row, seed in self.evaluations:
                for metric, held in measures_of(self._lines_of((row, seed), part)).items():
                    yield value_line(named, row, seed, metric, [held.get(question) for question in asked])

    def matrices(self) -> Iterator[Json]:
        """Every group against every group's prompts, of every row and seed, and of the groups themselves."""
        for (row, seed), evaluation in self.evaluations.items():
            (of,) = groups_of(evaluation).checkpoints.values()
            for distance, matrix in of.matrix.items():
                named = {"split": self.split, "row": row, "seed": seed, "distance": distance}
                yield {**named, "values": plain(matrix)}
        for distance, matrix in self.people.between.items():
            named = {"split": self.split, "row": "", "seed": "", "distance": distance}
            yield {**named, "values": plain(matrix)}


def groups_of(evaluation: Evaluation) -> PeopleGroups:
    """Raises UserError where an evaluation tells of one group alone."""
    if evaluation.groups is None:
        raise UserError(f"{evaluation.folder}: tells of no groups of people; give groups= of several")
    return evaluation.groups


def plain(matrix: Matrix) -> list[list[float | None]]:
    return [[rounded(cell["value"]) for cell in row] for row in matrix]


def mean_matrix(lines: Sequence[Mapping[str, object]]) -> list[list[float | None]]:
    """The mean over seeds, cell by cell; None where a seed has none."""
    tables = [line["values"] for line in lines]
    means = []
    for rows in zip(*tables):
        cells = [list(column) for column in zip(*rows)]
        means.append([None if None in cell else sum(cell) / len(cell) for cell in cells])
    return means
