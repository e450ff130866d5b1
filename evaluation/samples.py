"""Sampled responses taken apart and judged: which option does each state, and does its answer voice it?

Contract: what cannot be judged is None, neither Yes nor No, and is counted. A response that gives a judge
nothing to judge is not consistent; one that the judge gave no verdict on is left out of the means.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

import metrics
from evaluation.judges import BeliefJudge, EmbeddingJudge, ScoreJudge, Stated, Verdict
from evaluation.options import (
    OptionMap,
    class_consistent,
    classes_of_options,
    references_of,
    stated_option,
    unparsable_class,
)
from groups import CLASSES, Belief, Group

CLASS_WORDS = {  # of the GDPO papers' classes, for a judge of beliefs that are a class alone
    "5": "strongly positive",
    "4": "somewhat positive",
    "3": "neutral",
    "2": "somewhat negative",
    "1": "strongly negative",
    "0": "does not know, or has no opinion",
}
NO_MAP: OptionMap = {}


class Sample(NamedTuple):
    """One sampled response, and what is said of it."""

    text: str
    parsed: metrics.Parsed
    option: Belief | None  # that it states; None: no option of its prompt
    class_consistent: bool | None  # None: it gives no known option's words
    verdict: Verdict
    was_asked: bool = False  # a judge that may fail to answer was asked whether it is consistent
    score: float | None = None  # None: no judge gives scores, or it gave none


class Unjudged(NamedTuple):
    """How many of one checkpoint's samples could not be judged, by the names of report.json."""

    samples: int
    without_class_label: int
    left_out_of_shares: int  # of those: where no class stands for "don't know"
    without_known_option: int
    without_reference_answer: int  # they state a known option, and it has no answer to compare with
    without_verdict: int  # the judge was asked, and failed or said neither Yes nor No
    without_score: int  # as above, of scores


class Rules(NamedTuple):
    """How responses are taken apart and judged."""

    classes: Sequence[str]
    embedding: EmbeddingJudge  # RS, and BPC where `belief` is None
    belief: BeliefJudge | None = None
    score: ScoreJudge | None = None
    option_map: OptionMap = NO_MAP

    def judge_names(self) -> dict[str, str]:
        """By measure: the judge that its number is of."""
        names = {"bpc": (self.belief or self.embedding).name, "rs": self.embedding.name}
        return {**names, "judge_score": self.score.name} if self.score else names


def judge_all(groups: Sequence[Group], texts: Sequence[Sequence[str]], rules: Rules) -> list[list[Sample]]:
    """Take apart and judge the sampled responses to every prompt; judges are asked once for all of them."""
    samples = []
    for group, of_prompt in zip(groups, texts):
        judged = judge_samples(group, of_prompt, rules.classes, rules.embedding, rules.option_map)
        samples.append(judged)
    if rules.belief is not None:
        samples = _voiced(groups, samples, rules)
    if rules.score is not None:
        samples = _scored(groups, samples, rules.score)
    return samples


def judge_samples(
    group: Group,
    texts: Sequence[str],
    classes: Sequence[str],
    judge: EmbeddingJudge,
    option_map: OptionMap = NO_MAP,
) -> list[Sample]:
    """Take the sampled responses to one prompt apart and judge them by embeddings.

    The answer is held against the option that the response states, whatever its class label: for BPC the
    nearest reference answer must be one of that option, and RS is the cosine to it. A response that states no
    option of its prompt has no reference answer: it is neither consistent nor inconsistent.
    """
    words = (*classes_of_options(group), *option_map)
    references = references_of(group)
    parsed = [metrics.parse_response(text, classes, words) for text in texts]
    stated = [stated_option(response, group, option_map) for response in parsed]
    consistent = [class_consistent(response, group, option_map) for response in parsed]
    answers = [response.answer for response in parsed]
    verdicts = judge.verdicts(answers, stated, [references] * len(parsed))
    return list(map(Sample, texts, parsed, stated, consistent, verdicts))


# --- other judges -------------------------------------------------------------------------------------------


