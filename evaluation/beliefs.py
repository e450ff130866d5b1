"""The GDPO paper's metrics of checkpoints on data with p*: JSD, CBC, BPC, RS, the majority share, and beside
them the Wasserstein distance on ordinal classes.

Contract: checkpoints and groups go in, a `Part` of the report comes out, on the main rank alone. What cannot
be judged is counted, and the counts stand in the report.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import groups as data
import metrics
from evaluation import belief_metrics, differences, shown
from evaluation.answers import Answers, ask
from evaluation.belief_metrics import FLOORS, PromptMetrics
from evaluation.by_group import compare_groups, gains_of
from evaluation.checkpoints import Checkpoint
from evaluation.judges import make_judges
from evaluation.kept import Kept
from evaluation.kinds import BELIEFS
from evaluation.options import OptionMap
from evaluation.predictions import Predictions
from evaluation.report import Part
from evaluation.samples import (
    Rules,
    Sample,
    Unjudged,
    add_unjudged,
    count_unjudged,
    fields_of,
    judge_all,
    shares_of,
)
from generation import Written, decodings_of
from groups import Group
from ranks import World
from settings import EvaluationSettings, names_of
from utils import log

Line = dict[str, object]  # of predictions.jsonl
LineOf = Callable[[Group, str, int], Line]  # a response's line, by its prompt, decoding and number


class BeliefResult(NamedTuple):
    """What the evaluation of one checkpoint on P prompts gives."""

    of_prompts: list[PromptMetrics]  # averaged over decodings
    by_decoding: dict[str, list[PromptMetrics]]
    predictions: list[Line]
    q: list[
        Sequence[float] | None
    ]  # (P, C) for the page, normalised over the belief classes; None: not known
    unjudged: dict[str, Unjudged]  # by decoding
    is_sampled: bool  # q is the shares of samples: there are no class probabilities


def evaluate_beliefs(
    checkpoints: Sequence[Checkpoint],
    groups: Sequence[Group],
    settings: EvaluationSettings,
    world: World,
    kept: Kept,
    predictions: Predictions,
) -> Part | None:
    """The metrics of every checkpoint, side by side; None on other ranks than the main one.

    Ranks share the model's work; the main one judges. What a checkpoint answered is in `kept` and
    `predictions` from then on. Raises UserError where a checkpoint, the option map, or a judge cannot be
    loaded.
    """
    rules = rules_of(settings) if world.is_main else None
    results: dict[str, BeliefResult] = {}
    for checkpoint in checkpoints:
        log.info(
            "evaluating %s on %d prompts, %d samples each", checkpoint.name, len(groups), settings.n_samples
        )
        answers = ask(checkpoint, groups, settings, world, kept, predictions)
        if rules is not None:

            def line_of(group: Group, decoding: str, number: int, name: str = checkpoint.name) -> Line:
                return predictions.line_of(name, group, decoding, number)

            results[checkpoint.name] = measure(checkpoint.name, groups, answers, rules, line_of)
    return None if rules is None else part_of(groups, results, settings, rules)


def rules_of(settings: EvaluationSettings) -> Rules:
    """The judges and the option map of an evaluation. Raises UserError for what cannot be loaded."""
    option_map = option_map_of(settings)
    judges = make_judges(settings)
    gives_scores = judges.belief is None  # a chat model is asked for Yes or No instead
    return Rules(
        settings.belief_classes,
        judges.embedding,
        judges.belief,
        judges.score if gives_scores else None,
        option_map,
    )


def option_map_of(settings: EvaluationSettings) -> OptionMap:
    """The user's map of options; none where there is none. Raises UserError for a file that is none."""
    if settings.option_map is None:
        return {}
    return data.read_option_map(settings.option_map, settings.belief_classes)


# --- measures -----------------------------------------------------------------------------------------------


def measure(
    name: str, groups: Sequence[Group], answers: Answers, rules: Rules, line_of: LineOf
) -> BeliefResult:
    """Metrics, predictions and counts of one checkpoint's answers, which judges see all at once."""
    judged = _judged(groups, answers.written, rules)
    of_classes = _of_classes(groups, answers, rules)
    by_decoding: dict[str, list[PromptMetrics]] = {}
    for decoding, samples in judged.items():
        of_samples = []
        for group, of_prompt in zip(groups, samples):
            of_samples.append(belief_metrics.of_samples(group, of_prompt, rules.classes))
        by_decoding[decoding] = of_samples
    of_prompts = []
    for parts in zip(of_classes, *by_decoding.values()):
        of_prompts.append(belief_metrics.together(parts))
    unjudged = {
        decoding: count_unjudged(groups, samples, rules.classes, rules.score is not None)
        for decoding, samples in judged.items()
    }
    if unjudged:
        log.info("%s: %s", name, json.dumps(add_unjudged(unjudged.values())._asdict()))
    q = [_distribution_of(i, group, answers, judged, rules) for i, group in enumerate(groups)]
    is_sampled = answers.class_probs is None
    return BeliefResult(of_prompts, by_decoding, _lines(groups, judged, line_of), q, unjudged, is_sampled)


def _judged(
    groups: Sequence[Group], written: Mapping[str, Sequence[Sequence[Written]]], rules: Rules
) -> dict[str, list[list[Sample]]]:
    """The samples of every decoding, judged in one go."""
    all_groups: list[Group] = []
    all_texts: list[list[str]] = []
    for of_prompts in written.values():
        all_groups += groups
        all_texts += [[response.text for response in of_prompt] for of_prompt in of_prompts]
    samples = judge_all(all_groups, all_texts, rules)
    return {decoding: samples[i * len(groups) : (i + 1) * len(groups)] for i, decoding in enumerate(written)}


