"""GDPO's drawing of pairs from a group's p*: as draws of a seed, and as the probability of every pair.

Contract: both are of one distribution. b_w ~ p* over the beliefs that have a response, b_l uniform over the
others of them; of a belief's responses each is as likely as the others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from groups.draws import rng_of
from groups.record import Columns, Group, Pair
from utils import UserError


class Drawing(NamedTuple):
    """The B beliefs that have a response, in the order of the classes."""

    members: list[list[int]]  # B: the responses that hold each belief
    shares: list[float]  # (B,) of p*, as the group has them: they need not sum to 1


def drawing_of(group: Group, classes: Sequence[str]) -> Drawing:
    """What can be drawn of a group that has a p*; `classes` are in the order of its entries."""
    members, shares = [], []
    for label, share in zip(classes, group.belief_probs, strict=True):
        holders = [
            i for i, r in enumerate(group.responses) if r.belief is not None and r.belief.label == label
        ]
        if holders:
            members.append(holders)
            shares.append(share)
    return Drawing(members, shares)


def draw_pairs(group: Group, classes: Sequence[str], num_pairs: int, seed: int) -> tuple[Pair, ...]:
    """GDPO's pairing: b_w is drawn from p*, b_l uniformly from the other beliefs that have a response.

    Fixed by (seed, group id). Raises UserError where fewer than two beliefs have a response, or where p* is 0
    for all that have one.
    """
    members, shares = drawing_of(group, classes)
    weights = np.asarray(shares, float)
    if len(members) < 2 or weights.sum() <= 0:
        raise UserError(
            f"{group.where}: field responses: needs answers under at least two beliefs, "
            "one with belief_probs > 0, to draw pairs; add some or give pairs"
        )
    rng = rng_of(seed, group.id)
    pairs = []
    for belief_w in rng.choice(len(members), num_pairs, p=weights / weights.sum()):
        belief_l = rng.integers(len(members) - 1)
        if belief_l >= belief_w:  # any belief but b_w
            belief_l += 1
        winner = rng.choice(members[belief_w])
        loser = rng.choice(members[belief_l])
        pairs.append((int(winner), int(loser)))
    return tuple(pairs)


def chances(group: Group, columns: Sequence[Columns], classes: Sequence[str]) -> list[float]:
    """The probability of each (preferred, other) under `draw_pairs`; of (preferred,) that it is preferred.

    Together 1 where `columns` are all pairs under different beliefs, or all responses that hold one. All are
    0 where p* is 0 for every belief that has a response.
    """
    members, shares = drawing_of(group, classes)
    total = math.fsum(shares)
    if total <= 0:
        return [0.0] * len(columns)
    of_response = {
        i: (share / total, len(holders)) for share, holders in zip(shares, members) for i in holders
    }
    found = []
    for preferred, *others in columns:
        share, alike = of_response[preferred]
        chance = share / alike
        for other in others:
            chance /= (len(members) - 1) * of_response[other][1]
        found.append(chance)
    return found
