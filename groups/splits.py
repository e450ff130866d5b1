"""Splits of what has none: whole prompts are held out, and none of them is trained on.

Contract: `hold_out` depends on the prompts (and on the questions, where rows name one), never on their order;
groups that share either are on one side. What several data sets of a run share is kept apart by `keep_apart`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from groups.record import Group
from groups.rows import drop
from utils import log


class Loaded(NamedTuple):
    """The groups of one split of a data set."""

    groups: list[Group]
    is_held_out: bool  # whether the split was made here, by `hold_out`


def hold_out(groups: Sequence[Group], split: str, fraction: float) -> list[Group]:
    """One split of data that has no splits of its own.

    `eval` (or `test`) is the ceil(fraction * prompts) different prompts of smallest hash, with all their
    groups; `train` the others, `all` every one. Prompts of one question count as one. The order of the groups
    stays.
    """
    if split == "all":
        return list(groups)
    units = _units(groups)
    hashes: dict[int, str] = {}
    for unit, group in zip(units, groups):
        hashed = _hash_of_prompt(group)
        hashes[unit] = min(hashed, hashes.get(unit, hashed))
    by_hash = sorted(hashes, key=hashes.get)
    held_out = set(by_hash[: math.ceil(fraction * len(by_hash))])
    wants_held_out = split != "train"
    return [group for unit, group in zip(units, groups) if (unit in held_out) == wants_held_out]


def _units(groups: Sequence[Group]) -> list[int]:
    """A number for every group; those that share a prompt or a question, directly or not, have one."""
    first_with: dict[tuple[str, str], int] = {}
    leader = list(range(len(groups)))
    for number, group in enumerate(groups):
        keys = [("prompt", json.dumps(group.prompt))]
        if group.question:
            keys.append(("question", group.question))
        for key in keys:
            one, other = _root(leader, number), _root(leader, first_with.setdefault(key, number))
            leader[max(one, other)] = min(one, other)
    return [_root(leader, number) for number in range(len(groups))]


def _root(leader: list[int], number: int) -> int:
    """The unit of a group; the way there is made shorter."""
    while leader[number] != number:
        leader[number] = leader[leader[number]]
        number = leader[number]
    return number


def _hash_of_prompt(group: Group) -> str:
    return hashlib.sha256(json.dumps(group.prompt).encode()).hexdigest()


# --- the splits of a run ------------------------------------------------------------------------------------


def keep_apart(
    train: Mapping[str, Loaded], evals: Mapping[str, Loaded], dropped: Mapping[str, Mapping[str, Counter]]
) -> dict[str, Loaded]:
    """The train split without prompts that are held out, be it in another data set.

    Where the splits are the data's own, or were named by the user, nothing is left out: what they share is
    counted and said. train, evals: {data set: its groups}. dropped: {split: {data set: counts}}.
    """
    held_out = _names_of(loaded.groups for loaded in evals.values())
    kept: dict[str, Loaded] = {}
    for name, loaded in train.items():
        kept[name] = loaded
        if loaded.is_held_out:
            apart = [group for group in loaded.groups if not _names(group) & held_out]
            for group in loaded.groups:
                if _names(group) & held_out:
                    drop(dropped["train"][name], "prompt_is_held_out", group.where)
            kept[name] = loaded._replace(groups=apart)
    trained = {_text(group) for loaded in kept.values() for group in loaded.groups}
    for name, loaded in evals.items():
        shared = sum(_text(group) in trained for group in loaded.groups)
        if shared:
            dropped["eval"][name]["prompts_in_train"] = shared
            log.warning("%s: %d prompts of the eval split are trained on, too", name, shared)
    return kept


def _names_of(several: Iterable[Sequence[Group]]) -> set[str]:
    return {name for groups in several for group in groups for name in _names(group)}


def _names(group: Group) -> set[str]:
    """What tells that two groups of different data sets are the same: the prompt, and a question in words
    (numbers count anew in every data set).
    """
    names = {_text(group)}
    if " " in group.question.strip():
        names.add(f"question: {group.question}")
    return names


def _text(group: Group) -> str:
    """The prompt's words, however they are spaced; one user's turn is its text."""
    if isinstance(group.prompt, str):
        return " ".join(group.prompt.split())
    if len(group.prompt) == 1:
        return " ".join(group.prompt[0]["content"].split())
    return " ".join(json.dumps(group.prompt).split())
