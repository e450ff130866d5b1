"""From what the cells of the ranked experiment made to its results' file: a value a prompt, and what it took.

Contract: as in `collecting`. Wins are counted here, between the sampled responses of a row and those of the
base model under the same seed; where no program computes a reward, there are no rewards and no wins.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

import models
from experiments.cells import Cell, Records
from experiments.made import made_on, seconds_of
from experiments.ranked_methods import BASE
from experiments.results import Json, refusing_damage
from experiments.rows import Place
from experiments.values import IDENTITY, REMEDY, asked_line, lines_of, value_line
from reporting.curves import EXAMPLES, METRICS
from utils import UserError

WIN_RATE = "reward_win_rate"

Speeds = Mapping[str, float]  # responses a second, by row
ByPrompt = dict[str, float]
Rewards = dict[str, list[float]]  # of the sampled responses, by prompt


class Wanted(NamedTuple):
    """Which numbers."""

    dataset: str
    split: str
    seeds: Sequence[str]
    rows: Sequence[str]  # names, that of the base model among them
    equal: Mapping[str, str]  # by the name of a row that is no run: the one that it is equal to
    responses_per_example: Mapping[str, float]  # by row: how many each example encodes, in the mean


def collect(cells: Sequence[Cell], folder: Path, wanted: Wanted) -> Json:
    """All that tables and figures are drawn from, in the layout of `numbers.Numbers`."""
    part = {"group": wanted.dataset, "split": wanted.split}
    prompts = weights_of(folder, wanted)
    return {
        "made": {**made_on(), "versions": models.versions()},
        "questions": [asked_line(part, len(prompts), prompts)],
        "values": list(values_of(folder, wanted, part, list(prompts))),
        "references": [],
        "equal": dict(wanted.equal),
        "speeds": list(training_of(cells, folder, wanted)),
        "cells": list(seconds_of(cells, folder)),
    }


def weights_of(folder: Path, wanted: Wanted) -> dict[str, float]:
    """By prompt: what it counts. Raises UserError where the first evaluation holds no prompt."""
    report = Place(folder, wanted.seeds[0]).report(wanted.rows[-1])
    weights = {line.text("id"): line.number("weight") for line in lines_of(report)}
    if not weights:
        raise UserError(f"{report}: holds no measures of a prompt; {REMEDY}")
    return weights


def values_of(folder: Path, wanted: Wanted, part: Json, prompts: Sequence[str]) -> Iterator[Json]:
    """A value a prompt, of every row, seed and measure."""
    for seed in wanted.seeds:
        place = Place(folder, seed)
        base = rewards_of(place.report(BASE))
        for row in wanted.rows:
            found: dict[str, ByPrompt] = {}
            for line in lines_of(place.report(row)):
                for metric in line.values:
                    if metric not in IDENTITY:
                        found.setdefault(metric, {})[line.text("id")] = line.number(metric)
            if base and row != BASE:
                found[WIN_RATE] = wins(rewards_of(place.report(row)), base)
            for metric, held in found.items():
                yield value_line(part, row, seed, metric, [held.get(prompt) for prompt in prompts])


def rewards_of(report: Path) -> Rewards:
    """The rewards of an evaluation's sampled responses; none where no program computes them."""
    rewards: Rewards = {}
    for line in lines_of(report, "predictions.jsonl"):
        reward = line.number_or_none("reward")
        if reward is not None:
            rewards.setdefault(line.text("id"), []).append(reward)
    return rewards


def wins(ours: Rewards, theirs: Rewards) -> ByPrompt:
    """By prompt: the mean of [r > r'] + 0.5 [r = r'] over all pairs of our and their responses."""
    return {prompt: win_rate(ours[prompt], theirs[prompt]) for prompt in ours if prompt in theirs}


def win_rate(ours: Sequence[float], theirs: Sequence[float]) -> float:
    first, second = np.array(ours)[:, None], np.array(theirs)[None]
    return float(np.mean((first > second) + 0.5 * (first == second)))


# --- what training took -------------------------------------------------------------------------------------


def training_of(cells: Sequence[Cell], folder: Path, wanted: Wanted) -> Iterator[Json]:
    """Of every run: its responses seen, and the seconds of its steps alone and of its whole command."""
    records = Records(folder, cells)
    by_name = {cell.name: cell for cell in records.cells}
    for seed in wanted.seeds:
        place = Place(folder, seed)
        for row in wanted.rows:
            if row != BASE:
                seconds, examples = steps_of(place.run(row))
                yield {
                    "row": row,
                    "seed": seed,
                    "examples": examples,
                    "responses": round(examples * wanted.responses_per_example[row]),
                    "seconds": round(seconds, 2),
                    "whole_seconds": records.seconds(by_name[place.cell(row)]),
                }


def steps_of(run: Path) -> tuple[float, int]:
    """Seconds of a run's steps (without its start and its validation), and the examples that they saw."""
    seen, seconds = 0.0, 0.0
    for line in lines_of(run, METRICS):
        examples, speed = line.number(EXAMPLES), line.number_or_none("examples_per_second")
        if speed is not None:
            seconds += (examples - seen) / speed
            seen = examples
    if not seen:
        raise UserError(f"{run}: logged no step; {REMEDY}")
    return seconds, round(seen)


def speeds_of(results: Mapping[str, object], path: Path) -> Speeds:
    """Responses a second by row, over all seeds; a row that is no run has that of the run it is equal to.

    Raises UserError for damaged results.
    """
    seen: dict[str, float] = {}
    seconds: dict[str, float] = {}
    with refusing_damage(str(path)):
        for line in results["speeds"]:
            seen[line["row"]] = seen.get(line["row"], 0.0) + line["responses"]
            seconds[line["row"]] = seconds.get(line["row"], 0.0) + line["seconds"]
        speeds = {row: seen[row] / seconds[row] for row in seen}
        return speeds | {row: speeds[run] for row, run in results["equal"].items()}
