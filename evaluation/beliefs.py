"""The GDPO paper's metrics of checkpoints on data with p*: JSD, CBC, BPC, RS and the majority share.

Contract: checkpoints and groups go in, a `Part` of the report comes out, on the main rank alone. What cannot
be judged is counted, and the counts stand in the report.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

import metrics
from evaluation.answers import Answers, ask
from evaluation.checkpoints import Checkpoint
from evaluation.judges import EmbeddingJudge
from evaluation.kept import Kept
from evaluation.plots import Shown
from evaluation.predictions import Predictions
from evaluation.report import Part
from evaluation.samples import (
    Sample,
    Unjudged,
    classes_of_options,
    count_unjudged,
    judge_samples,
    references_of,
    shares_of,
)
from groups import Group
from ranks import World
from settings import EvaluationSettings
from utils import log

SHOWN_QUANTILES = (0.1, 0.4, 0.7, 0.95)  # of the prompts that are drawn, by their majority's share


class PromptMetrics(NamedTuple):
    """The metrics of one checkpoint on one prompt, by the names of report.json; None: not applicable."""

    js_distance_probability: float
    class_mass: float  # of all belief classes together, over the whole vocabulary
    js_distance_sampling: float | None = None  # this and what follows: None without samples
    js_distance_floor: float | None = None
    majority_share: float | None = None
    cbc: float | None = None  # None also where a belief is a class token alone: nothing to agree with
    bpc: float | None = None  # this and rs: None also where the prompt has no reference answers
    rs: float | None = None


class BeliefResult(NamedTuple):
    """What the evaluation of one checkpoint on P prompts gives."""

    summaries: dict[str, metrics.Summary]
    predictions: list[dict[str, object]]  # lines of predictions.jsonl
    q: np.ndarray  # (P, C) normalised over the belief classes
    unjudged: Unjudged


def evaluate_beliefs(
    checkpoints: Sequence[Checkpoint],
    groups: Sequence[Group],
    settings: EvaluationSettings,
    world: World,
    kept: Kept,
    predictions: Predictions,
) -> Part | None:
    """The metrics of every checkpoint, side by side; None on other ranks than the main one.

    Ranks share the model's work; the main one judges. What a checkpoint answered is in `kept` from then on.
    Raises UserError where a checkpoint or the embedder cannot be loaded.
    """
    judge = EmbeddingJudge(settings.embedder) if world.is_main else None
    results: dict[str, BeliefResult] = {}
    for checkpoint in checkpoints:
        log.info(
            "evaluating %s on %d prompts, %d samples each", checkpoint.name, len(groups), settings.n_samples
        )
        answers = ask(checkpoint, groups, settings, world, kept, predictions)
        if judge is not None:
            results[checkpoint.name] = measure(
                checkpoint.name, groups, answers, settings.belief_classes, judge, predictions
            )
    if judge is None:
        return None
    return part_of(groups, results, settings, judge.name)


# --- measures -----------------------------------------------------------------------------------------------


def measure(
    name: str,
    groups: Sequence[Group],
    answers: Answers,
    classes: Sequence[str],
    judge: EmbeddingJudge,
    made: Predictions,
) -> BeliefResult:
    """Metrics, predictions and counts of one checkpoint's answers."""
    of_prompts: list[PromptMetrics] = []
    samples: list[list[Sample]] = []
    predictions: list[dict[str, object]] = []
    all_probs = answers.class_probs
    if all_probs is None:
        all_probs = np.full((len(groups), len(classes)), 1 / len(classes))
    for i, (group, class_probs) in enumerate(zip(groups, all_probs)):
        texts = [w.text for of_decoding in answers.written.values() for w in of_decoding[i]]
        of_prompt = judge_samples(group, texts, classes, judge)
        of_prompts.append(measure_prompt(group, class_probs, of_prompt, classes))
        samples.append(of_prompt)
        names = [(d, number) for d, of in answers.written.items() for number in range(len(of[i]))]
        for (decoding, number), sample in zip(names, of_prompt):
            line = made.line_of(name, group, decoding, number)
            predictions.append({**line, **_prediction(name, group, sample)})
    unjudged = count_unjudged(groups, samples, classes)
    log.info("%s: %s", name, json.dumps(unjudged._asdict()))
    q = all_probs / all_probs.sum(1, keepdims=True)
    return BeliefResult(summaries_of(of_prompts, groups), predictions, q, unjudged)


def measure_prompt(
    group: Group, class_probs: np.ndarray, samples: Sequence[Sample], classes: Sequence[str]
) -> PromptMetrics:
    """The metrics of one prompt: class_probs (C,) and sampled responses against the group's p*.

    A sample without a class label counts as "don't know", where there is such a class. One that cannot be
    judged is not consistent: it counts in the means of CBC, BPC and RS, as 0.
    """
    p = group.belief_probs
    of_model = PromptMetrics(float(metrics.js_distance(p, class_probs)), float(class_probs.sum()))
    if not samples:
        return of_model
    shares, counted = shares_of(group, samples, classes)
    if counted:
        of_model = of_model._replace(
            js_distance_sampling=float(metrics.js_distance(p, shares)),
            js_distance_floor=metrics.js_distance_floor(p, counted),
            majority_share=metrics.majority_share(shares, p),
        )
    if classes_of_options(group):
        of_model = of_model._replace(cbc=_share_of_true(s.class_consistent for s in samples))
    if references_of(group):
        of_model = of_model._replace(
            bpc=_share_of_true(s.verdict.consistent for s in samples),
            rs=sum(s.verdict.similarity for s in samples) / len(samples),
        )
    return of_model


