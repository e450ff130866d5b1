"""Means and contrasts with 95% bootstrap intervals.

Contract: whole clusters are drawn anew, with a fixed seed: the same values give the same interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import numpy as np

RESAMPLES = 2000  # of a bootstrap

Summary = dict[str, float | int | None]  # {"value", "low", "high", "n"}, see `summarize`


def summarize(
    values: Sequence[float],
    resamples: int = RESAMPLES,
    seed: int = 0,
    clusters: Sequence[Hashable] | None = None,
    weights: Sequence[float] | None = None,
) -> Summary:
    """Mean over prompts with its 95% percentile-bootstrap interval: {"value", "low", "high", "n"}; None where
    n = 0.

    clusters: what each value is one of, such as the question that a prompt asks. Values of one cluster are
    not independent, so whole clusters are drawn anew; where there is one alone, nothing is known of the
    spread and the interval is None. None: every value is independent of the others. weights: what each value
    counts in the mean, 2 as if it stood there twice; values of weight 0 are left out. None: all the same.
    """
    members = weighed(values, clusters, weights)
    values, weights = members.values, members.weights
    if not len(values):
        return {"value": None, "low": None, "high": None, "n": 0}
    value = float((weights * values).sum() / weights.sum())
    sums, sizes = members.sums()
    if len(sums) == 1 < len(values):
        return {"value": value, "low": None, "high": None, "n": len(values)}
    low, high = np.percentile(resampled_means(sums, sizes, resamples, seed), [2.5, 97.5])
    return {"value": value, "low": float(low), "high": float(high), "n": len(values)}


def resampled_means(sums: np.ndarray, sizes: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """(resamples,) means of clusters drawn anew. sums, sizes: (M,) weighted sums and weights of them."""
    drawn = np.random.default_rng(seed).integers(0, len(sums), (resamples, len(sums)))
    return sums[drawn].sum(1) / sizes[drawn].sum(1)


class Weighed(NamedTuple):
    """Values that count in a mean."""

    kept: np.ndarray  # (V,) bool: which of the given ones they are
    values: np.ndarray  # (N,)
    weights: np.ndarray  # (N,) above 0
    cluster: np.ndarray  # (N,) numbers from 0 on, in the order in which they first appear
    num_clusters: int

    def sums(self) -> tuple[np.ndarray, np.ndarray]:
        """(weighted sums, weights) of the clusters, (M,) each."""
        sums, sizes = np.zeros(self.num_clusters), np.zeros(self.num_clusters)
        np.add.at(sums, self.cluster, self.weights * self.values)
        np.add.at(sizes, self.cluster, self.weights)
        return sums, sizes


def weighed(
    values: Sequence[float], clusters: Sequence[Hashable] | None, weights: Sequence[float] | None
) -> Weighed:
    """The values of a weight above 0. Raises ValueError where clusters or weights do not fit the values."""
    values = np.asarray(values, float)
    clusters = range(len(values)) if clusters is None else clusters
    weights = np.ones(len(values)) if weights is None else np.asarray(weights, float)
    if len(clusters) != len(values):
        raise ValueError(f"{len(values)} values of {len(clusters)} clusters: give one a value")
    if len(weights) != len(values) or not (weights >= 0).all():
        raise ValueError(f"{len(values)} values need as many weights of 0 or more")
    kept = weights > 0
    numbers: dict[Hashable, int] = {}
    cluster = [numbers.setdefault(name, len(numbers)) for name, is_kept in zip(clusters, kept) if is_kept]
    return Weighed(kept, values[kept], weights[kept], np.asarray(cluster, int), len(numbers))


# --- of two sides: what is desirable, and what is not -------------------------------------------------------

# (values (N,), which of them are desirable (N,) bool, weights (N,)) -> a number; NaN where a side is empty
Contrast = Callable[[np.ndarray, np.ndarray, np.ndarray], float]


def mean_difference(values: np.ndarray, desirable: np.ndarray, weights: np.ndarray) -> float:
    """Weighted mean of the desirable values minus that of the others; NaN where a side has no weight."""
    sides = [np.where(side, weights, 0.0) for side in (desirable, ~desirable)]
    if not all(side.sum() > 0 for side in sides):
        return math.nan
    above, below = [float((side * values).sum() / side.sum()) for side in sides]
    return above - below


def auc(values: np.ndarray, desirable: np.ndarray, weights: np.ndarray) -> float:
    """Area under the ROC curve: how often a desirable value lies above one that is not, drawn by their
    weights; equal ones count half. NaN where a side has no weight.
    """
    positive, negative = np.where(desirable, weights, 0.0), np.where(desirable, 0.0, weights)
    if not (positive.sum() > 0 and negative.sum() > 0):
        return math.nan
    order = np.argsort(values, kind="stable")
    ranked = values[order]
    below = np.concatenate([[0.0], np.cumsum(negative[order])])  # weight of the first n values
    first, behind = np.searchsorted(ranked, ranked, "left"), np.searchsorted(ranked, ranked, "right")
    won = 0.5 * (below[first] + below[behind])
    return float((positive[order] * won).sum() / (positive.sum() * negative.sum()))


def summarize_contrast(
    contrast: Contrast,
    values: Sequence[float],
    desirable: Sequence[bool],
    clusters: Sequence[Hashable],
    weights: Sequence[float] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Summary:
    """A contrast of two sides with its 95% percentile-bootstrap interval over clusters, as in `summarize`.

    None where a side is empty. A resample that draws one side alone says nothing and is left out.
    """
    members = weighed(values, clusters, weights)
    of_side = np.asarray(desirable, bool)[members.kept]
    count = members.num_clusters
    value = contrast(members.values, of_side, members.weights)
    if math.isnan(value):
        return {"value": None, "low": None, "high": None, "n": len(members.values)}
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(resamples if count > 1 else 0):
        times = np.bincount(rng.integers(0, count, count), minlength=count)
        drawn.append(contrast(members.values, of_side, members.weights * times[members.cluster]))
    known = [number for number in drawn if not math.isnan(number)]
    low, high = np.percentile(known, [2.5, 97.5]).tolist() if known else (None, None)
    return {"value": value, "low": low, "high": high, "n": len(members.values)}
