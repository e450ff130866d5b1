"""Log-probs of given responses under a checkpoint and under what it started from.

Contract: ranks share the work and all of them get everything. The reference of a run is what it started from;
a checkpoint that belongs to no run has none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from tqdm import tqdm

import groups as data
import models
import ranks
import schedule
from evaluation.checkpoints import Checkpoint, check_starting_weights, starting_weights
from evaluation.kept import Kept, identity
from evaluation.policies import limits_of, load
from evaluation.predictions import digest
from forest import Pack, TokenTree, tree_tokens
from groups import Example, Group
from ranks import World
from schedule import Packing
from settings import EvaluationSettings

PACK_TOKENS = 2048  # of a forward pass, where no tree is larger

Logps = list[float]  # of one example's answers, summed over tokens, in nats
References = dict[str, "Reference"]  # by source: runs that are compared often started from one model


class Reference(NamedTuple):
    """What a run started from."""

    fingerprint: str  # of its weights
    logps: list[Logps]  # of every example's answers


class Scored(NamedTuple):
    """One example, and what a checkpoint gives its answers."""

    tree: TokenTree  # its `reference` holds the reference's log-probs; (): there is no reference
    logps: Logps
    made_by: str  # as of a line of predictions.jsonl

    @property
    def tokens(self) -> list[int]:
        """The number of tokens of every answer."""
        return [len(answer) for answer in self.tree.answers]

    @property
    def log_ratios(self) -> list[float]:
        """Policy minus reference of every answer, in nats; [] where there is no reference."""
        return [policy - reference for policy, reference in zip(self.logps, self.tree.reference)]


def score_examples(
    checkpoint: Checkpoint,
    groups: Sequence[Group],
    examples: Sequence[Example],
    settings: EvaluationSettings,
    references: References,
    world: World,
    kept: Kept,
) -> list[Scored]:
    """Score one checkpoint on all examples that leave room for a response.

    What its reference gives is added to `references`, where it is not there yet. Raises UserError where the
    checkpoint or its reference cannot be loaded.
    """
    policy, tokenizer = load(checkpoint, world, settings.shard)
    maker: dict[str, object] = {**identity(policy), "pack_tokens": PACK_TOKENS}
    trees = data.tokenize(groups, examples, tokenizer, limits_of(settings), settings.belief_classes)
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
        maker["reference"] = references[starting.source].fingerprint
        of_reference = references[starting.source].logps
        trees = [tree._replace(reference=tuple(of_tree)) for tree, of_tree in zip(trees, of_reference)]
    return [Scored(tree, of_tree, made_by(tree, maker)) for tree, of_tree in zip(trees, logps)]


def made_by(tree: TokenTree, maker: Mapping[str, object]) -> str:
    """A hash of what is scored, a dash, and a hash of what scores it."""
    return f"{digest([tree.prompt, tree.belief, tree.answers])}-{digest(maker)}"


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
