"""Metrics of group preferences: pure functions of arrays, with the papers' definitions.

Contract: arrays in, floats or arrays out; every mean over prompts comes with n and a bootstrap interval
(`summarize`, and `summarize_contrast` for what compares two sides). `example_metrics` is the one place for
what is logged of every loss, in training, validation and evaluation.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.spatial.distance import jensenshannon

from losses import Scores, reward_deviations

Summary = dict[str, float | int | None]  # {"value", "low", "high", "n"}, see `summarize`
Column = tuple[torch.Tensor, torch.Tensor]  # (N,) values, (N,) bool of the examples they hold for


# --- of distributions and sampled responses -----------------------------------------------------------------


class Parsed(NamedTuple):
    """A sampled response taken apart."""

    label: str | None  # of its class; None: unparsable
    belief: str | None  # its words; None: there are none
    answer: str


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


def js_distance_floor(p: np.ndarray, num_samples: int, draws: int = 2000, seed: int = 0) -> float:
    """What a perfect model gets: the expected js_distance between p (C,) and the shares of `num_samples`
    draws from p itself.
    """
    p = np.asarray(p, float) / np.sum(p)
    counts = np.random.default_rng(seed).multinomial(num_samples, p, size=draws)
    return float(js_distance(counts / num_samples, np.broadcast_to(p, counts.shape)).mean())


def parse_response(text: str, labels: Sequence[str], options: Sequence[str] | None = None) -> Parsed:
    """Take a response `4<Somewhat good job>The ...` apart; the longest label that it begins with counts.

    options: the words that the prompt's beliefs may have; (): they are class labels alone, as in movie
    reviews, and the answer follows at once; None: not known. Where words are expected, a label is no part of
    a longer number or word: `40 years` and `10<Good>` are not of class 4 and 1.
    """
    text = text.lstrip()
    longest_first = sorted(labels, key=len, reverse=True)
    label = next((label for label in longest_first if _begins_with(text, label, bool(options))), None)
    if label is None:
        return Parsed(None, None, text)
    rest = text[len(label) :]
    belief = None if options is not None and not options else _match_belief(rest, options or ())
    if belief is None:
        return Parsed(label, None, rest.strip())
    return Parsed(label, belief.group(1).strip(), rest[belief.end() :].strip())


def _begins_with(text: str, label: str, whole: bool) -> bool:
    """Does the text begin with this label? whole: as a number or word of its own."""
    if not text.startswith(label):
        return False
    last, following = label[-1:], text[len(label) : len(label) + 1]
    goes_on = (last.isdigit() and following.isdigit()) or (last.isalpha() and following.isalpha())
    return not (whole and goes_on)


def _match_belief(rest: str, options: Sequence[str]) -> re.Match | None:
    """The words in angle brackets at the start of a text; an option's own words may hold such brackets."""
    for option in sorted(options, key=len, reverse=True):
        if "<" in option or ">" in option:
            own = re.match(rf"\s*<\s*({re.escape(option.strip())})\s*>", rest, re.IGNORECASE)
            if own is not None:
                return own
    return re.match(r"\s*<([^<>]*)>", rest)


def class_shares(parsed: Sequence[Parsed], labels: Sequence[str], unparsable_as: str | None) -> np.ndarray:
    """Shares (C,) of the class labels among sampled responses; all 0 where none counts.

    One without a label counts as class `unparsable_as`; None: it is left out.
    """
    stated = [unparsable_as if response.label is None else response.label for response in parsed]
    counted = [label for label in stated if label is not None]
    return np.asarray([counted.count(label) for label in labels], float) / max(len(counted), 1)


def class_belief_consistent(parsed: Parsed, class_of_option: Mapping[str, str]) -> bool | None:
    """CBC of one response: is its class label that of the belief text it gives? None where the text is no
    known option.
    """
    by_option = {option.strip().casefold(): label for option, label in class_of_option.items()}
    stated = by_option.get((parsed.belief or "").strip().casefold())
    return None if stated is None else stated == parsed.label


def majority_share(shares: np.ndarray, p: np.ndarray) -> float:
    """Sampled share of p*'s most common belief over its share in p*: 1 is faithful, 1 / max(p) is collapse to
    the majority.
    """
    top = int(np.argmax(p))
    return float(shares[top] / np.asarray(p)[top])


