"""Which kind of data each prompt is, and so what is measured on it.

Contract: every prompt is of one kind, whatever the others of its data set are. What no kind measures is left
out and counted.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import groups as data
from forest import deviations
from groups import Example, Group
from reporting.words import BELIEFS, LABELS, PREFERENCE, REWARD, TARGET, TASK

__all__ = [
    "BELIEFS",
    "IN_WORDS",
    "LABELS",
    "PREFERENCE",
    "REWARD",
    "TARGET",
    "TASK",
    "Prompts",
    "examples_of",
    "in_words",
    "kind_of",
    "measurable",
    "question_of",
    "rewardable",
]

IN_WORDS = {
    BELIEFS: "with belief_probs",
    PREFERENCE: "with a preference",
    LABELS: "with labelled responses",
    TARGET: "with a target response",
}


class Prompts(NamedTuple):
    """What is evaluated on."""

    groups: list[Group]
    left_out: int  # prompts of several responses without a preference
    rewarded: Sequence[Group] = ()  # prompts, left out or not, whose sampled responses get a computed reward

    def of_kinds(self, *kinds: str) -> list[Group]:
        """The prompts of these kinds, in their order."""
        return [group for group in self.groups if kind_of(group) in kinds]

    def counts(self) -> dict[str, int]:
        """The number of prompts of every kind that there is, in the order of IN_WORDS."""
        found = Counter(kind_of(group) for group in self.groups)
        return {kind: found[kind] for kind in IN_WORDS if found[kind]}

    @property
    def without_preference(self) -> int:
        """How many of the groups have several responses without a preference."""
        return sum(map(_lacks_preference, self.groups))


def kind_of(group: Group) -> str:
    """The kind of one prompt: by its beliefs, else its labels, else its preference; else it has a target."""
    if group.belief_probs:
        return BELIEFS
    if group.labels:
        return LABELS
    return PREFERENCE if group.pairs or _has_rewards(group) else TARGET


def _has_rewards(group: Group) -> bool:
    """Whether all responses have a reward, and not all the same one."""
    rewards = [response.reward for response in group.responses]
    return None not in rewards and any(deviations(rewards))


def measurable(groups: Iterable[Group]) -> Prompts:
    """The prompts that a kind measures.

    Several responses of which none is preferred are left out where other prompts have a preference or labels.
    Where none has, they are SFT data: their target response is measured, which `loss=sft` trains on.
    """
    groups = list(groups)
    compared = any(kind_of(group) in (PREFERENCE, LABELS) for group in groups)
    kept = [group for group in groups if not (compared and _lacks_preference(group))]
    return Prompts(kept, len(groups) - len(kept))


def rewardable(groups: Iterable[Group], has_function: bool) -> list[Group]:
    """The prompts whose responses get a reward that a program computes: those that state constraints, and
    with a function of the user's all; those with beliefs have measures of their own.
    """
    return [group for group in groups if kind_of(group) != BELIEFS and (has_function or group.constraints)]


def _lacks_preference(group: Group) -> bool:
    return kind_of(group) == TARGET and len(group.responses) > 1


def in_words(prompts: Prompts) -> str:
    """How many prompts are of which kind, where there are several, and how many lack a preference."""
    counts = prompts.counts()
    parts = []
    if len(counts) > 1:
        parts.append(", ".join(f"{count} {IN_WORDS[kind]}" for kind, count in counts.items()))
    if prompts.without_preference:
        of_several = "of several responses without a preference, one of which is the target"
        parts.append(f"{prompts.without_preference} {of_several}")
    if prompts.left_out:
        parts.append(f"{prompts.left_out} left out: several responses without a preference")
    return "; ".join(parts)


def examples_of(groups: Sequence[Group]) -> list[Example]:
    """What is scored of each group's given responses.

    By preference: all responses, best first, where their rewards differ; else each of its pairs. By labels:
    all responses in their order. Else its target response.
    """
    examples = []
    for number, group in enumerate(groups):
        if kind_of(group) == LABELS:
            of_group = [Example(number, tuple(range(len(group.responses))), False)]
        else:
            of_group = data.view([group], _view_of(group))
        examples += [example._replace(group=number) for example in of_group]
    return examples


def _view_of(group: Group) -> str:
    if _has_rewards(group):
        return "ranked"
    return "pairs" if group.pairs else "target"


def question_of(group: Group) -> str:
    """What a prompt asks, whoever answers: groups of one question are not independent of one another."""
    return group.question or json.dumps(group.plain or group.prompt or group.responses[0].text)
