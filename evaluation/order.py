"""How the implied rewards of checkpoints order the given responses of each prompt, against their rewards.

Contract: checkpoints and groups with rewards go in, a `Report` comes out, on the main rank alone. The
reference of a run is what it started from; a checkpoint that belongs to no run has none, and gets log-probs
alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from tqdm import tqdm

import groups as data
import metrics
import models
import ranks
import schedule
from evaluation.checkpoints import Checkpoint, starting_weights
from evaluation.policies import limits_of, load
from evaluation.report import Report
from forest import Pack, TokenTree, tree_tokens
from groups import Group
from losses import Scores
from ranks import World
from schedule import Packing
from settings import EvaluationSettings
from utils import log

PACK_TOKENS = 2048  # of a forward pass, where no tree is larger
ORDER_METRICS = {  # the training log's names, and the report's
    "rewards_{}/accuracies": "pair_accuracy",
    "rewards_{}/set_accuracies": "set_accuracy",
    "rewards_{}/kendall_tau": "kendall_tau",
    "rewards_{}/negative_mass": "negative_mass",
    "rewards_{}/margins": "margin",
    "kl_reference_{}": "kl_reference",
    "logps_{}/chosen": "logp_best",
    "logps_{}/rejected": "logp_others",
}

Logps = list[float]  # of one example's answers, summed over tokens, in nats
References = dict[str, list[Logps]]  # by source: runs that are compared often started from one model


class PackScores(NamedTuple):
    """The scores of one pack, in the CPU's memory."""

    examples: list[int]  # their numbers, in the order of the tables' rows
    scores: Scores


class OrderResult(NamedTuple):
    """What the evaluation of one checkpoint gives."""

    summaries: dict[str, metrics.Summary]
    predictions: list[dict[str, object]]  # lines of predictions.jsonl


def evaluate_order(
    checkpoints: Sequence[Checkpoint], groups: Sequence[Group], settings: EvaluationSettings, world: World
) -> Report | None:
    """The order metrics of every checkpoint, side by side; None on other ranks than the main one.

    Ranks share the model's work. Raises UserError where a checkpoint cannot be loaded.
    """
    references: References = {}
    results: dict[str, OrderResult] = {}
    for checkpoint in checkpoints:
        log.info("evaluating %s on %d prompts", checkpoint.name, len(groups))
        results[checkpoint.name] = measure(checkpoint, groups, settings, references, world)
    return report_of(checkpoints, groups, results, settings) if world.is_main else None


def measure(
    checkpoint: Checkpoint,
    groups: Sequence[Group],
    settings: EvaluationSettings,
    references: References,
    world: World,
) -> OrderResult:
    """Score one checkpoint. What its reference gives is added to `references`, where it is not there yet."""
    policy, tokenizer = load(checkpoint, world, settings.shard)
    examples, limits = data.view(groups, "ranked"), limits_of(settings)
    trees = data.tokenize(groups, examples, tokenizer, limits, settings.belief_classes)
    pad_id = tokenizer.pad_token_id
    if checkpoint.run:
        starting = starting_weights(checkpoint)
        if starting.source not in references:
            reference, _ = load(starting, world, settings.shard)
            references[starting.source] = answer_logps(reference, trees, pad_id, world)
        logps = references[starting.source]
        trees = [tree._replace(reference=tuple(of_tree)) for tree, of_tree in zip(trees, logps)]
    packs = score_trees(policy, trees, pad_id, checkpoint.name, world)
    predictions = predictions_of(checkpoint.name, groups, trees, packs)
    return OrderResult(summaries_of(packs, checkpoint.beta), predictions)


# --- scores -------------------------------------------------------------------------------------------------


@torch.no_grad()
def score_trees(
    policy: models.Scorer, trees: Sequence[TokenTree], pad_id: int, name: str, world: World
) -> list[PackScores]:
    """The scores of every pack of the trees. name: of the checkpoint, for the progress bar."""
    largest = max(PACK_TOKENS, *(tree_tokens([tree]) for tree in trees))
    packing = Packing(max_tokens=largest, row_tokens=largest, pad_id=pad_id)
    # planned as for one rank, so that the numbers do not depend on how many there are
    packs = schedule.plan_step(trees, range(len(trees)), packing, world_size=1)
    device = models.device_of(policy)
    with tqdm(total=len(trees), desc=f"scoring {name}", unit="prompt", disable=not world.is_main) as bar:

        def score_pack(rows: Pack) -> PackScores:
            members = [i for row in rows for i in row]
            scores = models.score(policy, schedule.batch_of(trees, rows, packing).to(device))
            bar.update(len(members) * world.size)
            return PackScores(members, _on_cpu(scores))

        return ranks.spread(packs, score_pack, world)


def _on_cpu(scores: Scores) -> Scores:
    return Scores(*(table.cpu() if table is not None else None for table in scores))


def answer_logps(policy: models.Scorer, trees: Sequence[TokenTree], pad_id: int, world: World) -> list[Logps]:
    """The log-probs of every tree's answers under the reference."""
    logps: list[Logps] = [[] for _ in trees]
    for pack in score_trees(policy, trees, pad_id, "reference", world):
        for i, row in zip(pack.examples, pack.scores.policy.tolist()):
            logps[i] = row[: len(trees[i].answers)]
    return logps


# --- measures -----------------------------------------------------------------------------------------------


def summaries_of(packs: Iterable[PackScores], beta: float) -> dict[str, metrics.Summary]:
    """Means with intervals, of the metrics that any example has. beta: of the implied rewards."""
    columns: dict[str, list[float]] = {name: [] for name in ORDER_METRICS.values()}
    for pack in packs:
        no_losses = torch.zeros(len(pack.examples))
        no_beliefs = torch.full((len(pack.examples),), -1)
        of_examples = metrics.example_metrics(pack.scores, no_losses, no_beliefs, beta)
        for log_name, name in ORDER_METRICS.items():
            values, mask = of_examples[log_name]
            columns[name] += values[mask].tolist()
    return {name: metrics.summarize(values) for name, values in columns.items() if values}


def predictions_of(
    name: str, groups: Sequence[Group], trees: Sequence[TokenTree], packs: Iterable[PackScores]
) -> list[dict[str, object]]:
    """The log-probs of every example's answers, best answer first. name: of the checkpoint."""
    predictions = []
    for pack in packs:
        for i, logps in zip(pack.examples, pack.scores.policy.tolist()):
            tree = trees[i]
            prediction = {
                "checkpoint": name,
                "id": groups[tree.group].id,
                "rewards": tree.rewards,
                "logps": logps[: len(tree.answers)],
                "reference_logps": tree.reference,
            }
            predictions.append(prediction)
    return predictions


def report_of(
    checkpoints: Sequence[Checkpoint],
    groups: Sequence[Group],
    results: Mapping[str, OrderResult],
    settings: EvaluationSettings,
) -> Report:
    """All results, and how they were made."""
    predictions: list[dict[str, object]] = []
    for result in results.values():
        predictions += result.predictions
    facts = {
        "datasets": settings.datasets,
        "split": settings.split,
        "seed": settings.seed,
        "few_shot": settings.few_shot,
        "n_samples": 0,
        "prompts": len(groups),
        "beta": {checkpoint.name: checkpoint.beta for checkpoint in checkpoints},
        "sources": {checkpoint.name: checkpoint.source for checkpoint in checkpoints},
        **models.versions(),
    }
    return Report(
        results={name: result.summaries for name, result in results.items()},
        facts=facts,
        predictions=predictions,
        shown=(),
        scope=f"{len(groups)} prompts of {', '.join(settings.datasets)} ({settings.split})",
    )