def _share_of_true(verdicts: Iterable[bool | None]) -> float:
    """The share of Yes among all, those without a verdict included."""
    answers = [verdict is True for verdict in verdicts]
    return sum(answers) / len(answers)


def summaries_of(of_prompts: Sequence[PromptMetrics], groups: Sequence[Group]) -> dict[str, metrics.Summary]:
    """Means with intervals over questions, of the metrics that any prompt has."""
    summaries = {}
    for name, column in zip(PromptMetrics._fields, zip(*of_prompts)):
        held = [(value, group) for value, group in zip(column, groups) if value is not None]
        if held:
            values, members = zip(*held)
            summaries[name] = _summary(values, members)
    return summaries


def _summary(values: Sequence[float], groups: Sequence[Group]) -> metrics.Summary:
    """The mean of one value a prompt, by the prompts' weights, with an interval over questions."""
    questions, weights = zip(*[(group.question, group.weight) for group in groups])
    return metrics.summarize(values, clusters=questions, weights=weights)


def _prediction(checkpoint: str, group: Group, sample: Sample) -> dict[str, object]:
    similarity = sample.verdict.similarity
    return {
        "checkpoint": checkpoint,
        "id": group.id,
        "prompt": group.prompt,
        "response": sample.text,
        "class": sample.parsed.label,
        "belief": sample.parsed.belief,
        "answer": sample.parsed.answer,
        "class_belief_consistent": sample.class_consistent,
        "belief_answer_consistent": sample.verdict.consistent,
        "similarity": None if similarity is None else round(similarity, 4),
    }


# --- what the report says -----------------------------------------------------------------------------------


def part_of(
    groups: Sequence[Group],
    results: Mapping[str, BeliefResult],
    settings: EvaluationSettings,
    embedder: str,
) -> Part:
    """All results with what guessing gets, and how they were made."""
    summaries = {name: result.summaries for name, result in results.items()}
    facts = {
        "temperature": settings.temperature,
        "max_new_tokens": settings.max_new_tokens,
        "unjudged": {name: result.unjudged._asdict() for name, result in results.items()},
        "judge": f"nearest reference answer of the stated option ({embedder})",
        "embedder": embedder,
        "js_distance": "Jensen-Shannon distance, natural log, at most 0.8326",
    }
    return Part(
        results={**summaries, **reference_rows(groups, settings.belief_classes)},
        facts=facts,
        predictions=[line for result in results.values() for line in result.predictions],
        shown=[_shown(i, groups[i], results, settings.belief_classes) for i in prompts_to_show(groups)],
    )


def reference_rows(groups: Sequence[Group], classes: Sequence[str]) -> dict[str, dict[str, metrics.Summary]]:
    """What guessing gets: equal shares for a prompt's own options, and all mass on the majority."""
    p = np.asarray([group.belief_probs for group in groups])  # (P, C)
    offered = np.asarray([_offered(group, classes) for group in groups], float)
    guesses = {"(uniform over options)": offered, "(majority only)": np.eye(p.shape[1])[p.argmax(1)]}
    rows = {}
    for name, q in guesses.items():
        rows[name] = {"js_distance_probability": _summary(metrics.js_distance(p, q), groups)}
    return rows


def _offered(group: Group, classes: Sequence[str]) -> list[bool]:
    """Which of the classes are options of this prompt; one that the group holds is, without an answer too."""
    labels = {response.belief.label for response in group.responses}
    return [label in labels or share > 0 for label, share in zip(classes, group.belief_probs)]


def prompts_to_show(groups: Sequence[Group]) -> list[int]:
    """Prompts to draw: some from split to unanimous groups, or all where there are few."""
    order = sorted(range(len(groups)), key=lambda i: max(groups[i].belief_probs))
    if len(order) <= 4:
        return order
    chosen = [order[int(quantile * (len(order) - 1))] for quantile in SHOWN_QUANTILES]
    return list(dict.fromkeys(chosen))  # few prompts: one may be chosen twice


def _shown(number: int, group: Group, results: Mapping[str, BeliefResult], classes: Sequence[str]) -> Shown:
    """The distributions of one prompt over the classes that it offers: the group's and each checkpoint's."""
    columns = [column for column, offered in enumerate(_offered(group, classes)) if offered]
    distributions = {"group": [group.belief_probs[column] for column in columns]}
    for name, result in results.items():
        distributions[name] = [result.q[number][column] for column in columns]
    prompt = group.prompt if isinstance(group.prompt, str) else group.prompt[-1]["content"]
    return Shown(prompt, [_words_of(group, classes[column]) for column in columns], distributions)


def _words_of(group: Group, label: str) -> str:
    """The words of a class's options, or its label where they have none."""
    words = [option for option, of_option in classes_of_options(group).items() if of_option == label]
    return " / ".join(words) or label
