"""How the implied rewards of checkpoints order the given responses of each prompt, against the preference.

Contract: checkpoints and groups with rewards or pairs go in, a `Report` comes out, on the main rank alone.
The reference of a run is what it started from; a checkpoint that belongs to no run has none, and gets
log-probs alone.
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
from evaluation.checkpoints import Checkpoint, check_starting_weights, starting_weights
from evaluation.kept import Kept, identity
from evaluation.policies import limits_of, load
from evaluation.report import Report, scope_of
from forest import Pack, TokenTree, tree_tokens
from groups import Example, Group
from losses import Scores
from ranks import World
from schedule import Packing
from settings import EvaluationSettings, names_of
from utils import UserError, log

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
References = dict[str, "Reference"]  # by source: runs that are compared often started from one model


class Reference(NamedTuple):
    """What a run started from."""

    fingerprint: str  # of its weights
    logps: list[Logps]  # of every example's answers


class PackScores(NamedTuple):
    """The scores of one pack, in the CPU's memory."""

    examples: list[int]  # their numbers, in the order of the tables' rows
    scores: Scores


class OrderResult(NamedTuple):
    """What the evaluation of one checkpoint gives."""

    summaries: dict[str, metrics.Summary]
    predictions: list[dict[str, object]]  # lines of predictions.jsonl


def evaluate_order(
    checkpoints: Sequence[Checkpoint],
    groups: Sequence[Group],
    settings: EvaluationSettings,
    world: World,
    kept: Kept,
) -> Report | None:
    """The order metrics of every checkpoint, side by side; None on other ranks than the main one.

    Ranks share the model's work. What a checkpoint was scored is in `kept` from then on. Raises UserError
    where a checkpoint cannot be loaded.
    """
    references: References = {}
    results: dict[str, OrderResult] = {}
    for checkpoint in checkpoints:
        log.info("evaluating %s on %d prompts", checkpoint.name, len(groups))
        results[checkpoint.name] = measure(checkpoint, groups, settings, references, world, kept)
    return report_of(checkpoints, groups, results, settings) if world.is_main else None


def examples_of(groups: Sequence[Group]) -> list[Example]:
    """What is compared of each group, its preferred response first; groups without a preference have none.

    All responses of every prompt by their rewards, where all have some; else pairs, the data's own or best
    against worst; where there is neither, a prompt's response by itself. Raises UserError where some groups
    have a preference and others do not.
    """
    if all(_has_rewards(group) for group in groups):
        return data.view(groups, "ranked")
    bare = [group for group in groups if not (_has_rewards(group) or group.pairs)]
    if len(bare) == len(groups):
        return data.view(groups, "target")
    if bare:
        raise UserError(
            f"{bare[0].where}: field responses: without pairs and without a reward on each, and other "
            "prompts have them; add them or evaluate data sets of one kind"
        )
    return data.view(groups, "pairs")


def _has_rewards(group: Group) -> bool:
    return len(group.responses) > 1 and all(r.reward is not None for r in group.responses)


def measure(
    checkpoint: Checkpoint,
    groups: Sequence[Group],
    settings: EvaluationSettings,
    references: References,
    world: World,
    kept: Kept,
) -> OrderResult:
    """Score one checkpoint. What its reference gives is added to `references`, where it is not there yet."""
    policy, tokenizer = load(checkpoint, world, settings.shard)
    examples, limits = examples_of(groups), limits_of(settings)
    trees = data.tokenize(groups, examples, tokenizer, limits, settings.belief_classes)
    models.check_trees(policy, trees, len(tokenizer))
    pad_id = tokenizer.pad_token_id
    logps = answer_logps(policy, trees, pad_id, checkpoint.name, world, kept)
    if checkpoint.run:
        starting = starting_weights(checkpoint)
        if starting.source not in references:
            reference, _ = load(starting, world, settings.shard)
            fingerprint = models.fingerprint(reference)
            check_starting_weights(checkpoint, fingerprint)  # before the work
            of_reference = answer_logps(reference, trees, pad_id, "reference", world, kept)
            references[starting.source] = Reference(fingerprint, of_reference)
        check_starting_weights(checkpoint, references[starting.source].fingerprint)
        of_reference = references[starting.source].logps
        trees = [tree._replace(reference=tuple(of_tree)) for tree, of_tree in zip(trees, of_reference)]
    packs = scores_of(trees, logps, pad_id)
    predictions = predictions_of(checkpoint.name, groups, trees, packs)
    return OrderResult(summaries_of(packs, trees, groups, checkpoint.beta), predictions)


# --- scores -------------------------------------------------------------------------------------------------


