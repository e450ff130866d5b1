"""Does MPS compute what the CPU computes? Asked before a model is used there.

Contract: the yardstick is the model's own plain pass on the CPU, one response at a time, with the same
weights. Where MPS gives other numbers, or fails, the CPU is used, and a warning says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

import devices
import forest
from models.checks import (
    ROUNDING,
    TokenLogps,
    check_trees,
    most_tokens,
    one_by_one,
    own_attention,
    packed_logps,
    two_longest,
    vocabulary_of,
)
from models.errors import first_line
from models.making import make_policy
from models.scorer import Scorer, device_of, score
from models.spec import PolicySpec
from ranks import World
from utils import UserError, log

GRADIENT = 1e-2  # how far a gradient may be from the CPU's, as a share of its norm
LENGTH = 256  # tokens of a path where no trees are given


class Probe(NamedTuple):
    """What both devices compute."""

    trees: Sequence[forest.TokenTree] = ()  # none: of token ids that are made up
    num_tokens: int = 0  # of the tokenizer
    pad_id: int = 0
    share: bool = True
    trains: bool = False  # gradients, too


MADE_UP = Probe()


class Computed(NamedTuple):
    """What a device made of a probe."""

    plain: list[TokenLogps]  # of every answer, by itself, with the model's own attention
    packed: list[torch.Tensor]  # (T,) of every answer, side by side, and of the first tree's again
    gradient: list[torch.Tensor]  # of the sum of all answers' log-probs, by weight; none: not asked for


def world_that_agrees(spec: PolicySpec, world: World, probe: Probe = MADE_UP) -> World:
    """The world as it is, but on the CPU where its device is MPS, which does not compute for this model what
    the CPU does.

    Reads the model twice, first for one, then for the other. Raises UserError for a model that cannot be
    loaded, or that cannot take the trees.
    """
    if world.device.type != "mps":
        return world
    on_cpu = world._replace(device=torch.device("cpu"))
    if {spec.dtype, spec.compute_dtype} != {"float32"}:
        problem = "only passes and weights in float32 are used there, and this model's are in bfloat16"
        log.warning("device=mps: %s; it runs on the CPU", problem)
        return on_cpu
    worst = float("nan")
    try:
        expected = _computed(spec, on_cpu, probe)
        devices.free_memory()
        worst, problem = _compared(expected, _computed(spec, world, probe))
    except UserError:
        raise
    except Exception as error:  # an operator that MPS lacks, a dtype, memory
        problem = f"cannot run this model ({first_line(error)})"
    devices.free_memory()
    if problem:
        log.warning("device=mps: %s; this model runs on the CPU", problem)
        return on_cpu
    log.info("device=mps: log-probs agree with the CPU's to %.1e nats", worst)
    return world


def _computed(spec: PolicySpec, world: World, probe: Probe) -> Computed:
    """What the world's device makes of the probe."""
    policy = make_policy(spec, world, sharded=False)
    if probe.trees:
        check_trees(policy, probe.trees, probe.num_tokens)
    trees = [two_longest(tree) for tree in probe.trees or _made_up(policy)]
    with own_attention(policy):
        plain = sum([one_by_one(policy, tree) for tree in trees], [])
    # two rows of different lengths: masks differ between them, and one is padded
    rows = [list(range(len(trees))), [len(trees)]]
    of_trees = packed_logps(policy, [*trees, trees[0]], rows, probe.pad_id, probe.share)
    gradient = _gradient(policy, trees, rows[:1], probe) if probe.trains else []
    return Computed(plain, sum(of_trees, []), gradient)


def _made_up(policy: Scorer) -> list[forest.TokenTree]:
    """A tree of token ids that are drawn evenly, its paths as long as the model takes, or LENGTH tokens."""
    length = int(min(most_tokens(policy), LENGTH))
    ids = np.random.default_rng(0).integers(vocabulary_of(policy), size=2 * length).tolist()
    half = length // 2
    return [forest.TokenTree(tuple(ids[:half]), (), (tuple(ids[half:length]), tuple(ids[length:-half])))]


def _gradient(
    policy: Scorer, trees: Sequence[forest.TokenTree], rows: forest.Pack, probe: Probe
) -> list[torch.Tensor]:
    """The gradient of the sum of all answers' log-probs, on the CPU."""
    batch = forest.pack(trees, rows, probe.pad_id, probe.share).to(device_of(policy))
    score(policy, batch).policy.sum().backward()
    return [weight.grad.cpu() for weight in policy.parameters() if weight.grad is not None]


def _compared(expected: Computed, found: Computed) -> tuple[float, str]:
    """The largest difference of an answer's log-prob, in nats, and what is wrong; "" where nothing is."""
    again = [*expected.plain, *expected.plain][: len(found.packed)]
    found_plain = [answer.logps for answer in found.plain]
    worst = 0.0
    for of_cpu, logps in zip([*expected.plain, *again], [*found_plain, *found.packed], strict=True):
        difference = logps - of_cpu.logps
        share = difference.square().mean().sqrt().item() / of_cpu.spread
        if not share <= ROUNDING:  # not a number, too
            return worst, f"its log-probs differ from the CPU's by {share:.1e} of their logits' spread"
        worst = max(worst, difference.sum().abs().item())
    if expected.gradient:
        share = _distance(expected.gradient, found.gradient)
        if not share <= GRADIENT:
            return worst, f"its gradient differs from the CPU's by {share:.1e} of its norm"
    return worst, ""


def _distance(expected: Sequence[torch.Tensor], found: Sequence[torch.Tensor]) -> float:
    """How far a gradient is from another, as a share of that one's norm."""
    apart = sum((b - a).double().square().sum().item() for a, b in zip(expected, found, strict=True))
    return (apart / sum(a.double().square().sum().item() for a in expected)) ** 0.5
