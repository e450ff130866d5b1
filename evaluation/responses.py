"""What checkpoints make of the responses that the data gives: each prompt is measured as its kind is.

Contract: checkpoints and prompts go in, a `Part` of the report comes out, on the main rank alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import metrics
from evaluation import likelihood, order, unpaired
from evaluation.checkpoints import Checkpoint
from evaluation.differences import Difference, lines_of, of_means
from evaluation.kept import Kept
from evaluation.kinds import LABELS, PREFERENCE, TARGET, examples_of, kind_of
from evaluation.report import Part
from evaluation.scoring import References, Scored, score_examples
from groups import Group
from ranks import World
from settings import EvaluationSettings
from utils import log


def evaluate_responses(
    checkpoints: Sequence[Checkpoint],
    groups: Sequence[Group],
    settings: EvaluationSettings,
    world: World,
    kept: Kept,
) -> Part | None:
    """The metrics of every checkpoint, side by side; None on other ranks than the main one.

    Ranks share the model's work. What a checkpoint was scored is in `kept` from then on. Raises UserError
    where a checkpoint cannot be loaded.
    """
    references: References = {}
    examples = examples_of(groups)
    results: dict[str, dict[str, metrics.Summary]] = {}
    measured: dict[str, ByKind] = {}
    predictions: list[dict[str, object]] = []
    for checkpoint in checkpoints:
        log.info("evaluating %s on %d prompts", checkpoint.name, len(groups))
        scored = score_examples(checkpoint, groups, examples, settings, references, world, kept)
        if world.is_main:
            of_kinds = measured[checkpoint.name] = by_kind(scored, groups)
            results[checkpoint.name] = measure(of_kinds, groups, checkpoint.beta)
            predictions += [_prediction(checkpoint.name, groups, example) for example in scored]
    if not world.is_main:
        return None
    betas = {checkpoint.name: checkpoint.beta for checkpoint in checkpoints}
    differences = differences_of(measured, groups, betas)
    by_prompt = []
    for name, of_kinds in measured.items():
        by_prompt += lines_of(name, groups, order.by_prompt(of_kinds[PREFERENCE], betas[name]))
    return Part(results, {"beta": betas}, predictions, differences=differences, by_prompt=by_prompt)


ByKind = Mapping[str, Sequence[Scored]]


def by_kind(scored: Sequence[Scored], groups: Sequence[Group]) -> ByKind:
    """The scored examples of the prompts of each kind."""
    of_kind: dict[str, list[Scored]] = {PREFERENCE: [], LABELS: [], TARGET: []}
    for example in scored:
        of_kind[kind_of(groups[example.tree.group])].append(example)
    return of_kind


def measure(of_kind: ByKind, groups: Sequence[Group], beta: float) -> dict[str, metrics.Summary]:
    """The metrics of one checkpoint, those of each kind on the prompts of that kind."""
    return {
        **order.summaries_of(of_kind[PREFERENCE], groups, beta),
        **unpaired.summaries_of(of_kind[LABELS], groups, beta),
        **likelihood.summaries_of(of_kind[TARGET], groups),
    }


def differences_of(
    measured: Mapping[str, ByKind], groups: Sequence[Group], betas: Mapping[str, float]
) -> list[Difference]:
    """How the checkpoints differ, on the prompts of each kind."""
    in_order = {name: order.by_prompt(of_kind[PREFERENCE], betas[name]) for name, of_kind in measured.items()}
    labelled = {name: (of_kind[LABELS], betas[name]) for name, of_kind in measured.items()}
    with_target = {name: of_kind[TARGET] for name, of_kind in measured.items()}
    return [
        *of_means(in_order, groups, PREFERENCE),
        *unpaired.differences_of(labelled, groups),
        *likelihood.differences_of(with_target, groups),
    ]


def _prediction(name: str, groups: Sequence[Group], example: Scored) -> dict[str, object]:
    """The log-probs of an example's answers, the preferred one first. name: of the checkpoint."""
    group = groups[example.tree.group]
    return {
        "checkpoint": name,
        "id": group.id,
        "rewards": example.tree.rewards,
        "labels": group.labels,
        "tokens": example.tokens,
        "logps": example.logps,
        "reference_logps": example.tree.reference,
        "made_by": example.made_by,
    }
