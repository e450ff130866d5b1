"""The metrics of one prompt with p*, of one checkpoint or of a reference distribution.

Contract: a metric that does not apply is None and is left out of means; what a judge could be asked about is
not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

import metrics
from evaluation.options import classes_of_options, positions_of, references_of
from evaluation.samples import Sample, shares_of
from groups import Group
from reporting.sentence import UNIFORM

FLOORS = ("js_distance_floor", "wasserstein_floor")  # of the data and N, not of the checkpoint


class PromptMetrics(NamedTuple):
    """The metrics of one checkpoint on one prompt, by the names of report.json; None: not applicable."""

    js_distance_probability: float | None = None  # the first three: None without class probabilities
    wasserstein_probability: float | None = None  # wasserstein_*: None also where the classes are no scale
    class_mass: float | None = None  # of all belief classes together, over the whole vocabulary
    js_distance_sampling: float | None = None  # this and what follows: None without samples
    js_distance_floor: float | None = None
    wasserstein_sampling: float | None = None
    wasserstein_floor: float | None = None
    majority_share: float | None = None
    cbc: float | None = None  # None also where a belief is a class token alone: nothing to agree with
    bpc: float | None = None  # this and rs: None also where the prompt has no reference answers
    rs: float | None = None
    judge_score: float | None = None  # None also where no judge gives scores


ByPrompt = Mapping[int, float]  # values by the prompt's number


def of_probabilities(group: Group, class_probs: np.ndarray, classes: Sequence[str]) -> PromptMetrics:
    """The metrics of class probabilities (C,) over the whole vocabulary against the group's p*."""
    mass = float(class_probs.sum())
    if not mass > 0:  # a server's log-probs may not name any class
        return PromptMetrics(class_mass=mass)
    p, positions = group.belief_probs, positions_of(group, classes)
    return PromptMetrics(
        js_distance_probability=float(metrics.js_distance(p, class_probs)),
        wasserstein_probability=_wasserstein(p, class_probs, positions),
        class_mass=mass,
    )


def _wasserstein(p: Sequence[float], q: np.ndarray, positions: metrics.Positions | None) -> float | None:
    if positions is None:
        return None
    return _known(float(metrics.wasserstein_distance(p, q, positions)))


def _known(number: float) -> float | None:
    return None if math.isnan(number) else number


def of_samples(group: Group, samples: Sequence[Sample], classes: Sequence[str]) -> PromptMetrics:
    """The metrics of the sampled responses to one prompt.

    A sample without a class label counts as "don't know", where there is such a class. One that states
    nothing that could be judged is not consistent: it counts in the means of CBC, BPC and RS, as 0. One that
    the judge gave no verdict or score on is left out of that mean.
    """
    measured = PromptMetrics()
    if not samples:
        return measured
    shares, counted = shares_of(group, samples, classes)
    if counted:
        measured = _of_shares(group, shares, counted, classes)
    scores = [sample.score for sample in samples if sample.score is not None]
    if scores:
        measured = measured._replace(judge_score=sum(scores) / len(scores))
    has_words = classes_of_options(group) or any(s.class_consistent is not None for s in samples)
    if has_words:
        measured = measured._replace(cbc=_share_of_true(s.class_consistent for s in samples))
    if references_of(group):
        answered = [s for s in samples if not (s.was_asked and s.verdict.consistent is None)]
        measured = measured._replace(
            bpc=_share_of_true(s.verdict.consistent for s in answered) if answered else None,
            rs=sum(s.verdict.similarity for s in samples) / len(samples),
        )
    return measured


def _of_shares(group: Group, shares: np.ndarray, counted: int, classes: Sequence[str]) -> PromptMetrics:
    """The metrics of the shares (C,) of the classes among `counted` samples."""
    p, positions = group.belief_probs, positions_of(group, classes)
    floor = None
    if positions is not None:
        floor = _known(metrics.expected_wasserstein(p, p, positions, counted))
    return PromptMetrics(
        js_distance_sampling=float(metrics.js_distance(p, shares)),
        js_distance_floor=metrics.js_distance_floor(p, counted),
        wasserstein_sampling=_wasserstein(p, shares, positions),
        wasserstein_floor=floor,
        majority_share=metrics.majority_share(shares, p),
    )