def _voiced(groups: Sequence[Group], samples: Sequence[Sequence[Sample]], rules: Rules) -> list[list[Sample]]:
    """With the verdicts of `rules.belief` in place of the embedding's."""
    questions: list[Stated] = []
    asked: list[tuple[int, int]] = []
    judged = [[_without_verdict(sample) for sample in of_prompt] for of_prompt in samples]
    for i, group in enumerate(groups):
        if not references_of(group):  # of a survey: its prompts ask for no answers
            continue
        for j, sample in enumerate(judged[i]):
            belief = _belief_in_words(sample, rules.classes)
            if belief and sample.parsed.answer:
                questions.append(Stated(group.prompt, belief, sample.parsed.answer))
                asked.append((i, j))
    for (i, j), voices in zip(asked, rules.belief.voices(questions)):
        sample = judged[i][j]
        judged[i][j] = sample._replace(was_asked=True, verdict=sample.verdict._replace(consistent=voices))
    return judged


def _without_verdict(sample: Sample) -> Sample:
    """An empty answer under a stated belief does not voice it; nobody need be asked."""
    is_empty = sample.option is not None and not sample.parsed.answer
    return sample._replace(verdict=sample.verdict._replace(consistent=False if is_empty else None))


def _belief_in_words(sample: Sample, classes: Sequence[str]) -> str:
    """The belief text that a response states, known to its prompt or not; the class where its prompt's
    beliefs are a class alone; "" where it states neither.
    """
    if sample.parsed.belief:
        return sample.parsed.belief
    if sample.option is None:
        return ""
    label = sample.option.label
    words = CLASS_WORDS[label] if set(classes) == set(CLASSES) else ""
    return f"{label} ({words})" if words else label


def _scored(
    groups: Sequence[Group], samples: Sequence[Sequence[Sample]], judge: ScoreJudge
) -> list[list[Sample]]:
    """With the judge's scores of the whole responses."""
    asked = [(group.prompt, sample.text) for group, of_prompt in zip(groups, samples) for sample in of_prompt]
    scores = iter(judge.scores(asked))
    return [[sample._replace(score=next(scores)) for sample in of_prompt] for of_prompt in samples]


# --- counts -------------------------------------------------------------------------------------------------


def shares_of(group: Group, samples: Sequence[Sample], classes: Sequence[str]) -> tuple[np.ndarray, int]:
    """(shares (C,) of the classes, number of samples that they are of)."""
    counts_as = unparsable_class(group, classes)
    parsed = [sample.parsed for sample in samples]
    counted = len(parsed) - _left_out(group, samples, classes)
    return metrics.class_shares(parsed, classes, counts_as), counted


def count_unjudged(
    groups: Sequence[Group],
    samples: Sequence[Sequence[Sample]],
    classes: Sequence[str],
    has_scores: bool = False,
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
            without_verdict=sum(s.was_asked and s.verdict.consistent is None for s in of_prompt),
            without_score=sum(has_scores and sample.score is None for sample in of_prompt),
        )
        counts.append(of_group)
    return add_unjudged(counts)


def add_unjudged(counts: Iterable[Unjudged]) -> Unjudged:
    """The sum of counts."""
    return Unjudged(*map(sum, zip(*counts)))


def _left_out(group: Group, samples: Sequence[Sample], classes: Sequence[str]) -> int:
    if unparsable_class(group, classes) is not None:
        return 0
    return sum(sample.parsed.label is None for sample in samples)


def fields_of(sample: Sample) -> Mapping[str, object]:
    """What is said of a sample, as its line of predictions.jsonl ends."""
    similarity = sample.verdict.similarity
    scored = {} if sample.score is None else {"judge_score": sample.score}
    return {
        "class": sample.parsed.label,
        "belief": sample.parsed.belief,
        "answer": sample.parsed.answer,
        "class_belief_consistent": sample.class_consistent,
        "belief_answer_consistent": sample.verdict.consistent,
        "similarity": None if similarity is None else round(similarity, 4),
        **scored,
    }
