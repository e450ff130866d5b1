"""The GDPO paper's metrics of checkpoints on data with p*: JSD, CBC, BPC, RS and the majority share.

Contract: checkpoints and groups go in, a `Report` comes out, on the main rank alone. What cannot be judged is
counted, and the counts stand in the report.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

import metrics
import models
from evaluation.answers import Answers, ask
from evaluation.checkpoints import Checkpoint
from evaluation.judges import EmbeddingJudge, Verdict
from evaluation.plots import Shown
from evaluation.report import Report
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
    bpc: float | None = None
    rs: float | None = None


class Sample(NamedTuple):
    """One sampled response, and what is said of it."""

    text: str
    parsed: metrics.Parsed
    class_consistent: bool | None  # None: its belief is no known option
    verdict: Verdict


class Unjudged(NamedTuple):
    """How many of one checkpoint's samples could not be judged, by the names of report.json."""

    samples: int
    without_class_label: int
    without_known_option: int


class BeliefResult(NamedTuple):
    """What the evaluation of one checkpoint on P prompts gives."""

    summaries: dict[str, metrics.Summary]
    predictions: list[dict[str, object]]  # lines of predictions.jsonl
    q: np.ndarray  # (P, C) normalised over the belief classes
    unjudged: Unjudged


def evaluate_beliefs(
    checkpoints: Sequence[Checkpoint], groups: Sequence[Group], settings: EvaluationSettings, world: World
) -> Report | None:
    """The metrics of every checkpoint, side by side; None on other ranks than the main one.

    Ranks share the model's work; the main one judges. Raises UserError where a checkpoint or the embedder
    cannot be loaded.
    """
    judge = EmbeddingJudge(settings.embedder) if world.is_main else None
    results: dict[str, BeliefResult] = {}
    for checkpoint in checkpoints:
        log.info(
            "evaluating %s on %d prompts, %d samples each", checkpoint.name, len(groups), settings.n_samples
        )
        answers = ask(checkpoint, groups, settings, world)
        if judge is not None:
            results[checkpoint.name] = measure(
                checkpoint.name, groups, answers, settings.belief_classes, judge
            )
    if judge is None:
        return None
    return report_of(checkpoints, groups, results, settings, judge.name)


# --- measures -----------------------------------------------------------------------------------------------


def measure(
    name: str, groups: Sequence[Group], answers: Answers, classes: Sequence[str], judge: EmbeddingJudge
) -> BeliefResult:
    """Metrics, predictions and counts of one checkpoint's answers."""
    of_prompts: list[PromptMetrics] = []
    samples: list[Sample] = []
    predictions: list[dict[str, object]] = []
    for group, class_probs, texts in zip(groups, answers.class_probs, answers.texts):
        of_prompt = judge_samples(group, texts, classes, judge)
        of_prompts.append(measure_prompt(group, class_probs, of_prompt, classes))
        samples += of_prompt
        predictions += [_prediction(name, group, sample) for sample in of_prompt]
    unjudged = count_unjudged(samples)
    log.info("%s: %s", name, json.dumps(unjudged._asdict()))
    q = answers.class_probs / answers.class_probs.sum(1, keepdims=True)
    return BeliefResult(summaries_of(of_prompts), predictions, q, unjudged)


def judge_samples(
    group: Group, texts: Sequence[str], classes: Sequence[str], judge: EmbeddingJudge
) -> list[Sample]:
    """Take the sampled responses to one prompt apart and judge them."""
    parsed = [metrics.parse_response(text, classes) for text in texts]
    class_of_option = _class_of_option(group)
    consistent = [metrics.class_belief_consistent(response, class_of_option) for response in parsed]
    references = {response.belief.label: response.text for response in group.responses}
    verdicts = judge.verdicts(
        [response.answer for response in parsed],
        [response.label for response in parsed],
        [references] * len(parsed),
    )
    return list(map(Sample, texts, parsed, consistent, verdicts))


def _class_of_option(group: Group) -> dict[str, str]:
    """The class label of every option's words; without beliefs that are a class token alone."""
    beliefs = [response.belief for response in group.responses]
    return {belief.text: belief.label for belief in beliefs if belief.text}


def measure_prompt(
    group: Group, class_probs: np.ndarray, samples: Sequence[Sample], classes: Sequence[str]
) -> PromptMetrics:
    """The metrics of one prompt: class_probs (C,) and sampled responses against the group's p*.

    A sample without a class label counts as the first class.
    """
    p = group.belief_probs
    distance = float(metrics.js_distance(p, class_probs))
    mass = float(class_probs.sum())
    if not samples:
        return PromptMetrics(distance, mass)
    shares = metrics.class_shares([sample.parsed for sample in samples], classes, classes[0])
    return PromptMetrics(
        js_distance_probability=distance,
        class_mass=mass,
        js_distance_sampling=float(metrics.js_distance(p, shares)),
        js_distance_floor=metrics.js_distance_floor(p, len(samples)),
        majority_share=metrics.majority_share(shares, p),
        cbc=_share_of_true(s.class_consistent for s in samples) if _class_of_option(group) else None,
        bpc=_share_of_true(s.verdict.consistent for s in samples),
        rs=sum(s.verdict.similarity for s in samples) / len(samples),
    )


