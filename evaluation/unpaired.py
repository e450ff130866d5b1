"""How well a checkpoint tells desirable responses from undesirable ones where each stands by itself.

Contract: scored examples with labels go in, summaries come out. Every response counts by itself, with its
prompt's weight; intervals are over questions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import metrics
from evaluation.differences import Difference, compared
from evaluation.kinds import LABELS
from evaluation.scoring import Scored
from groups import Group


class Rated(NamedTuple):
    """One response that somebody labelled."""

    desirable: bool
    logp: float  # in nats
    logp_a_token: float
    reward: float | None  # implied, beta * log-ratio to the reference; None: there is none
    question: str
    weight: float


def summaries_of(
    scored: Sequence[Scored], groups: Sequence[Group], beta: float
) -> dict[str, metrics.Summary]:
    """Means of both sides, and how well they are told apart; without what an absent side would give.

    By implied rewards, beta * log-ratio, where there is a reference; by log-probs in any case.
    """
    rated = list(_all_rated(scored, groups, beta).values())
    if not rated:
        return {}
    summaries = _means(rated, [response.logp for response in rated], "logp")
    if _have_rewards(rated):
        summaries |= _means(rated, [response.reward for response in rated], "reward")
    for name, (contrast, value_of) in _contrasts(rated).items():
        summaries[name] = _contrast(contrast, rated, list(map(value_of, rated)))
    return {name: summary for name, summary in summaries.items() if summary["value"] is not None}


Responses = dict[tuple[int, int], Rated]  # by the prompt's number and the response's
ValueOf = Callable[[Rated], float]


def _all_rated(scored: Sequence[Scored], groups: Sequence[Group], beta: float) -> Responses:
    """The responses of all examples."""
    rated: Responses = {}
    for example in scored:
        group = groups[example.tree.group]
        rewards = [beta * ratio for ratio in example.log_ratios] or [None] * len(example.logps)
        answers = zip(group.labels, example.logps, example.tokens, rewards)
        for number, (label, logp, count, reward) in enumerate(answers):
            response = Rated(label, logp, logp / count, reward, group.question, group.weight)
            rated[example.tree.group, number] = response
    return rated


def _have_rewards(rated: Sequence[Rated]) -> bool:
    return all(response.reward is not None for response in rated)


def _contrasts(rated: Sequence[Rated]) -> dict[str, tuple[metrics.Contrast, ValueOf]]:
    """By the report's name: how the two sides are compared, and by which value."""
    contrasts: dict[str, tuple[metrics.Contrast, ValueOf]] = {
        "logp_auc": (metrics.auc, lambda response: response.logp_a_token)
    }
    if _have_rewards(rated):
        contrasts["reward_difference"] = (metrics.mean_difference, lambda response: response.reward)
        contrasts["auc"] = (metrics.auc, lambda response: response.reward)
    return contrasts


def differences_of(
    by_checkpoint: Mapping[str, tuple[Sequence[Scored], float]], groups: Sequence[Group]
) -> list[Difference]:
    """How well checkpoints tell the sides apart, one against another, on the responses that both have.

    by_checkpoint: scored examples and beta.
    """
    rated = {name: _all_rated(scored, groups, beta) for name, (scored, beta) in by_checkpoint.items()}
    rated = {name: responses for name, responses in rated.items() if responses}
    names_of: dict[str, list[str]] = {}  # by metric
    contrast_of: dict[str, tuple[metrics.Contrast, ValueOf]] = {}
    for name, responses in rated.items():
        for metric, contrast in _contrasts(list(responses.values())).items():
            names_of.setdefault(metric, []).append(name)
            contrast_of[metric] = contrast
    found = []
    for metric, names in names_of.items():
        contrast, value_of = contrast_of[metric]

        def difference(
            a: str, b: str, contrast: metrics.Contrast = contrast, value_of: ValueOf = value_of
        ) -> metrics.Difference:
            shared = [key for key in rated[a] if key in rated[b]]
            members = [rated[a][key] for key in shared]
            return metrics.summarize_contrast_difference(
                contrast,
                list(map(value_of, members)),
                [value_of(rated[b][key]) for key in shared],
                [response.desirable for response in members],
                [response.question for response in members],
                [response.weight for response in members],
            )

        found += compared(metric, LABELS, names, difference)
    return found


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
