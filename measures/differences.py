"""Do two checkpoints differ? Paired differences with intervals and p-values.

Contract: both sides were measured on the same prompts, value by value. Whole clusters, such as the phrasings
of one question, are drawn or exchanged together, with a fixed seed.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Hashable, Sequence

import numpy as np

from measures.summaries import RESAMPLES, Contrast, resampled_means, weighed

EXACT_CLUSTERS = 12  # up to so many, all 2 ** clusters sign flips are counted
FLIPS = 9_999  # random sign flips where there are more
FLIPS_AT_ONCE = 4_000_000  # signs in memory
ROUNDING = 1e-12  # sums that differ by less are equal

Difference = dict[str, float | int | None]  # {"value", "low", "high", "p", "n"}


def summarize_difference(
    a: Sequence[float | None],
    b: Sequence[float | None],
    clusters: Sequence[Hashable] | None = None,
    weights: Sequence[float] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """Mean of a - b over the same prompts: {"value", "low", "high", "p", "n"}.

    A prompt that one side has no value for is left out. The interval is the 95% percentile bootstrap over
    clusters, as in `summarize`. p is two-sided, by a sign-flip permutation test over clusters: how often the
    weighted sum of differences, each cluster's with a random sign, is as far from 0 as it is; exact for up to
    12 clusters, else with 9,999 seeded flips. One cluster says nothing: low, high and p are None.
    """
    if len(a) != len(b):
        raise ValueError(f"{len(a)} values against {len(b)}: a paired difference needs as many")
    held = [i for i, pair in enumerate(zip(a, b)) if None not in pair]
    values = [a[i] - b[i] for i in held]
    of_clusters = held if clusters is None else [clusters[i] for i in held]
    members = weighed(values, of_clusters, None if weights is None else [weights[i] for i in held])
    if not len(members.values):
        return {"value": None, "low": None, "high": None, "p": None, "n": 0}
    value = float((members.weights * members.values).sum() / members.weights.sum())
    found: Difference = {"value": value, "low": None, "high": None, "p": None, "n": len(members.values)}
    if members.num_clusters > 1:
        sums, sizes = members.sums()
        low, high = np.percentile(resampled_means(sums, sizes, resamples, seed), [2.5, 97.5])
        found |= {"low": float(low), "high": float(high), "p": sign_flip_p(sums, seed)}
    return found


def sign_flip_p(sums: np.ndarray, seed: int = 0) -> float:
    """Two-sided p of a sign-flip test: the share of assignments of signs to `sums` (M,) whose total is at
    least as far from 0 as theirs. With random flips, the observed signs count as one of them.
    """
    scale = np.abs(sums).sum()
    if scale == 0:
        return 1.0
    observed = abs(sums.sum()) - ROUNDING * scale
    if len(sums) <= EXACT_CLUSTERS:
        numbers = np.arange(2 ** len(sums))
        signs = 1 - 2 * ((numbers[:, None] >> np.arange(len(sums))) & 1)  # (2 ** M, M)
        return float((np.abs(signs @ sums) >= observed).mean())
    at_once = max(FLIPS_AT_ONCE // len(sums), 1)
    as_far = 0
    for first in range(0, FLIPS, at_once):
        flipped = _random_flips(first, min(at_once, FLIPS - first), len(sums), seed)
        totals = sums.sum() - 2 * (flipped.astype(float) @ sums)
        as_far += int((np.abs(totals) >= observed).sum())
    return (as_far + 1) / (FLIPS + 1)


@functools.lru_cache(maxsize=32)  # the metrics of a report have the same questions
def _random_flips(first: int, count: int, clusters: int, seed: int) -> np.ndarray:
    """(count, clusters) 0 or 1: whose sign flips, from the flip numbered `first` on."""
    rng = np.random.default_rng([seed, first])
    return rng.integers(0, 2, (count, clusters), dtype=np.int8)


def summarize_contrast_difference(
    contrast: Contrast,
    a: Sequence[float],
    b: Sequence[float],
    desirable: Sequence[bool],
    clusters: Sequence[Hashable],
    weights: Sequence[float] | None = None,
    seed: int = 0,
) -> Difference:
    """contrast(a) - contrast(b) of the same responses: {"value", "low", "high", "p", "n"}.

    Both are computed on the same resamples of clusters. p is the two-sided bootstrap one, twice the share of
    resamples on the other side of 0: implied rewards of two checkpoints have scales of their own and cannot
    be exchanged. A resample that draws one side alone is left out.
    """
    first, second = (weighed(values, clusters, weights) for values in (a, b))
    of_side = np.asarray(desirable, bool)[first.kept]

    def difference(of_weights: np.ndarray) -> float:
        above = contrast(first.values, of_side, of_weights)
        return above - contrast(second.values, of_side, of_weights)

    value = difference(first.weights) if len(first.values) else math.nan
    found: Difference = {"value": None, "low": None, "high": None, "p": None, "n": len(first.values)}
    if math.isnan(value):
        return found
    found["value"] = value
    count = first.num_clusters
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(RESAMPLES if count > 1 else 0):
        times = np.bincount(rng.integers(0, count, count), minlength=count)
        drawn.append(difference(first.weights * times[first.cluster]))
    known = np.asarray([number for number in drawn if not math.isnan(number)])
    if len(known):
        low, high = np.percentile(known, [2.5, 97.5]).tolist()
        found |= {"low": low, "high": high, "p": bootstrap_p(known)}
    return found


def bootstrap_p(drawn: np.ndarray) -> float:
    """Two-sided p of resampled differences (R,): twice the smaller share on either side of 0, at most 1."""
    smaller = min((drawn <= 0).sum(), (drawn >= 0).sum())
    return min(2 * (int(smaller) + 1) / (len(drawn) + 1), 1.0)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down adjustment of the p-values of one family; None stays None and is not counted."""
    known = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, i) in enumerate(known):
        largest = max(largest, min(p * (len(known) - rank), 1.0))
        adjusted[i] = largest
    return adjusted
