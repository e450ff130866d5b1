"""Win rates: how often a judge prefers the policy's responses to a baseline's.

Contract: preferences are shares from 0 to 1; None is no verdict, left out and not counted in n.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from measures.summaries import Summary, Weighed, summarize, weighed

RIDGE = 1e-9  # on every coefficient: keeps a fit finite where one side always wins
STEPS = 50  # of Newton's method, which takes five or so
CONVERGED = 1e-10  # largest change of a coefficient
LC_RESAMPLES = 1000  # fits of a bootstrap


def win_rate(
    preferences: Sequence[float | None],
    clusters: Sequence[Hashable] | None = None,
    weights: Sequence[float] | None = None,
) -> Summary:
    """WR: the mean preference for the policy, from 0 to 1, with its interval as in `summarize`.

    n counts verdicts. Raises ValueError for a preference outside [0, 1].
    """
    judged = _judged(preferences)
    return summarize(
        [preferences[i] for i in judged],
        clusters=None if clusters is None else [clusters[i] for i in judged],
        weights=None if weights is None else [weights[i] for i in judged],
    )


def _judged(preferences: Sequence[float | None]) -> list[int]:
    """Which of the preferences are verdicts."""
    judged = [i for i, preference in enumerate(preferences) if preference is not None]
    if any(not 0 <= preferences[i] <= 1 for i in judged):
        raise ValueError("preferences are shares from 0 to 1")
    return judged


class Gamed(NamedTuple):
    """Preferences for the baseline told to be concise or verbose over itself, which enter the fit of
    AlpacaEval 2 so that length alone explains them."""

    std_length_differences: Sequence[float]  # (G,) baseline minus response, over their standard deviation
    preferences: Sequence[float]  # (G,)
    difficulty: Sequence[float]  # (G,) of the instruction
    weight: float = 0.1  # of each row, where one of the policy's counts 1


def length_controlled_win_rate(
    preferences: Sequence[float | None],
    lengths: Sequence[int],
    baseline_lengths: Sequence[int],
    difficulty: Sequence[float] | None = None,
    gamed: Gamed | None = None,
    clusters: Sequence[Hashable] | None = None,
    resamples: int = LC_RESAMPLES,
    seed: int = 0,
) -> Summary:
    """LC-WR: the win rate, from 0 to 1, that the policy would have at the baseline's lengths.

    AlpacaEval 2's model (Dubois et al. 2024, arXiv 2404.04475): the logit of the preference is
    a * tanh(d) + b * difficulty + c, with d the length difference, baseline minus policy in characters, over
    its standard deviation. It is fitted by maximum likelihood to preferences as shares; the value is the mean
    prediction at d = 0. difficulty: (N,) of each instruction; None: the term is left out, which is another
    measure and should be named so. The interval is the 95% percentile bootstrap over clusters, each resample
    a new fit with d as it is; None where there is one cluster. Raises ValueError for a preference outside
    [0, 1], and for `gamed` without `difficulty`.
    """
    if gamed is not None and difficulty is None:
        raise ValueError("gamed baselines need the difficulty of the instructions")
    judged = _judged(preferences)
    members = weighed(
        [preferences[i] for i in judged], None if clusters is None else [clusters[i] for i in judged], None
    )
    if not judged:
        return {"value": None, "low": None, "high": None, "n": 0}
    gaps = np.asarray([baseline_lengths[i] - lengths[i] for i in judged], float)
    at_equal_length = [np.zeros(len(judged)), np.ones(len(judged))]
    features = [np.tanh(_standardised(gaps)), np.ones(len(judged))]
    if difficulty is not None:
        of_instruction = np.asarray([difficulty[i] for i in judged], float)
        features.append(of_instruction)
        at_equal_length.append(of_instruction)
    data = _with_gamed(_Data(np.stack(features, 1), members.values, members.weights), gamed)
    asked = np.stack(at_equal_length, 1)
    start = _fit(data, np.zeros(asked.shape[1]))
    value = float(_sigmoid(asked @ start).mean())
    found: Summary = {"value": value, "low": None, "high": None, "n": len(judged)}
    if members.num_clusters > 1:
        drawn = _resampled(data, asked, start, members, np.random.default_rng(seed), resamples)
        found["low"], found["high"] = np.percentile(drawn, [2.5, 97.5]).tolist()
    return found


def _resampled(
    data: _Data,
    asked: np.ndarray,
    start: np.ndarray,
    members: Weighed,
    rng: np.random.Generator,
    resamples: int,
) -> list[float]:
    """The mean predictions for `asked` (N, F) of fits to clusters drawn anew, each from `start` on."""
    count = members.num_clusters
    drawn = []
    for _ in range(resamples):
        of_clusters = np.bincount(rng.integers(0, count, count), minlength=count)
        times = of_clusters[members.cluster]
        fitted = _fit(data.with_times(times), start)
        drawn.append(float(np.average(_sigmoid(asked @ fitted), weights=times)))
    return drawn


def _standardised(gaps: np.ndarray) -> np.ndarray:
    """Over their sample standard deviation; all 0 where they are all equal and say nothing of length."""
    spread = gaps.std(ddof=1) if len(gaps) > 1 else 0.0
    return gaps / spread if spread > 0 else np.zeros(len(gaps))


class _Data(NamedTuple):
    """What the logistic model is fitted to."""

    features: np.ndarray  # (N, F)
    preferences: np.ndarray  # (N,)
    weights: np.ndarray  # (N,)

    def with_times(self, times: np.ndarray) -> _Data:
        """The first rows counted so many times, as a resample drew them; the gamed ones as they are."""
        weights = self.weights.copy()
        weights[: len(times)] *= times
        return self._replace(weights=weights)


def _with_gamed(data: _Data, gamed: Gamed | None) -> _Data:
    """With the rows of the gamed baselines, which have no term of the policy."""
    if gamed is None:
        return data
    lengths = np.tanh(np.asarray(gamed.std_length_differences, float))
    features = np.stack([lengths, np.zeros(len(lengths)), np.asarray(gamed.difficulty, float)], 1)
    return _Data(
        np.concatenate([data.features, features]),
        np.concatenate([data.preferences, np.asarray(gamed.preferences, float)]),
        np.concatenate([data.weights, np.full(len(lengths), gamed.weight)]),
    )


def _fit(data: _Data, start: np.ndarray) -> np.ndarray:
    """Coefficients (F,) of the logistic model by Newton's method, halving steps that lead uphill."""
    features, preferences, weights = data
    ridge = RIDGE * weights.sum()
    now, loss = start, _loss(data, start, ridge)
    for _ in range(STEPS):
        predicted = _sigmoid(features @ now)
        gradient = features.T @ (weights * (predicted - preferences)) + ridge * now
        curvature = weights * predicted * (1 - predicted)
        hessian = (features.T * curvature) @ features + ridge * np.eye(len(now))
        step = np.linalg.solve(hessian, gradient)
        while (tried := _loss(data, now - step, ridge)) > loss + 1e-12 * abs(loss):
            step = step / 2
        now, loss = now - step, tried
        if np.abs(step).max() < CONVERGED:
            break
    return now


def _loss(data: _Data, coefficients: np.ndarray, ridge: float) -> float:
    logits = data.features @ coefficients
    nll = np.logaddexp(0, logits) - data.preferences * logits
    return float((data.weights * nll).sum() + 0.5 * ridge * (coefficients**2).sum())


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -logits))
