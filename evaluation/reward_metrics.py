"""The measures of sampled responses whose reward a program computes: means, best of n, and wins.

Contract: pure. Samples are averaged to one value a prompt; None where a prompt states no constraints, so that
there is nothing to satisfy. Means with intervals over questions are made of these values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

import metrics
from constraints import words_of
from evaluation.differences import ByMetric
from generation import Written
from groups import Group

REWARD, BEST = "true_reward", "true_reward_best"
SATISFIED, ALL_SATISFIED = "constraints_met", "all_constraints_met"
WIN_RATE = "reward_win_rate"
WORDS, TOKENS, CUT = "response_words", "response_tokens", "response_cut_share"

Values = dict[str, list[float | None]]  # by metric, then by prompt


class Rewarded(NamedTuple):
    """One sampled response, and what it is worth."""

    written: Written
    reward: float
    satisfactions: tuple[float, ...]  # of its prompt's constraints, in their order; (): it states none

    @property
    def share_met(self) -> float | None:
        """The share of the constraints that are met altogether; None where there are none."""
        return float(np.mean([one == 1 for one in self.satisfactions])) if self.satisfactions else None


Samples = Sequence[Sequence[Rewarded]]  # by prompt


def values_of(samples: Samples) -> Values:
    """The measures of every prompt's samples, but for wins. At least one sample a prompt."""
    values: Values = {REWARD: [], SATISFIED: [], ALL_SATISFIED: [], BEST: [], WORDS: [], TOKENS: [], CUT: []}
    for of_prompt in samples:
        rewards = [one.reward for one in of_prompt]
        shares = [one.share_met for one in of_prompt]
        has_constraints = None not in shares
        values[REWARD].append(float(np.mean(rewards)))
        values[BEST].append(max(rewards))
        values[SATISFIED].append(float(np.mean(shares)) if has_constraints else None)
        values[ALL_SATISFIED].append(float(np.mean(np.equal(shares, 1))) if has_constraints else None)
        values[WORDS].append(float(np.mean([len(words_of(one.written.text)) for one in of_prompt])))
        values[TOKENS].append(float(np.mean([one.written.tokens for one in of_prompt])))
        values[CUT].append(float(np.mean([one.written.finish == "length" for one in of_prompt])))
    return values


def wins_of(samples: Samples, baseline: Samples) -> list[float | None]:
    """WR by prompt: the mean of [r > r'] + 0.5 [r = r'] over all pairs of a sample and the baseline's."""
    return [_win_rate(ours, theirs) for ours, theirs in zip(samples, baseline)]


def _win_rate(ours: Sequence[Rewarded], theirs: Sequence[Rewarded]) -> float:
    first = np.array([one.reward for one in ours])[:, None]  # (N, 1)
    second = np.array([one.reward for one in theirs])[None]  # (1, M)
    return float(np.mean((first > second) + 0.5 * (first == second)))


def averaged(tables: Sequence[Values]) -> Values:
    """The mean of several decodings, prompt by prompt."""
    first = tables[0]
    return {
        metric: [
            None if None in of_all else float(np.mean(of_all)) for of_all in zip(*(t[metric] for t in tables))
        ]
        for metric in first
    }


def by_prompt(values: Values) -> ByMetric:
    """What is known, by the prompt's number; without metrics of which nothing is."""
    known = {
        metric: {i: value for i, value in enumerate(column) if value is not None}
        for metric, column in values.items()
    }
    return {metric: held for metric, held in known.items() if held}


def summaries_of(values: Values, groups: Sequence[Group]) -> Mapping[str, metrics.Summary]:
    """Means over prompts with intervals over questions, of what is known."""
    summaries = {}
    for metric, held in by_prompt(values).items():
        questions, weights = [groups[i].question for i in held], [groups[i].weight for i in held]
        summaries[metric] = metrics.summarize(list(held.values()), clusters=questions, weights=weights)
    return summaries
