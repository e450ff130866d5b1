"""The collapse of DPO to the majority, trained to its end: pi_ref(b) p*(b)^(1 / beta), and GDPO beside it.

Contract: pairs are the expectation over b_w ~ p* and b_l uniform over the other beliefs (views
`expected.own_belief` and, for GDPO, `expected.conditioned`), so nothing is sampled. What the model believes
is read in two places: over whole responses, of which DPO's theory speaks, and at the belief's token.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerFast

from experiments.tiny import (
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
from metrics import js_distance
from models import Scorer, class_distributions
from preference_datasets import CLASSES, Belief, Group, Response

LABELS = CLASSES[1:]  # beliefs that are held
PAPER = (0.06, 0.08, 0.24, 0.56, 0.06)  # the GDPO paper's example, the first prompt's p*
OWN_ANSWER = 0.6  # the reference's share of the answer that a belief has in the data
BEGIN_STEPS = 200


class World(NamedTuple):
    """Prompts with their beliefs."""

    words: PreTrainedTokenizerFast
    groups: tuple[Group, ...]  # each with one response a belief, and its p*
    space: tuple[Group, ...]  # each with every answer after every belief
    share: np.ndarray  # (P, B) p*
    reference: np.ndarray  # (P, B) what the model believes before


class Point(NamedTuple):
    """One trained model beside the theory; distances are means over prompts."""

    method: str
    beta: float
    seed: int
    majority: float  # mean share of the belief that p* holds most, at the belief's token
    majority_theory: float
    to_theory: float  # JS distance over whole responses
    to_theory_token: float  # JS distance at the belief's token
    to_group: float  # JS distance at the belief's token to p*
    log_odds: list[list[float]]  # (theory, trained) of each belief against the majority, in nats, responses


def make_world(prompts: int, seed: int) -> World:
    """p* and the reference's beliefs are drawn; the first prompt has the paper's p*."""
    rng = np.random.default_rng([seed, 2])
    share = rng.dirichlet([1.0] * len(LABELS), prompts)
    share = (share + 0.02) / (share + 0.02).sum(-1, keepdims=True)  # no belief that nobody holds
    share[0] = PAPER
    reference = rng.dirichlet([5.0] * len(LABELS), prompts)
    names = [f"q{i}" for i in range(prompts)]
    own = tuple(Response(f"because{label}", belief=Belief(label, "")) for label in LABELS)
    every = tuple(Response(a.text, belief=b.belief) for b in own for a in own)
    groups = tuple(
        Group(name, name, own, belief_probs=(0.0, *p)) for name, p in zip(names, share.tolist(), strict=True)
    )
    space = tuple(Group(name, name, every) for name in names)
    words = word_tokenizer([*names, *CLASSES, *(response.text for response in own)])
    return World(words, groups, space, share, reference)


def reference_policy(world: World, width: int, seed: int) -> Scorer:
    """A model that believes `world.reference`, and mostly gives each belief's own answer."""
    policy = new_policy(world.words, width, seed)
    others = (1 - OWN_ANSWER) / (len(LABELS) - 1)
    answers = np.full((len(LABELS),) * 2, others) + np.eye(len(LABELS)) * (OWN_ANSWER - others)
    shares = (world.reference[:, :, None] * answers).reshape(len(world.space), -1)
    fit(policy, weighted(world.space, shares, world.words), likelihood, 1e-2, BEGIN_STEPS)
    return policy


def theory(log_reference: np.ndarray, share: np.ndarray, beta: float) -> np.ndarray:
    """log of pi_ref(b) p*(b)^(1 / beta), normalised, (P, B); log_reference (P, B) up to a constant.

    With b_w ~ p* and b_l uniform over the others, b is preferred to c with probability p*(b) / (p*(b) + p*
    (c)): a Bradley-Terry model of rewards log p*, whose optimum is DPO's eq. 4 (arXiv 2305.18290).
    """
    return normalised(log_reference + np.log(share) / beta)


class Beliefs(NamedTuple):
    """log of what a model believes, (P, B), normalised: over the data's responses, and at the first token."""

    responses: np.ndarray
    token: np.ndarray


def beliefs_of(policy: Scorer, world: World) -> Beliefs:
    """Over responses: of all that there are, those of the data. At the token: of all words, the beliefs."""
    count = len(LABELS)
    logs = log_shares(policy, whole_space(world.space, world.words))[0].reshape(-1, count, count)
    of_words = class_distributions(
        policy,
        [tuple(world.words(group.prompt)["input_ids"]) for group in world.groups],
        tuple(world.words.convert_tokens_to_ids(list(LABELS))),
        pad_id=world.words.pad_token_id,
    )
    return Beliefs(
        normalised(np.diagonal(logs, axis1=1, axis2=2)), normalised(of_words.double().log().numpy())
    )


def normalised(logs: np.ndarray) -> np.ndarray:
    """Logs of distributions along the last axis, of logs up to a constant."""
    return logs - np.logaddexp.reduce(logs, -1, keepdims=True)


def measure(
    prompts: int, width: int, lr: float, steps: int, betas: Sequence[float], seed: int
) -> Iterator[Point]:
    """DPO and GDPO at every beta, each from the same reference."""
    world = make_world(prompts, seed)
    begin = reference_policy(world, width, seed)
    before = beliefs_of(begin, world)
    dpo_sees = seen_by(world.groups, "expected.own_belief", world.words)
    gdpo_sees = seen_by(world.groups, "expected.conditioned", world.words)
    for beta in betas:
        for name, batch in (("dpo", dpo_sees), ("gdpo", gdpo_sees)):
            policy = copy.deepcopy(begin)
            fit(policy, batch, loss_named(name, beta=beta), lr, steps)
            yield compare(name, beta, seed, world, before, beliefs_of(policy, world))


def compare(name: str, beta: float, seed: int, world: World, before: Beliefs, after: Beliefs) -> Point:
    """A trained model beside what DPO's theory says of the reference that it began with."""
    of_responses = theory(before.responses, world.share, beta)
    of_token = theory(before.token, world.share, beta)
    prompts, top = np.arange(len(world.share)), world.share.argmax(-1)

    def against_top(logs: np.ndarray) -> np.ndarray:
        return logs - logs[prompts, top][:, None]

    pairs = np.stack([against_top(of_responses), against_top(after.responses)], -1)
    is_other = np.arange(len(LABELS)) != top[:, None]
    return Point(
        name,
        beta,
        seed,
        float(np.exp(after.token[prompts, top]).mean()),
        float(np.exp(of_token[prompts, top]).mean()),
        float(js_distance(np.exp(after.responses), np.exp(of_responses)).mean()),
        float(js_distance(np.exp(after.token), np.exp(of_token)).mean()),
        float(js_distance(np.exp(after.token), world.share).mean()),
        pairs[is_other].round(3).tolist(),
    )