def answer_logps(
    policy: models.Scorer, trees: Sequence[TokenTree], pad_id: int, name: str, world: World, kept: Kept
) -> list[Logps]:
    """The log-probs of every tree's answers. name: of the checkpoint, for the progress bar."""
    paths = [(tree.prompt, tree.belief, tree.answers) for tree in trees]
    determined_by = {**identity(policy), "trees": paths, "pack_tokens": PACK_TOKENS}
    return kept.get(name, determined_by, lambda: score_trees(policy, trees, pad_id, name, world))


@torch.no_grad()
def score_trees(
    policy: models.Scorer, trees: Sequence[TokenTree], pad_id: int, name: str, world: World
) -> list[Logps]:
    """As `answer_logps`, with passes of the policy."""
    packs, packing = plan(trees, pad_id)
    device = models.device_of(policy)
    with tqdm(total=len(trees), desc=f"scoring {name}", unit="prompt", disable=not world.is_main) as bar:

        def score_pack(rows: Pack) -> list[Logps]:
            scores = models.score(policy, schedule.batch_of(trees, rows, packing).to(device))
            bar.update(len(scores.policy) * world.size)
            return scores.policy.tolist()

        tables = ranks.spread(packs, score_pack, world)
    logps: list[Logps] = [[] for _ in trees]
    for rows, table in zip(packs, tables):
        for i, of_example in zip(members_of(rows), table):
            logps[i] = of_example[: len(trees[i].answers)]
    return logps


def plan(trees: Sequence[TokenTree], pad_id: int) -> tuple[list[Pack], Packing]:
    """The packs of all trees: as for one rank, so that the numbers do not depend on how many there are."""
    largest = max(PACK_TOKENS, *(tree_tokens([tree]) for tree in trees))
    packing = Packing(max_tokens=largest, row_tokens=largest, pad_id=pad_id)
    return schedule.plan_step(trees, range(len(trees)), packing, world_size=1), packing


def members_of(rows: Pack) -> list[int]:
    """The examples of a pack, in the order of its tables' rows."""
    return [i for row in rows for i in row]


def scores_of(trees: Sequence[TokenTree], logps: Sequence[Logps], pad_id: int) -> list[PackScores]:
    """The tables of all packs, with these log-probs of the policy."""
    packs, packing = plan(trees, pad_id)
    scores = []
    for rows in packs:
        batch = schedule.batch_of(trees, rows, packing)
        policy = torch.zeros(batch.valid.shape)
        for row, i in enumerate(members_of(rows)):
            policy[row, : len(logps[i])] = torch.tensor(logps[i])
        tables = Scores(policy, batch.reference, batch.length, batch.reward, batch.valid)
        scores.append(PackScores(members_of(rows), tables))
    return scores


# --- measures -----------------------------------------------------------------------------------------------


def summaries_of(
    packs: Iterable[PackScores], trees: Sequence[TokenTree], groups: Sequence[Group], beta: float
) -> dict[str, metrics.Summary]:
    """Means over prompts with intervals over questions, of the metrics that any example has.

    A prompt's value is the mean over its examples. beta: of the implied rewards.
    """
    columns: dict[str, dict[int, list[float]]] = {name: {} for name in ORDER_METRICS.values()}
    for pack in packs:
        no_losses = torch.zeros(len(pack.examples))
        no_beliefs = torch.full((len(pack.examples),), -1)
        of_examples = metrics.example_metrics(pack.scores, no_losses, no_beliefs, beta)
        for log_name, name in ORDER_METRICS.items():
            if log_name not in of_examples:
                continue  # examples of one response have nothing to order
            values, holds = of_examples[log_name]
            for i, value, is_held in zip(pack.examples, values.tolist(), holds.tolist()):
                if is_held:
                    columns[name].setdefault(trees[i].group, []).append(value)
    summaries = {}
    for name, by_group in columns.items():
        if by_group:
            means = [sum(values) / len(values) for values in by_group.values()]
            questions = [groups[number].question for number in by_group]
            summaries[name] = metrics.summarize(means, clusters=questions)
    return summaries


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
        "datasets": names_of(settings.datasets),
        "split": settings.split,
        "seed": settings.seed,
        "few_shot": settings.few_shot,
        "n_samples": 0,
        "prompts": len(groups),
        "questions": len({group.question for group in groups}),
        "beta": {checkpoint.name: checkpoint.beta for checkpoint in checkpoints},
        "sources": {checkpoint.name: checkpoint.source for checkpoint in checkpoints},
        **models.versions(),
    }
    return Report(
        results={name: result.summaries for name, result in results.items()},
        facts=facts,
        predictions=predictions,
        shown=(),
        scope=scope_of(groups, settings),
    )