def summarize(
    values: Sequence[float],
    resamples: int = 2000,
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
    weighed = _weighed(values, clusters, weights)
    values, weights = weighed.values, weighed.weights
    if not len(values):
        return {"value": None, "low": None, "high": None, "n": 0}
    value = float((weights * values).sum() / weights.sum())
    sums, sizes = np.zeros(weighed.num_clusters), np.zeros(weighed.num_clusters)
    np.add.at(sums, weighed.cluster, weights * values)
    np.add.at(sizes, weighed.cluster, weights)
    if len(sums) == 1 < len(values):
        return {"value": value, "low": None, "high": None, "n": len(values)}
    drawn = np.random.default_rng(seed).integers(0, len(sums), (resamples, len(sums)))
    low, high = np.percentile(sums[drawn].sum(1) / sizes[drawn].sum(1), [2.5, 97.5])
    return {"value": value, "low": float(low), "high": float(high), "n": len(values)}


class Weighed(NamedTuple):
    """Values that count in a mean."""

    kept: np.ndarray  # (V,) bool: which of the given ones they are
    values: np.ndarray  # (N,)
    weights: np.ndarray  # (N,) above 0
    cluster: np.ndarray  # (N,) numbers from 0 on, in the order in which they first appear
    num_clusters: int


def _weighed(
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
    resamples: int = 2000,
    seed: int = 0,
) -> Summary:
    """A contrast of two sides with its 95% percentile-bootstrap interval over clusters, as in `summarize`.

    None where a side is empty. A resample that draws one side alone says nothing and is left out.
    """
    weighed = _weighed(values, clusters, weights)
    of_side = np.asarray(desirable, bool)[weighed.kept]
    count = weighed.num_clusters
    value = contrast(weighed.values, of_side, weighed.weights)
    if math.isnan(value):
        return {"value": None, "low": None, "high": None, "n": len(weighed.values)}
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(resamples if count > 1 else 0):
        times = np.bincount(rng.integers(0, count, count), minlength=count)
        drawn.append(contrast(weighed.values, of_side, weighed.weights * times[weighed.cluster]))
    known = [number for number in drawn if not math.isnan(number)]
    low, high = np.percentile(known, [2.5, 97.5]).tolist() if known else (None, None)
    return {"value": value, "low": low, "high": high, "n": len(weighed.values)}


# --- of training examples -----------------------------------------------------------------------------------


def example_metrics(
    scores: Scores, loss: torch.Tensor, is_majority: torch.Tensor, beta: float
) -> dict[str, Column]:
    """What is logged for every loss: name -> ((N,) values, (N,) bool of the examples it holds for). {} is the
    split's name.

    `loss` is (N,); `is_majority` (N,) is 1, 0, or -1 for no beliefs. Implied rewards are beta * (policy -
    reference). `rejected` averages over the responses that are not preferred; `set_accuracies` asks for all
    of Y+ above all of Y-, `kendall_tau` compares the order of implied rewards with that of the rewards (ties
    in the rewards left out), and `negative_mass` is the share of softmax(implied rewards) on Y-. Y+ holds the
    responses above the mean reward, or column 0 where there are no rewards. `kl_reference` is the mean of
    reference - policy in nats a response: it estimates KL(reference || policy) where the responses are the
    reference's own, and is a drift elsewhere. `kl_mismatched` is KTO's.
    """
    policy, valid = scores.policy.detach(), scores.valid
    everyone, first = torch.ones_like(loss, dtype=torch.bool), valid[:, 0]
    columns = {"loss/{}": (loss, everyone), "logps_{}/chosen": (policy[:, 0], first)}
    if scores.kl is not None:
        columns["kl_mismatched_{}"] = (scores.kl.expand_as(loss), everyone)
    known = torch.where(valid, scores.reference, 0.0).isfinite().all(1)
    ratio = (policy - scores.reference).masked_fill(~valid, 0.0)
    columns["kl_reference_{}"] = (-ratio.sum(1) / valid.sum(1).clamp_min(1), known)
    if valid.shape[1] > 1:
        compared = Compared(policy, beta * ratio, scores.reward, valid, known, scores.deviation)
        columns |= _comparisons(compared, is_majority)
    if scores.class_logps is not None:
        columns |= _class_metrics(scores.class_logps.detach(), scores.class_probs)
    return columns


def _class_metrics(log_q: torch.Tensor, p: torch.Tensor) -> dict[str, Column]:
    """The model's belief classes, log q over the vocabulary (N, C), against p* (N, C), all 0 where there is
    none.
    """
    held = p.sum(1) > 0
    q = log_q.softmax(1)
    mixture = 0.5 * (p + q)
    divergence = (0.5 * (torch.xlogy(p, p) + torch.xlogy(q, q)) - torch.xlogy(mixture, mixture)).sum(1)
    return {
        "js_distance_{}": (divergence.clamp_min(0).sqrt(), held),
        "class_mass_{}": (log_q.exp().sum(1), held),
        "kl_{}": ((torch.xlogy(p, p) - p * log_q).sum(1), held),
    }


class Compared(NamedTuple):
    """Examples of several responses."""

    policy: torch.Tensor  # (N, K) log-probs
    implied: torch.Tensor  # (N, K) implied rewards
    reward: torch.Tensor  # (N, K)
    valid: torch.Tensor  # (N, K) bool
    known: torch.Tensor  # (N,) bool: all reference log-probs are there
    deviation: torch.Tensor | None  # (N, K) of rewards from their mean, as the data decided


def _comparisons(compared: Compared, is_majority: torch.Tensor) -> dict[str, Column]:
    """The metrics of examples with several responses: implied rewards against the preference."""
    policy, implied, reward, valid, known, deviation = compared
    others = valid[:, 1:]

    def mean_others(table: torch.Tensor) -> torch.Tensor:
        return torch.where(others, table, 0.0).sum(1) / others.sum(1).clamp_min(1)

    some, both = others.any(1), valid[:, 0] & others.any(1)
    chosen, rejected = implied[:, 0], mean_others(implied[:, 1:])
    columns = {"logps_{}/rejected": (mean_others(policy[:, 1:]), some)}
    values = {
        "chosen": (chosen, known & valid[:, 0]),
        "rejected": (rejected, known & some),
        "margins": (chosen - rejected, known & both),
        "accuracies": (mean_others((implied[:, :1] > implied[:, 1:]).float()), known & both),
    }
    for name, (value, mask) in values.items():
        columns[f"rewards_{{}}/{name}"] = (value, mask)
        for label, flag in (("majority", 1), ("minority", 0)):
            columns[f"rewards_{{}}/{name}_{label}"] = (value, mask & (is_majority == flag))
    for name, value in order_metrics(implied, reward, valid, deviation).items():
        columns[f"rewards_{{}}/{name}"] = (value, known & both)
    return columns


def order_metrics(
    implied: torch.Tensor,
    reward: torch.Tensor,
    valid: torch.Tensor,
    deviation: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """set_accuracies, kendall_tau and negative_mass (N,) of implied (N, K) rewards; see `example_metrics`.

    deviation: (N, K) of the rewards from their mean, as the data decided; None: computed from `reward`.
    """
    if deviation is None:
        deviation = reward_deviations(reward, valid)
    level = _reward_levels(deviation)
    positive, negative = valid & (level > 0), valid & (level <= 0)
    worst = torch.where(positive, implied, torch.inf).amin(1)  # of Y+
    best = torch.where(negative, implied, -torch.inf).amax(1)  # of Y-
    above = (level[:, :, None] > level[:, None, :]) & valid[:, :, None] & valid[:, None, :]  # (N, K, K)
    signs = torch.where(above, torch.sign(implied[:, :, None] - implied[:, None, :]), 0.0).sum((1, 2))
    mass = torch.where(valid, implied, -torch.inf).softmax(1)
    return {
        "set_accuracies": (worst > best).to(implied.dtype),
        "kendall_tau": signs / above.sum((1, 2)).clamp_min(1),
        "negative_mass": torch.where(negative, mass, 0.0).sum(1),
    }


def _reward_levels(deviation: torch.Tensor) -> torch.Tensor:
    """Deviations (N, K) as levels: above 0 is Y+. Where all rewards are equal, 1 for column 0, else 0."""
    is_first = torch.arange(deviation.shape[1], device=deviation.device) == 0
    is_equal = (deviation == 0).all(1, keepdim=True)
    return torch.where(is_equal, is_first.to(deviation.dtype), deviation)