def _share_of_true(verdicts: Iterable[bool | None]) -> float:
    """The share of Yes among all, those without a verdict included."""
    answers = [verdict is True for verdict in verdicts]
    return sum(answers) / len(answers)


def summaries_of(of_prompts: Sequence[PromptMetrics]) -> dict[str, metrics.Summary]:
    """Means with intervals, of the metrics that any prompt has."""
    summaries = {}
    for name, column in zip(PromptMetrics._fields, zip(*of_prompts)):
        values = [value for value in column if value is not None]
        if values:
            summaries[name] = metrics.summarize(values)
    return summaries


def count_unjudged(samples: Sequence[Sample]) -> Unjudged:
    """How many samples have no class label, and how many name no known option."""
    return Unjudged(
        samples=len(samples),
        without_class_label=sum(sample.parsed.label is None for sample in samples),
        without_known_option=sum(sample.class_consistent is None for sample in samples),
    )


def _prediction(checkpoint: str, group: Group, sample: Sample) -> dict[str, object]:
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
        "similarity": round(sample.verdict.similarity, 4),
    }


# --- what the report says -----------------------------------------------------------------------------------


def report_of(
    checkpoints: Sequence[Checkpoint],
    groups: Sequence[Group],
    results: Mapping[str, BeliefResult],
    settings: EvaluationSettings,
    embedder: str,
) -> Report:
    """All results with what guessing gets, and how they were made."""
    summaries = {name: result.summaries for name, result in results.items()}
    predictions: list[dict[str, object]] = []
    for result in results.values():
        predictions += result.predictions
    facts = {
        "datasets": settings.datasets,
        "split": settings.split,
        "n_samples": settings.n_samples,
        "temperature": settings.temperature,
        "max_new_tokens": settings.max_new_tokens,
        "seed": settings.seed,
        "few_shot": settings.few_shot,
        "unjudged": {name: result.unjudged._asdict() for name, result in results.items()},
        "prompts": len(groups),
        "judge": f"nearest reference answer ({embedder})",
        "embedder": embedder,
        "js_distance": "Jensen-Shannon distance, natural log, at most 0.8326",
        "sources": {checkpoint.name: checkpoint.source for checkpoint in checkpoints},
        **models.versions(),
    }
    shown = [_shown(i, groups[i], results, settings.belief_classes) for i in prompts_to_show(groups)]
    prompts = f"{len(groups)} prompts of {', '.join(settings.datasets)} ({settings.split})"
    return Report(
        results={**summaries, **reference_rows(groups, settings.belief_classes)},
        facts=facts,
        predictions=predictions,
        shown=shown,
        scope=f"{prompts}, {settings.n_samples} samples each",
    )


def reference_rows(groups: Sequence[Group], classes: Sequence[str]) -> dict[str, dict[str, metrics.Summary]]:
    """What guessing gets: equal shares for a prompt's own options, and all mass on the majority."""
    p = np.asarray([group.belief_probs for group in groups])  # (P, C)
    offered = np.asarray([_offered(group, classes) for group in groups], float)
    guesses = {"(uniform over options)": offered, "(majority only)": np.eye(p.shape[1])[p.argmax(1)]}
    rows = {}
    for name, q in guesses.items():
        rows[name] = {"js_distance_probability": metrics.summarize(metrics.js_distance(p, q))}
    return rows


def _offered(group: Group, classes: Sequence[str]) -> list[bool]:
    """Which of the classes are options of this prompt."""
    labels = {response.belief.label for response in group.responses}
    return [label in labels for label in classes]


def prompts_to_show(groups: Sequence[Group]) -> list[int]:
    """Prompts to draw: some from split to unanimous groups, or all where there are few."""
    order = sorted(range(len(groups)), key=lambda i: max(groups[i].belief_probs))
    if len(order) <= 4:
        return order
    chosen = [order[int(quantile * (len(order) - 1))] for quantile in SHOWN_QUANTILES]
    return list(dict.fromkeys(chosen))  # few prompts: one may be chosen twice


def _shown(number: int, group: Group, results: Mapping[str, BeliefResult], classes: Sequence[str]) -> Shown:
    """The distributions of one prompt over its options: the group's and each checkpoint's."""
    beliefs = [response.belief for response in group.responses]
    columns = [classes.index(belief.label) for belief in beliefs]
    distributions = {"group": [group.belief_probs[column] for column in columns]}
    for name, result in results.items():
        distributions[name] = [result.q[number][column] for column in columns]
    prompt = group.prompt if isinstance(group.prompt, str) else group.prompt[-1]["content"]
    return Shown(prompt, [belief.text or belief.label for belief in beliefs], distributions)
