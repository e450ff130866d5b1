"""Distances between a model's belief distribution and a group's.

Contract: distributions are non-negative arrays over the belief classes, along the last axis, of any sum above
0. What N draws would get is an expectation over draws with a fixed seed.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from scipy.spatial.distance import jensenshannon

Positions = Sequence[
    float | None
]  # (C,) where each class stands on an ordinal scale; None: it is no point of it

DRAWS = 2000  # over which an expectation is taken


def js_distance(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Jensen-Shannon distance along the last axis: the square root of the divergence, natural log, at most
    sqrt(ln 2) = 0.8326.

    p, q: (..., C) non-negative; each is normalised to sum to 1. This is what the GDPO paper reports as JSD.
    Raises ValueError for negative or all-zero rows.
    """
    p, q = np.asarray(p, float), np.asarray(q, float)
    for rows in (p, q):
        if (rows < 0).any() or (rows.sum(-1) <= 0).any():
            raise ValueError("js_distance needs non-negative rows with a positive sum")
    return np.nan_to_num(jensenshannon(p, q, axis=-1))  # rounding may take the root of -1e-17


def wasserstein_distance(p: np.ndarray, q: np.ndarray, positions: Positions) -> np.ndarray:
    """1-Wasserstein distance along the last axis between distributions on an ordinal scale, in [0, 1].

    p, q: (..., C) non-negative. The mass of a class without a position ("don't know") is left out, the rest
    normalised. It is the integral of the difference of the cumulative distributions over the span of the
    positions, as OpinionQA has it (Santurkar et al., arXiv 2303.17548, whose alignment is 1 minus this). NaN
    where a side has no mass on the scale, or where the scale has fewer than two points.
    """
    on_scale = [k for k, position in enumerate(positions) if position is not None]
    order = sorted(on_scale, key=lambda k: positions[k])
    steps = np.diff([positions[k] for k in order])  # between neighbours on the scale
    p, q = np.broadcast_arrays(np.asarray(p, float), np.asarray(q, float))
    if not steps.sum() > 0:
        return np.full(p.shape[:-1], np.nan)
    gaps = np.abs(_cumulative(p[..., order]) - _cumulative(q[..., order]))[..., :-1]
    return (gaps * steps).sum(-1) / steps.sum()


def _cumulative(rows: np.ndarray) -> np.ndarray:
    """Normalised cumulative sums along the last axis; NaN for rows without mass."""
    totals = rows.sum(-1, keepdims=True)
    return np.cumsum(rows, -1) / np.where(totals > 0, totals, np.nan)


def majority_share(shares: np.ndarray, p: np.ndarray) -> float:
    """Sampled share of p*'s most common belief over its share in p*: 1 is faithful, 1 / max(p) is collapse to
    the majority.
    """
    top = int(np.argmax(p))
    return float(shares[top] / np.asarray(p)[top])


# --- what draws get -----------------------------------------------------------------------------------------


def js_distance_floor(p: np.ndarray, num_samples: int, draws: int = DRAWS, seed: int = 0) -> float:
    """What a perfect model gets: the expected js_distance between p (C,) and the shares of `num_samples`
    draws from p itself.
    """
    return expected_js_distance(p, p, num_samples, draws, seed)


def expected_js_distance(
    q: np.ndarray, p: np.ndarray, num_samples: int, draws: int = DRAWS, seed: int = 0
) -> float:
    """What answering by q (C,) gets by sampling: the expected js_distance between p (C,) and the shares of
    `num_samples` draws from q.
    """
    return _expected_js_distance(tuple(q), tuple(p), num_samples, draws, seed)


def expected_wasserstein(
    q: np.ndarray, p: np.ndarray, positions: Positions, num_samples: int, draws: int = DRAWS, seed: int = 0
) -> float:
    """As `expected_js_distance`, of the 1-Wasserstein distance; with q = p it is the floor.

    Draws that all fall off the scale are left out. NaN where p or q has no mass on it.
    """
    return _expected_wasserstein(tuple(q), tuple(p), tuple(positions), num_samples, draws, seed)


# prompts share their p*, and checkpoints their prompts


@functools.lru_cache(maxsize=100_000)
def _expected_js_distance(
    q: Sequence[float], p: Sequence[float], num_samples: int, draws: int, seed: int
) -> float:
    shares = _shares_of_draws(q, num_samples, draws, seed)
    return float(js_distance(shares, np.broadcast_to(np.asarray(p, float), shares.shape)).mean())


@functools.lru_cache(maxsize=100_000)
def _expected_wasserstein(
    q: Sequence[float], p: Sequence[float], positions: Positions, num_samples: int, draws: int, seed: int
) -> float:
    shares = _shares_of_draws(q, num_samples, draws, seed)
    distances = wasserstein_distance(shares, p, positions)
    known = distances[~np.isnan(distances)]
    return float(known.mean()) if len(known) else float("nan")


def _shares_of_draws(q: Sequence[float], num_samples: int, draws: int, seed: int) -> np.ndarray:
    """(draws, C) shares of the classes among draws from q."""
    q = np.asarray(q, float) / np.sum(q)
    return np.random.default_rng(seed).multinomial(num_samples, q, size=draws) / num_samples
