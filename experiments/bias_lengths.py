"""Theorem 3 of Swepo, trained: does the bias of an attribute fall as 1 / sqrt(k) in a model, too?

Contract: every prompt has a known distribution over acceptable responses of 1 to L words; k of them are drawn
once, and k rejected ones. A model that begins uniform over all responses learns from these draws alone, and
its expected length is summed over all responses. bias = mean over prompts of |E_model[length] - E_true
[length]|, in words.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerFast

from experiments.tiny import (
    ForestBatch,
    Loss,
    fit,
    likelihood,
    log_shares,
    loss_named,
    new_policy,
    seen_by,
    weighted,
    whole_space,
    word_tokenizer,
)
from models import Scorer
from preference_datasets import Group, Response

MARK = "no"  # begins every rejected response, where they stand apart
BEGIN_STEPS = 200  # until the model is uniform over all responses


class Shape(NamedTuple):
    """The size of everything."""

    prompts: int
    longest: int  # words of a response
    concentration: float  # of the Dirichlet that draws each prompt's distribution over lengths
    width: int  # of the model
    lr: float
    steps: int


class Arm(NamedTuple):
    """One way to learn from the draws."""

    name: str
    method: Literal["likelihood", "sft", "dpo.all", "swepo"]
    beta: float = 1.0
    is_apart: bool = False  # rejected responses are of another kind, rather than other draws of the same kind
    few_counts: bool = False  # at the smallest and the largest k alone


ARMS = (
    Arm("SFT (likelihood)", "likelihood"),
    Arm("SFT (token mean)", "sft", few_counts=True),
    Arm("DPO, all pairs", "dpo.all"),
    Arm("Swepo", "swepo"),
    Arm("Swepo, beta 0.1", "swepo", beta=0.1, few_counts=True),
    Arm("Swepo, rejected apart", "swepo", is_apart=True, few_counts=True),
)


class World(NamedTuple):
    """Prompts, all responses, and the truth about them."""

    words: PreTrainedTokenizerFast
    space: tuple[Group, ...]  # each prompt with all responses there are, acceptable lengths first
    attribute: np.ndarray  # (R,) words of each response, without the mark
    truth: np.ndarray  # (P, L) probability of each length among acceptable responses

    @property
    def expected(self) -> np.ndarray:
        """(P,) the attribute's true expectation."""
        return self.truth @ self.attribute[: self.truth.shape[1]]

    @property
    def sigma(self) -> float:
        """The attribute's largest standard deviation, over prompts: that of the theorem's bound."""
        lengths = self.attribute[: self.truth.shape[1]]
        return float(np.sqrt((self.truth @ lengths**2 - self.expected**2).max()))

    def bias(self, shares: np.ndarray) -> float:
        """The bias of a distribution (P, R) over responses."""
        return float(np.abs(shares @ self.attribute - self.expected).mean())


class Draws(NamedTuple):
    """What is drawn of each prompt, as indices of lengths."""

    accepted: np.ndarray  # (P, k)
    rejected: np.ndarray  # (P, k)


def make_world(shape: Shape, seed: int, is_apart: bool) -> World:
    """The world of a seed; the truth does not depend on where rejected responses stand."""
    names = [f"q{i}" for i in range(shape.prompts)]
    texts = [" ".join(["w"] * length) for length in range(1, shape.longest + 1)]
    lengths = np.arange(1.0, shape.longest + 1)
    if is_apart:
        texts += [f"{MARK} {text}" for text in texts]
        lengths = np.concatenate([lengths, lengths])
    responses = tuple(map(Response, texts))
    rng = np.random.default_rng([seed, 0])
    return World(
        word_tokenizer([*names, "w", MARK]),
        tuple(Group(name, name, responses) for name in names),
        lengths,
        rng.dirichlet([shape.concentration] * shape.longest, shape.prompts),
    )


def draw(world: World, k: int, seed: int) -> Draws:
    """k acceptable lengths of every prompt's truth, and k rejected ones of the uniform distribution."""
    rng = np.random.default_rng([seed, 1, k])
    count = world.truth.shape[1]
    accepted = np.stack([rng.choice(count, k, p=p) for p in world.truth])
    return Draws(accepted, rng.integers(count, size=accepted.shape))


