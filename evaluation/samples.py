"""Sampled responses taken apart and judged: which option does each state, and does its answer voice it?

Contract: an option is known by its words, or by its class label where a prompt's beliefs are labels alone.
What cannot be judged is None, neither Yes nor No, and is counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

import metrics
from evaluation.judges import EmbeddingJudge, Verdict
from groups import Belief, Group

DONT_KNOW = "0"  # the class that a response without a class label counts as

References = Mapping[Belief, Sequence[str]]  # by option: its reference answers


class Sample(NamedTuple):
    """One sampled response, and what is said of it."""

    text: str
    parsed: metrics.Parsed
    option: Belief | None  # that it states; None: no option of its prompt
    class_consistent: bool | None  # None: it gives no known option's words
    verdict: Verdict


class Unjudged(NamedTuple):
    """How many of one checkpoint's samples could not be judged, by the names of report.json."""

    samples: int
    without_class_label: int
    left_out_of_shares: int  # of those: where no class stands for "don't know"
    without_known_option: int
    without_reference_answer: int  # they state a known option, and it has no answer to compare with


def judge_samples(
    group: Group, texts: Sequence[str], classes: Sequence[str], judge: EmbeddingJudge
) -> list[Sample]:
    """Take the sampled responses to one prompt apart and judge them.

    The answer is held against the option that the response states, whatever its class label: for BPC the
    nearest reference answer must be one of that option, and RS is the cosine to it. A response that states no
    option of its prompt has no reference answer: it is neither consistent nor inconsistent.
    """
    class_of_option = classes_of_options(group)
    options = {option_of(belief) for belief in beliefs_of(group)}
    references = references_of(group)
    parsed = [metrics.parse_response(text, classes, tuple(class_of_option)) for text in texts]
    stated = [_stated_option(response, options) for response in parsed]
    consistent = [metrics.class_belief_consistent(response, class_of_option) for response in parsed]
    answers = [response.answer for response in parsed]
    verdicts = judge.verdicts(answers, stated, [references] * len(parsed))
    return list(map(Sample, texts, parsed, stated, consistent, verdicts))


def option_of(belief: Belief) -> Belief:
    """What makes a belief the same option as another one: its words, else its label."""
    words = belief.text.strip().casefold()
    return Belief("", words) if words else Belief(belief.label, "")


def _stated_option(parsed: metrics.Parsed, options: set[Belief]) -> Belief | None:
    if parsed.label is None:
        return None
    option = option_of(Belief(parsed.label, parsed.belief or ""))
    return option if option in options else None


def classes_of_options(group: Group) -> dict[str, str]:
    """The class label of every option's words; without beliefs that are a class label alone."""
    return {belief.text: belief.label for belief in beliefs_of(group) if belief.text.strip()}


def beliefs_of(group: Group) -> list[Belief]:
    """All options of a prompt: those that have responses, and those that its question offers beside them."""
    return [*(response.belief for response in group.responses), *group.options]


def references_of(group: Group) -> References:
    """The reference answers of every option that has some: survey data has options without answers."""
    references: dict[Belief, list[str]] = {}
    for response in group.responses:
        if response.text.strip():
            references.setdefault(option_of(response.belief), []).append(response.text)
    return references


# --- counts -------------------------------------------------------------------------------------------------


def unparsable_class(group: Group, classes: Sequence[str]) -> str | None:
    """The class that a response without a label counts as: "don't know", which is class 0 in the GDPO papers'
    data.

    None where no class says that: it has another name, or the labels only number a survey's options, in the
    order in which the prompt lists them.
    """
    only_numbers = not references_of(group)
    return DONT_KNOW if DONT_KNOW in classes and not only_numbers else None


def shares_of(group: Group, samples: Sequence[Sample], classes: Sequence[str]) -> tuple[np.ndarray, int]:
    """(shares (C,) of the classes, number of samples that they are of)."""
    counts_as = unparsable_class(group, classes)
    parsed = [sample.parsed for sample in samples]
    counted = len(parsed) - _left_out(group, samples, classes)
    return metrics.class_shares(parsed, classes, counts_as), counted


def count_unjudged(
    groups: Sequence[Group], samples: Sequence[Sequence[Sample]], classes: Sequence[str]
) -> Unjudged:
    """What could not be judged of the samples of every group."""
    counts = []
    for group, of_prompt in zip(groups, samples):
        references = references_of(group)
        known = [sample.option for sample in of_prompt if sample.option is not None]
        of_group = Unjudged(
            samples=len(of_prompt),
            without_class_label=sum(sample.parsed.label is None for sample in of_prompt),
            left_out_of_shares=_left_out(group, of_prompt, classes),
            without_known_option=len(of_prompt) - len(known),
            without_reference_answer=sum(option not in references for option in known),
        )
        counts.append(of_group)
    return Unjudged(*map(sum, zip(*counts)))


def _left_out(group: Group, samples: Sequence[Sample], classes: Sequence[str]) -> int:
    if unparsable_class(group, classes) is not None:
        return 0
    return sum(sample.parsed.label is None for sample in samples)
