"""Numbers of the results of `bias.py` as pages need them: by arm and k over seeds, slopes, distances.

Contract: a seed is the unit: intervals are Student's t over seeds, 95%.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from experiments.results import Results

THEOREM = -0.5  # the slope of 1 / sqrt(k)


class Interval(NamedTuple):
    """A mean over seeds with its interval; of one seed, no interval."""

    value: float
    low: float | None
    high: float | None


def interval(values: Sequence[float]) -> Interval:
    """Mean and 95% interval by Student's t."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return Interval(mean, None, None)
    half = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
    return Interval(mean, mean - half, mean + half)


def arms_of(results: Results) -> list[str]:
    """The arms, in the order of the file."""
    return list(dict.fromkeys(row["arm"] for row in results["rows"]))


def counts_of(results: Results, arm: str) -> list[int]:
    """The k at which an arm was measured."""
    return sorted({row["k"] for row in results["rows"] if row["arm"] == arm})


def biases(results: Results, arm: str, k: int, look: int = -1) -> list[float]:
    """An arm's bias at k under every seed, after the last step (or at another look)."""
    return [row["bias"][look] for row in results["rows"] if (row["arm"], row["k"]) == (arm, k)]


def untrained(results: Results) -> list[float]:
    """The bias of the model that every arm begins with, under every seed."""
    trained = [row for row in results["rows"] if row["largest"]]
    arm, k = trained[0]["arm"], trained[0]["k"]
    return biases(results, arm, k, look=0)


def slope(results: Results, arm: str) -> Interval:
    """Of log bias on log k, least squares under each seed, over seeds."""
    counts = counts_of(results, arm)
    table = np.array([biases(results, arm, k) for k in counts])  # (counts, seeds)
    return interval(np.polyfit(np.log(counts), np.log(table), 1)[0].tolist())


def verdict(found: Interval) -> str:
    """A slope in words: by where its interval lies to -1/2 and to 0."""
    if found.low is None or found.high is None:
        return "one seed says nothing"
    if found.low <= THEOREM <= found.high:
        return "as 1 / sqrt(k)"
    if found.high < THEOREM:
        return "faster than 1 / sqrt(k)"
    if found.high < 0:
        return "falls, more slowly than 1 / sqrt(k)"
    return "rises" if found.low > 0 else "not told apart from flat"


# --- the collapse -------------------------------------------------------------------------------------------


def points_of(results: Results, method: str, beta: float) -> list[Mapping[str, object]]:
    """The points of a method at a beta, one a seed."""
    return [row for row in results["rows"] if (row["method"], row["beta"]) == (method, beta)]


def betas_of(results: Results) -> list[float]:
    return sorted({row["beta"] for row in results["rows"]})


def mean_of(points: Sequence[Mapping[str, object]], name: str) -> float:
    """Over seeds."""
    return float(np.mean([point[name] for point in points]))
