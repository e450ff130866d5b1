"""Optimizer steps that are timed: the project's own parts, in four modes that train on the same examples.

Contract: all modes see the same examples in the same order, so that their losses agree. What is timed is a
step as the loop takes it: planning, packing, forward, loss, backward, clipping, update.
"""

from __future__ import annotations

import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from options import BY_ROWS

import forest
import models
import reference
import schedule
from forest import ForestBatch, TokenTree
from losses import Scores
from ranks import World

PER_ANSWER = ("answers", "rewards", "reference", "truncated")  # fields of a tree that hold an entry an answer
PER_RESPONSE = ("policy", "reference", "length", "reward")  # fields of scores with an entry a response
PER_EXAMPLE = ("class_logps", "class_probs", "belief_logp", "belief_length")


class Plan(NamedTuple):
    """How the examples of a step become forward passes."""

    mode: str
    max_tokens: int
    row_tokens: int
    micro_batch: int  # examples of one forward pass in the modes padded and plain
    pad_id: int

    @property
    def packing(self) -> schedule.Packing:
        """Of the modes shared and packed."""
        share = self.mode == "shared"
        return schedule.Packing(self.max_tokens, self.row_tokens, share, pad_id=self.pad_id)


class Training(NamedTuple):
    """What is trained, and on what."""

    policy: models.Scorer
    optimizer: torch.optim.Optimizer
    loss_fn: Callable[[Scores], torch.Tensor]
    trees: Sequence[TokenTree]
    mismatched: Sequence[TokenTree]
    batch_size: int
    seed: int

    @property
    def order(self) -> schedule.Order:
        return schedule.order_of(self.trees, self.batch_size, self.seed, "prompts")


class Work(NamedTuple):
    """What timed steps did.

    Tokens are those of one forward pass over the examples, without KTO's mismatched pairs.
    """

    seconds: float
    host_seconds: float  # planning and packing, within `seconds`
    examples: int
    prompts: int
    tokens: int  # real ones in the rows, shared ones once
    padded_tokens: int  # places in the rows
    unshared_tokens: int  # one response at a time
    sequence_tokens: int  # the same with each response's last token, from which nothing is predicted
    flops: int  # useful ones, forward and backward
    loss_mean: float  # over examples, each before its own step's update


Batch = tuple[ForestBatch, list[TokenTree]]  # with the trees whose answers its rows are, in modes by rows


def step_batches(trees: Sequence[TokenTree], examples: Sequence[int], plan: Plan) -> Iterator[Batch]:
    """The packed batches of one step."""
    if plan.mode not in BY_ROWS:
        for rows in schedule.plan_step(trees, examples, plan.packing, 1):
            yield schedule.batch_of(trees, rows, plan.packing), []
        return
    for first in range(0, len(examples), plan.micro_batch):
        members = [trees[i] for i in examples[first : first + plan.micro_batch]]
        singles = list(itertools.chain.from_iterable(_singles(tree) for tree in members))
        rows = [[i] for i in range(len(singles))]
        yield forest.pack(singles, rows, plan.pad_id, share=False), members


def _singles(tree: TokenTree) -> list[TokenTree]:
    """A tree as trees of one response each."""
    singles = []
    for k, answer in enumerate(tree.answers):
        if answer:
            fields = {name: getattr(tree, name)[k : k + 1] for name in PER_ANSWER}
            singles.append(tree._replace(**fields))
    return singles


def as_tables(scores: Scores, members: Sequence[TokenTree]) -> Scores:
    """Scores of single responses (S, 1) as (N, K) tables of the N trees that they came from.

    Without such trees (modes shared and packed) the scores are tables already, and stay.
    """
    if not members:
        return scores
    width, row = max(len(tree.answers) for tree in members), itertools.count()
    numbers = []  # (N, K) row of each answer, -1 where there is none
    for tree in members:
        padded = (*tree.answers, *[()] * (width - len(tree.answers)))
        numbers.append([next(row) if answer else -1 for answer in padded])
    index = torch.tensor(numbers, device=scores.policy.device)
    valid = index >= 0
    first = index.masked_fill(index < 0, index.numel()).min(1).values
    tables = {"valid": valid, "deviation": None}  # a response by itself knows no mean
    for name in PER_RESPONSE:
        column = getattr(scores, name)[index.clamp_min(0), 0]
        tables[name] = column.masked_fill(~valid, 0.0)
    for name in PER_EXAMPLE:
        column = getattr(scores, name)
        tables[name] = None if column is None else column[first]
    return scores._replace(**tables)


