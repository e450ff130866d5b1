"""How well a checkpoint tells desirable responses from undesirable ones where each stands by itself.

Contract: scored examples with labels go in, summaries come out. Every response counts by itself, with its
prompt's weight; intervals are over questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import metrics
from evaluation.scoring import Scored
from groups import Group


class Rated(NamedTuple):
    """One response that somebody labelled."""

    desirable: bool
    logp: float  # in nats
    logp_a_token: float
    log_ratio: float | None  # to the reference; None: there is none
    question: str
    weight: float


def summaries_of(
    scored: Sequence[Scored], groups: Sequence[Group], beta: float
) -> dict[str, metrics.Summary]:
    """Means of both sides, and how well they are told apart; without what an absent side would give.

    By implied rewards, beta * log-ratio, where there is a reference; by log-probs in any case.
    """
    rated = [response for example in scored for response in _rated(example, groups[example.tree.group])]
    if not rated:
        return {}
    summaries = {
        **_means(rated, [response.logp for response in rated], "logp"),
        "logp_auc": _contrast(metrics.auc, rated, [response.logp_a_token for response in rated]),
    }
    if all(response.log_ratio is not None for response in rated):
        rewards = [beta * response.log_ratio for response in rated]
        summaries |= _means(rated, rewards, "reward")
        summaries["reward_difference"] = _contrast(metrics.mean_difference, rated, rewards)
        summaries["auc"] = _contrast(metrics.auc, rated, rewards)
    return {name: summary for name, summary in summaries.items() if summary["value"] is not None}


def _rated(example: Scored, group: Group) -> list[Rated]:
    """The responses of one example."""
    log_ratios = example.log_ratios or [None] * len(example.logps)
    rated = []
    for label, logp, count, ratio in zip(group.labels, example.logps, example.tokens, log_ratios):
        rated.append(Rated(label, logp, logp / count, ratio, group.question, group.weight))
    return rated


def _means(rated: Sequence[Rated], values: Sequence[float], name: str) -> dict[str, metrics.Summary]:
    """The mean over each side's responses."""
    summaries = {}
    for side, label in (("desirable", True), ("undesirable", False)):
        members = [(value, r.question, r.weight) for value, r in zip(values, rated) if r.desirable == label]
        of_side, questions, weights = zip(*members) if members else ((), (), ())
        summaries[f"{name}_{side}"] = metrics.summarize(of_side, clusters=questions, weights=weights)
    return summaries


def _contrast(contrast: metrics.Contrast, rated: Sequence[Rated], values: Sequence[float]) -> metrics.Summary:
    return metrics.summarize_contrast(
        contrast,
        values,
        [response.desirable for response in rated],
        [response.question for response in rated],
        [response.weight for response in rated],
    )