def counted(indices: np.ndarray, count: int) -> np.ndarray:
    """(P, count): the shares of draws (P, k)."""
    return np.stack([np.bincount(row, minlength=count) for row in indices]) / indices.shape[1]


# --- what a method sees, and minimises ----------------------------------------------------------------------


def task_of(arm: Arm, world: World, draws: Draws) -> tuple[ForestBatch, Loss]:
    """All prompts in one pack, and the arm's loss on it."""
    if arm.method in ("likelihood", "sft"):
        batch = weighted(world.space, counted(draws.accepted, len(world.attribute)), world.words)
        return batch, likelihood if arm.method == "likelihood" else loss_named("sft")
    groups = compared(world, draws, arm.is_apart)
    if arm.method == "dpo.all":
        return seen_by(groups, "pairs.all", world.words), loss_named("dpo", beta=arm.beta)
    return seen_by(groups, "ranked", world.words), loss_named("swepo", beta=arm.beta, alpha=1.0)


def compared(world: World, draws: Draws, is_apart: bool) -> list[Group]:
    """Every prompt with its draws: reward 1 for acceptable ones, 0 for rejected ones."""
    first = world.truth.shape[1] if is_apart else 0
    groups = []
    for group, accepted, rejected in zip(world.space, draws.accepted, draws.rejected, strict=True):
        good = [group.responses[i]._replace(reward=1.0) for i in accepted]
        bad = [group.responses[first + i]._replace(reward=0.0) for i in rejected]
        groups.append(group._replace(responses=(*good, *bad)))
    return groups


def uniform_policy(world: World, shape: Shape, seed: int) -> Scorer:
    """A model that says every response of the space equally often, by maximum likelihood."""
    policy = new_policy(world.words, shape.width, seed)
    everything = np.ones((len(world.space), len(world.attribute)))
    fit(policy, weighted(world.space, everything, world.words), likelihood, 1e-2, BEGIN_STEPS)
    return policy


# --- the measurement ----------------------------------------------------------------------------------------


class Path(NamedTuple):
    """What one model was while it learned: an entry a look."""

    bias: list[float]
    largest: list[float]  # mean over prompts of the largest share of one response
    mass: list[float]  # on responses of the space


def learn(arm: Arm, world: World, begin: Scorer, draws: Draws, shape: Shape, look_at: Sequence[int]) -> Path:
    """Train a copy of the model that everything begins with."""
    policy = copy.deepcopy(begin)
    space = whole_space(world.space, world.words)
    path = Path([], [], [])

    def look() -> None:
        logs, mass = log_shares(policy, space)
        shares = np.exp(logs)
        path.bias.append(world.bias(shares))
        path.largest.append(float(shares.max(-1).mean()))
        path.mass.append(mass)

    fit(policy, *task_of(arm, world, draws), shape.lr, shape.steps, look_at, look)
    return path


def sampling_bias(world: World, draws: Draws) -> tuple[float, float]:
    """The bias of the draws themselves: of their mean, and of the length that was drawn most often."""
    shares = counted(draws.accepted, len(world.attribute))
    most_often = np.eye(len(world.attribute))[shares.argmax(-1)]
    return world.bias(shares), world.bias(most_often)


class Row(NamedTuple):
    """One arm at one k under one seed."""

    arm: str
    k: int
    seed: int
    path: Path


def measure(shape: Shape, counts: Sequence[int], seed: int, look_at: Sequence[int]) -> Iterator[Row]:
    """Every arm at every k. What the draws themselves say comes first, as arms of one look."""
    worlds = {is_apart: make_world(shape, seed, is_apart) for is_apart in (False, True)}
    begin = {is_apart: uniform_policy(world, shape, seed) for is_apart, world in worlds.items()}
    for k in counts:
        draws = draw(worlds[False], k, seed)
        for name, bias in zip(
            ("mean of the draws", "most frequent draw"), sampling_bias(worlds[False], draws)
        ):
            yield Row(name, k, seed, Path([bias], [], []))
        for arm in ARMS:
            if arm.few_counts and k not in (counts[0], counts[-1]):
                continue
            world = worlds[arm.is_apart]
            yield Row(arm.name, k, seed, learn(arm, world, begin[arm.is_apart], draws, shape, look_at))