class Plain:
    """Reads log-probs as is usual: logits of all places, their log-softmax, the entries asked for."""

    def __init__(self, policy: models.Scorer):
        self.policy = policy

    def __call__(self, input_ids, position_ids, end, positions, reads, *_) -> torch.Tensor:
        # rows are padded on the right, so causality needs no mask
        logps = self.policy(input_ids).float().log_softmax(-1)
        return logps.flatten(0, 1)[positions[reads.source], reads.target]


def mismatched_log_ratio(
    training: Training, examples: Sequence[int], plan: Plan
) -> tuple[torch.Tensor | None, int]:
    """Mean log-ratio (nats) of the step's mismatched pairs, which KTO asks for, and its FLOPs.

    (None, 0) where there are none.
    """
    if not training.mismatched:
        return None, 0
    policy = training.policy
    reader = Plain(policy) if plan.mode == "plain" else policy
    device, flops = models.device_of(policy), 0
    total = torch.zeros((), device=device)
    with torch.no_grad():
        for batch, members in step_batches(training.mismatched, examples, plan):
            flops += models.forward_flops(policy, batch)
            scores = as_tables(models.score(reader, batch.to(device)), members)
            total += (scores.policy - scores.reference).sum()
    return total / len(examples), flops


def run_steps(training: Training, plan: Plan, steps: int) -> Work:
    """Take `steps` optimizer steps from step 0 on, and say what they did and how long they took."""
    policy = training.policy
    order = training.order
    device = models.device_of(policy)
    reader = Plain(policy) if plan.mode == "plain" else policy
    per_epoch = order.steps_per_epoch
    loss_sum = torch.zeros((), device=device)
    tokens = padded = unshared = answers = flops = num_examples = 0
    host, prompts = 0.0, set()
    begin = synchronized_clock(device)
    for step in range(steps):
        start = time.perf_counter()
        examples = order.examples(step)
        batches = list(step_batches(training.trees, examples, plan))
        host += time.perf_counter() - start
        kl, once = mismatched_log_ratio(training, examples, plan)
        flops += once
        with policy.casting_once():
            for batch, members in batches:
                flops += 3 * models.forward_flops(policy, batch)
                tokens += batch.num_tokens
                padded += batch.input_ids.numel()
                unshared += batch.num_tokens_unshared
                answers += int(batch.valid.sum())
                scores = as_tables(models.score(reader, batch.to(device)), members)
                losses = training.loss_fn(scores._replace(kl=kl))
                (losses.sum() / len(examples)).backward()
                loss_sum += losses.detach().sum()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 10.0)
        training.optimizer.step()
        training.optimizer.zero_grad(set_to_none=True)
        num_examples += len(examples)
        prompts |= {(step // per_epoch, order.prompt_of[i]) for i in examples}
    seconds = synchronized_clock(device) - begin
    return Work(
        seconds=seconds,
        host_seconds=host,
        examples=num_examples,
        prompts=len(prompts),
        tokens=tokens,
        padded_tokens=padded,
        unshared_tokens=unshared,
        sequence_tokens=unshared + answers,
        flops=flops,
        loss_mean=loss_sum.item() / num_examples,
    )


def synchronized_clock(device: torch.device) -> float:
    """Seconds, once the device has finished what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


# --- the reference pass -------------------------------------------------------------------------------------


@contextmanager
def empty_cache() -> Iterator[None]:
    """A cache folder of its own, so that the first reference pass is a cold one."""
    before = os.environ.get("GROVE_CACHE")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GROVE_CACHE"] = folder
        try:
            yield
        finally:
            os.environ.pop("GROVE_CACHE")
            if before is not None:
                os.environ["GROVE_CACHE"] = before


def timed_reference(
    policy: models.Scorer, trees: Sequence[TokenTree], plan: Plan
) -> tuple[list[TokenTree], float, float]:
    """Trees with reference log-probs, and the seconds of a cold and of a warm pass.

    Both hash the weights, as a run does.
    """
    device = models.device_of(policy)
    seconds = []
    world = World(0, 1, device, None)
    with empty_cache():
        for _ in range(2):
            begin = synchronized_clock(device)
            fingerprint = models.fingerprint(policy)
            filled = reference.reference_logps(policy, trees, fingerprint, plan.packing, world)
            seconds.append(synchronized_clock(device) - begin)
    return filled, *seconds