def _of_classes(groups: Sequence[Group], answers: Answers, rules: Rules) -> list[PromptMetrics]:
    """The metrics of the class probabilities; none of an API without them."""
    if answers.class_probs is None:
        return [PromptMetrics()] * len(groups)
    measured = []
    for group, class_probs in zip(groups, answers.class_probs):
        measured.append(belief_metrics.of_probabilities(group, class_probs, rules.classes))
    return measured


def _distribution_of(
    number: int,
    group: Group,
    answers: Answers,
    judged: Mapping[str, Sequence[Sequence[Sample]]],
    rules: Rules,
) -> Sequence[float] | None:
    """The distribution of a checkpoint on one prompt: its class probabilities, else the sampled shares."""
    if answers.class_probs is not None and answers.class_probs[number].sum() > 0:
        return (answers.class_probs[number] / answers.class_probs[number].sum()).tolist()
    samples = [sample for of_decoding in judged.values() for sample in of_decoding[number]]
    shares, counted = shares_of(group, samples, rules.classes)
    return shares.tolist() if counted else None


def _lines(
    groups: Sequence[Group], judged: Mapping[str, Sequence[Sequence[Sample]]], line_of: LineOf
) -> list[Line]:
    """The lines of all responses: prompt by prompt, what was written and what is said of it."""
    lines = []
    for i, group in enumerate(groups):
        for decoding, samples in judged.items():
            for number, sample in enumerate(samples[i]):
                lines.append({**line_of(group, decoding, number), **fields_of(sample)})
    return lines


# --- what the report says -----------------------------------------------------------------------------------


def part_of(
    groups: Sequence[Group], results: Mapping[str, BeliefResult], settings: EvaluationSettings, rules: Rules
) -> Part:
    """All results with what guessing gets, how checkpoints differ, and how they were made."""
    rows: dict[str, dict[str, metrics.Summary]] = {}
    unjudged: dict[str, dict[str, int]] = {}
    for name, result in results.items():
        rows[name] = belief_metrics.summaries_of(result.of_prompts, groups)
        unjudged[name] = add_unjudged(result.unjudged.values())._asdict() if result.unjudged else {}
        if len(result.by_decoding) > 1 and settings.n_samples:
            for decoding, of_prompts in result.by_decoding.items():
                of_decoding = f"{name} ({decoding})"
                rows[of_decoding] = belief_metrics.summaries_of(of_prompts, groups)
                unjudged[of_decoding] = result.unjudged[decoding]._asdict()
    guesses = belief_metrics.reference_rows(groups, settings.belief_classes, settings.n_samples)
    q = {name: result.q for name, result in results.items()}
    sampled = [name for name, result in results.items() if result.is_sampled]
    return Part(
        results={**rows, **guesses},
        facts=_facts_of(settings, rules, unjudged),
        predictions=[line for result in results.values() for line in result.predictions],
        shares=shown.shares_of_prompts(groups, q, settings.belief_classes, sampled),
        differences=_differences_of(groups, results),
        by_prompt=[
            line
            for name, result in results.items()
            for line in _values(name, groups, result, settings.belief_classes)
        ],
        groups=compare_groups(
            groups,
            {name: result.of_prompts for name, result in results.items()},
            q,
            settings.belief_classes,
            names_of(settings.eval_groups or []),
        ),
    )


def _values(name: str, groups: Sequence[Group], result: BeliefResult, classes: Sequence[str]) -> list[Line]:
    """The lines of by_prompt.jsonl: one checkpoint's metrics, without those that do not apply to a prompt.

    `steering` is what the name of the prompt's own group is worth, see `by_group`.
    """
    lines = []
    gains = gains_of(groups, result.q, classes)
    for place, (group, measured) in enumerate(zip(groups, result.of_prompts)):
        known = {metric: value for metric, value in measured._asdict().items() if value is not None}
        if place in gains:
            known["steering"] = gains[place]
        of_group = {"id": group.id, "dataset": group.dataset, "question": group.question}
        if group.people:
            of_group["group"] = group.people
        lines.append({"checkpoint": name, **of_group, "weight": group.weight, **known})
    return lines


def _facts_of(
    settings: EvaluationSettings, rules: Rules, unjudged: Mapping[str, Mapping[str, int]]
) -> dict[str, object]:
    """How the measures were made."""
    judge = rules.belief.name if rules.belief else f"nearest reference answer ({rules.embedding.name})"
    facts = {
        "temperature": settings.temperature,
        "decoding": [d.name for d in decodings_of(settings.decoding, settings.temperature)],
        "generator": settings.generator,
        "max_new_tokens": settings.max_new_tokens,
        "unjudged": unjudged,
        "judge": judge,
        "judges": rules.judge_names(),
        "embedder": rules.embedding.name,
        "option_map": settings.option_map,
        "js_distance": "Jensen-Shannon distance, natural log, at most 0.8326",
    }
    asked = rules.belief or rules.score
    return {**facts, "judge_counts": dict(asked.counts())} if asked else facts


def _differences_of(
    groups: Sequence[Group], results: Mapping[str, BeliefResult]
) -> list[differences.Difference]:
    """Of all metrics but the floors, which are of the data."""
    by_checkpoint = {}
    for name, result in results.items():
        columns = belief_metrics.by_prompt(result.of_prompts)
        by_checkpoint[name] = {metric: held for metric, held in columns.items() if metric not in FLOORS}
    return differences.of_means(by_checkpoint, groups, BELIEFS)
