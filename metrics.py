"""Metrics of group preferences: pure functions of arrays, with the papers' definitions.

Contract: numpy in, floats or arrays out; every mean over prompts comes with n and a bootstrap interval (`summarize`).
"""
from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.spatial.distance import jensenshannon


class Parsed(NamedTuple):
    """A sampled response taken apart: the class label (None: unparsable), the belief's words, and the answer."""

    label: str | None
    belief: str | None
    answer: str


def js_distance(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Jensen-Shannon distance (square root of the divergence, natural log, at most sqrt(ln 2) = 0.8326) along the last axis.

    p, q: (..., C) non-negative; each is normalised to sum to 1. This is what the GDPO paper reports as JSD.
    Raises ValueError for negative or all-zero rows.
    """
    p, q = np.asarray(p, float), np.asarray(q, float)
    if (p < 0).any() or (q < 0).any() or (p.sum(-1) <= 0).any() or (q.sum(-1) <= 0).any():
        raise ValueError("js_distance needs non-negative rows with a positive sum")
    return np.nan_to_num(jensenshannon(p, q, axis=-1))  # rounding may take the root of -1e-17


def js_distance_floor(p: np.ndarray, num_samples: int, draws: int = 2000, seed: int = 0) -> float:
    """Expected js_distance between p (C,) and the shares of `num_samples` draws from p itself: what a perfect model gets."""
    p = np.asarray(p, float) / np.sum(p)
    counts = np.random.default_rng(seed).multinomial(num_samples, p, size=draws)
    return float(js_distance(counts / num_samples, np.broadcast_to(p, counts.shape)).mean())


def parse_response(text: str, labels: Sequence[str]) -> Parsed:
    """Take a response `4<Somewhat good job>The ...` apart; a class label alone before the answer (movie reviews) parses too."""
    text = text.lstrip()
    label = next((c for c in sorted(labels, key=len, reverse=True) if text.startswith(c)), None)
    if label is None:
        return Parsed(None, None, text)
    rest = text[len(label) :]
    match = re.match(r"\s*<([^<>]*)>", rest)
    return Parsed(label, match.group(1).strip(), rest[match.end() :].strip()) if match else Parsed(label, None, rest.strip())


def class_shares(parsed: Sequence[Parsed], labels: Sequence[str], unparsable_as: str) -> np.ndarray:
    """Shares (C,) of the class labels among sampled responses; one without a label counts as class `unparsable_as`."""
    found = [p.label if p.label is not None else unparsable_as for p in parsed]
    return np.asarray([found.count(label) for label in labels], float) / len(found)


def class_belief_consistent(parsed: Parsed, class_of_option: Mapping[str, str]) -> bool | None:
    """CBC of one response: is its class label that of the belief text it gives? None where the text is no known option."""
    stated = {option.casefold(): label for option, label in class_of_option.items()}.get((parsed.belief or "").casefold())
    return None if stated is None else stated == parsed.label


def majority_share(shares: np.ndarray, p: np.ndarray) -> float:
    """Sampled share of p*'s most common belief over its share in p*: 1 is faithful, 1 / max(p) is collapse to the majority."""
    top = int(np.argmax(p))
    return float(shares[top] / np.asarray(p)[top])


def summarize(values: Sequence[float], resamples: int = 2000, seed: int = 0) -> dict[str, float | int | None]:
    """Mean over prompts with its 95% percentile-bootstrap interval: {"value", "low", "high", "n"}; None where n = 0."""
    values = np.asarray(values, float)
    if not len(values):
        return {"value": None, "low": None, "high": None, "n": 0}
    picks = np.random.default_rng(seed).integers(0, len(values), (resamples, len(values)))
    low, high = np.percentile(values[picks].mean(1), [2.5, 97.5])
    return {"value": float(values.mean()), "low": float(low), "high": float(high), "n": len(values)}
