"""What a split compares, a part at a time: views of groups that stand on the disk, and which examples a run
takes of them.

Contract: what is counted here is what `parts` gives again later, since views depend on the group and the seed
alone. Memory holds a number a group.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from groups.draws import rng_of
from groups.needs import check_beliefs, check_examples
from groups.record import Example, Group, rows_by_example
from groups.rows import Drops, why_dropped
from groups.splits import Marks
from groups.views import view, with_fewer_responses
from settings import DataSet, TrainSettings
from utils import UserError

if TYPE_CHECKING:  # torch is slow to import, and this is needed for its name alone
    from losses import Needs

AT_ONCE = 256  # groups


class Member(NamedTuple):
    """What a split has of one data set."""

    name: str
    groups: Sequence[Group]
    marks: Marks
    counts: np.ndarray  # (G,) examples of each group; several rows of a whole group are one
    dropped: Drops
    chosen: np.ndarray | None = None  # numbers of the examples that are taken, ascending; None: all

    @property
    def available(self) -> int:
        """Examples that could be taken."""
        return int(self.counts.sum())

    @property
    def taken(self) -> int:
        """Examples that are taken."""
        return self.available if self.chosen is None else len(self.chosen)


class Some(NamedTuple):
    """Some groups of a data set, and the examples that are taken of them."""

    numbers: Sequence[int]  # of the groups in their data set
    groups: list[Group]
    examples: list[Example]  # their groups are numbered from 0 on

    @property
    def count(self) -> int:
        """Examples; several rows of a whole group are one."""
        return sum(example.row == 0 for example in self.examples)


def count(
    name: str,
    groups: Sequence[Group],
    marks: Marks,
    settings: TrainSettings,
    needs: Needs,
    dropped: Drops,
) -> Member:
    """Look at every group once: what it compares, and whether that is what the loss needs.

    Raises UserError where it is not.
    """
    counts = np.zeros(len(groups), np.int32)
    for first in range(0, len(groups), AT_ONCE):
        some = compare(groups[first : first + AT_ONCE], settings, needs, dropped)
        members = [example.group for example in some.examples if example.row == 0]
        counts[first : first + len(some.groups)] = np.bincount(members, minlength=len(some.groups))
    return Member(name, groups, marks, counts, dropped)


def compare(groups: Sequence[Group], settings: TrainSettings, needs: Needs, dropped: Counter) -> Some:
    """A few groups, and all of their examples. Raises UserError where they lack what the loss needs."""
    if needs.beliefs:
        check_beliefs(groups, settings.loss.name)
    some = [with_fewer_responses(group, settings.max_responses, settings.seed) for group in groups]
    examples = view(some, settings.responses, settings.seed, dropped, settings.belief_classes)
    if needs.pair_reward is not None and not needs.beliefs:
        examples = [_with_pair_rewards(example, needs.pair_reward) for example in examples]
    check_examples(some, examples, settings, needs)
    return Some(range(len(some)), some, examples)


def _with_pair_rewards(example: Example, reward: float) -> Example:
    """An example with rewards; a pair without any prefers its first response."""
    if example.rewards or len(example.columns) != 2 or None in example.columns:
        return example
    return example._replace(rewards=(reward, 0.0))


def parts(member: Member, settings: TrainSettings, needs: Needs) -> Iterator[Some]:
    """All that is taken of a data set, in order, with the groups that it is of."""
    ends = np.cumsum(member.counts)
    for first in range(0, len(member.groups), AT_ONCE):
        last = min(first + AT_ONCE, len(member.groups)) - 1
        start = int(ends[first] - member.counts[first])
        if member.chosen is None:
            wanted = np.arange(ends[last] - start)
        else:
            low, high = np.searchsorted(member.chosen, (start, ends[last]))
            wanted = member.chosen[low:high] - start
        if len(wanted):
            some = compare(member.groups[first : last + 1], settings, needs, Counter())
            examples = list(rows_by_example(some.examples))
            yield _only(some, [row for i in wanted for row in examples[i]], first)


def _only(some: Some, examples: Sequence[Example], first: int) -> Some:
    """These examples, and the groups that they are of; `first` is the number of the first of all groups."""
    kept = sorted({example.group for example in examples})
    new_number = {old: new for new, old in enumerate(kept)}
    return Some(
        [first + old for old in kept],
        [some.groups[old] for old in kept],
        [example._replace(group=new_number[example.group]) for example in examples],
    )


# --- which examples are taken -------------------------------------------------------------------------------


def mixed(members: Sequence[Member], data_sets: Sequence[DataSet], seed: int) -> list[Member]:
    """The members with as many examples as the run asks for, drawn by the seed.

    A data set with `n` gives so many. Those with a `weight` give as many as they can in exactly these shares
    (up to one example each). The others give all. Raises UserError where there are fewer than `n`, and where
    a share comes to no example.
    """
    wanted = {}
    shares = {}
    for member, data_set in zip(members, data_sets):
        if data_set.n is not None:
            _check_number(member, data_set)
            wanted[member.name] = data_set.n
        elif data_set.weight is not None:
            shares[member.name] = (data_set.weight, member.available)
    of_shares = _by_share(shares)
    without = [member for member in members if of_shares.get(member.name) == 0]
    if without:  # one that has none at all is why others come to none
        raise _no_share(min(without, key=lambda member: member.available), shares)
    wanted |= of_shares
    return [_draw(member, wanted.get(member.name), seed) for member in members]


def _check_number(member: Member, data_set: DataSet) -> None:
    if data_set.n > member.available:
        raise UserError(
            f"config key datasets: {member.name} has n={data_set.n} and {member.available} examples to train "
            f"on; set n={member.available} or less"
        )


def _by_share(shares: dict[str, tuple[float, int]]) -> dict[str, int]:
    """{name: (weight, available)} -> {name: examples}: the largest mixture of these shares."""
    total_weight = sum(weight for weight, _ in shares.values())
    if not shares:
        return {}
    total = min(available * total_weight / weight for weight, available in shares.values())
    exact = {name: total * weight / total_weight for name, (weight, _) in shares.items()}
    return {name: min(round(number), shares[name][1]) for name, number in exact.items()}


def _no_share(member: Member, shares: dict[str, tuple[float, int]]) -> UserError:
    """The error of a data set that would not be in the mixture at all."""
    weight, available = shares[member.name]
    if available:
        problem = f"and comes to none of its {available} examples beside the others; raise its weight"
    else:
        reasons = why_dropped(member.dropped)
        left_out = f" (left out: {reasons})" if reasons else ""
        problem = f"and no example to train on{left_out}; add data or leave it out"
    return UserError(f"config key datasets: {member.name} has weight={weight:g} {problem}")


def _draw(member: Member, number: int | None, seed: int) -> Member:
    if number is None:
        return member
    order = rng_of(seed, "mixture", member.name).permutation(member.available)
    chosen = np.sort(order[:number])
    if number < member.available:
        member.dropped["not_drawn_for_the_mixture"] = member.available - number
    return member._replace(chosen=chosen)