def _share_of_true(verdicts: Iterable[bool | None]) -> float:
    """The share of Yes among all, those without a verdict included."""
    answers = [verdict is True for verdict in verdicts]
    return sum(answers) / len(answers)


def together(parts: Sequence[PromptMetrics]) -> PromptMetrics:
    """The mean of each metric over those that have it: several decodings of one prompt."""
    means = []
    for column in zip(*parts):
        known = [value for value in column if value is not None]
        means.append(sum(known) / len(known) if known else None)
    return PromptMetrics(*means)


# --- over prompts -------------------------------------------------------------------------------------------


def by_prompt(of_prompts: Sequence[PromptMetrics]) -> dict[str, ByPrompt]:
    """Of every metric that any prompt has: its values."""
    columns = {}
    for name, column in zip(PromptMetrics._fields, zip(*of_prompts)):
        held = {i: value for i, value in enumerate(column) if value is not None}
        if held:
            columns[name] = held
    return columns


def summaries_of(of_prompts: Sequence[PromptMetrics], groups: Sequence[Group]) -> dict[str, metrics.Summary]:
    """Means by the prompts' weights with intervals over questions, of the metrics that any prompt has."""
    summaries = {}
    for name, held in by_prompt(of_prompts).items():
        questions = [groups[i].question for i in held]
        weights = [groups[i].weight for i in held]
        summaries[name] = metrics.summarize(list(held.values()), clusters=questions, weights=weights)
    return summaries


# --- what guessing gets -------------------------------------------------------------------------------------


def reference_rows(
    groups: Sequence[Group], classes: Sequence[str], num_samples: int
) -> dict[str, dict[str, metrics.Summary]]:
    """What guessing gets: equal shares for a prompt's own options, all mass on the majority, and, with
    samples, N draws from the group itself, the floor.

    By sampling: the expectation over N draws. Guesses have no answers, so neither CBC, BPC nor RS.
    """
    guesses = {
        UNIFORM: [np.asarray(offered_by(group, classes), float) for group in groups],
        "(majority only)": [np.eye(len(classes))[int(np.argmax(group.belief_probs))] for group in groups],
    }
    if num_samples:
        name = f"(the group itself, {num_samples} samples)"
        guesses[name] = [np.asarray(group.belief_probs) for group in groups]
    rows = {}
    for name, distributions in guesses.items():
        measured = []
        for group, q in zip(groups, distributions):
            measured.append(of_guess(group, q / q.sum(), classes, num_samples))
        rows[name] = summaries_of(measured, groups)
    return rows


def of_guess(group: Group, q: np.ndarray, classes: Sequence[str], num_samples: int) -> PromptMetrics:
    """The metrics of a distribution (C,) that responses are drawn from."""
    of_q = of_probabilities(group, q, classes)._replace(class_mass=None)
    if not num_samples:
        return of_q
    p, positions = group.belief_probs, positions_of(group, classes)
    wasserstein = None
    if positions is not None:
        wasserstein = _known(metrics.expected_wasserstein(q, p, positions, num_samples))
    return of_q._replace(
        js_distance_sampling=metrics.expected_js_distance(q, p, num_samples),
        wasserstein_sampling=wasserstein,
        majority_share=metrics.majority_share(q, p),
    )


def offered_by(group: Group, classes: Sequence[str]) -> list[bool]:
    """Which of the classes are options of this prompt; one that the group holds is, without an answer too."""
    labels = {belief.label for belief in [*(r.belief for r in group.responses), *group.options]}
    return [label in labels or share > 0 for label, share in zip(classes, group.belief_probs)]
