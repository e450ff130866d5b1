"""Splits of what has none: whole prompts are held out, and none of them is trained on.

Contract: `held_out` depends on the prompts (and on the questions, where rows name one), never on their order;
groups that share either are on one side. What several data sets of a run share is kept apart by `keep_apart`.
Both look at marks, a few numbers a group, so the groups may stay on the disk.
"""

from __future__ import annotations

import hashlib
import json
import math
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from groups.record import Group
from groups.rows import drop
from groups.spilled import Chosen
from utils import log

NO_MARK = 0  # of a question where there is none


class Marks(NamedTuple):
    """What tells groups apart, as hashes; (N,) numbers each."""

    prompt: np.ndarray  # (N, 2) of the prompt as it stands
    text: np.ndarray  # of the prompt's words, however they are spaced
    question: np.ndarray  # of the question's name, or NO_MARK
    words: np.ndarray  # of a question in words, or NO_MARK: other names count anew in every data set

    def of(self, numbers: np.ndarray) -> Marks:
        """The marks of some of the groups."""
        return Marks(*(column[numbers] for column in self))


class Marker:
    """Gathers the marks of groups, one after the other."""

    def __init__(self, groups: Iterable[Group] = ()) -> None:
        self.columns = [array("Q") for _ in Marks._fields]
        for group in groups:
            self.add(group)

    def add(self, group: Group) -> None:
        if group.prompt == "":  # texts alone: each is a prompt of its own
            group = group._replace(prompt=group.responses[0].text)
        prompt, text, question, words = self.columns
        digest = hashlib.sha256(json.dumps(group.prompt).encode()).digest()
        prompt.extend((int.from_bytes(digest[:8]), int.from_bytes(digest[8:16])))
        text.append(_hash(_text(group)))
        question.append(_hash(group.question) if group.question else NO_MARK)
        words.append(_hash(group.question) if " " in group.question.strip() else NO_MARK)

    def marks(self) -> Marks:
        """Those of all groups so far."""
        prompt, *others = [np.array(column, np.uint64) for column in self.columns]
        return Marks(prompt.reshape(-1, 2), *others)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) or 1


def _text(group: Group) -> str:
    """The prompt's words, however they are spaced; one user's turn is its text."""
    if isinstance(group.prompt, str):
        return " ".join(group.prompt.split())
    if len(group.prompt) == 1:
        return " ".join(group.prompt[0]["content"].split())
    return " ".join(json.dumps(group.prompt).split())


# --- one data set -------------------------------------------------------------------------------------------


def numbers_of(marks: Marks, split: str, fraction: float) -> np.ndarray:
    """The numbers of the groups in one split of data that has no splits of its own.

    `eval` (or `test`) is the ceil(fraction * prompts) different prompts of smallest hash, with all their
    groups; `train` the others, `all` every one. Prompts of one question count as one. The order of the groups
    stays.
    """
    if split == "all" or not len(marks.text):
        return np.arange(len(marks.text))
    units = _units(marks)
    by_hash = np.lexsort((marks.prompt[:, 1], marks.prompt[:, 0]))
    _, smallest = np.unique(units[by_hash], return_index=True)  # where each unit comes first, by hash
    count = math.ceil(fraction * len(smallest))
    held_out = units[by_hash[np.sort(smallest)[:count]]]
    wants_held_out = split != "train"
    return np.flatnonzero(np.isin(units, held_out) == wants_held_out)


def _units(marks: Marks) -> np.ndarray:
    """A number for every group (N,); those that share a prompt or a question, directly or not, have one."""
    count = len(marks.text)
    _, prompts = np.unique(marks.prompt, axis=0, return_inverse=True)
    asked = np.flatnonzero(marks.question != NO_MARK)
    _, questions = np.unique(marks.question[asked], return_inverse=True)
    first_question = count + count  # nodes: the groups, then their prompts, then their questions
    groups = np.concatenate([np.arange(count), asked])
    names = np.concatenate([count + prompts.reshape(-1), first_question + questions.reshape(-1)])
    edges = coo_array((np.ones(len(groups), np.int8), (groups, names)), shape=(3 * count, 3 * count))
    _, units = connected_components(edges, directed=False)
    return units[:count]


# --- the splits of a run ------------------------------------------------------------------------------------


class Loaded(NamedTuple):
    """The groups of one split of a data set, and their marks."""

    groups: Sequence[Group]
    marks: Marks
    is_held_out: bool  # whether the split was made here, by `numbers_of`


def keep_apart(
    train: Mapping[str, Loaded], evals: Mapping[str, Loaded], dropped: Mapping[str, Mapping[str, Counter]]
) -> dict[str, Loaded]:
    """The train split without prompts that are held out, be it in another data set.

    Where the splits are the data's own, or were named by the user, nothing is left out: what they share is
    counted and said. train, evals: {data set: its groups}. dropped: {split: {data set: counts}}.
    """
    texts = _all(loaded.marks.text for loaded in evals.values())
    questions = _all(loaded.marks.words for loaded in evals.values())
    kept: dict[str, Loaded] = {}
    for name, loaded in train.items():
        kept[name] = loaded
        if loaded.is_held_out:
            of_eval = _is_named(loaded.marks, texts, questions)
            if of_eval.any():
                first = int(np.flatnonzero(of_eval)[0])
                place, count = loaded.groups[first].where, int(of_eval.sum())
                drop(dropped["train"][name], "prompt_is_held_out", place, count)
                apart = np.flatnonzero(~of_eval)
                kept[name] = Loaded(Chosen(loaded.groups, apart), loaded.marks.of(apart), True)
    trained = _all(loaded.marks.text for loaded in kept.values())
    for name, loaded in evals.items():
        shared = int(np.isin(loaded.marks.text, trained).sum())
        if shared:
            dropped["eval"][name]["prompts_in_train"] = shared
            log.warning("%s: %d prompts of the eval split are trained on, too", name, shared)
    return kept


def _all(columns: Iterable[np.ndarray]) -> np.ndarray:
    """Every value of several data sets' columns."""
    return np.unique(np.concatenate([np.empty(0, np.uint64), *columns]))


def _is_named(marks: Marks, texts: np.ndarray, questions: np.ndarray) -> np.ndarray:
    """(N,) whether a group has one of these prompts, or one of these questions in words."""
    has_words = marks.words != NO_MARK
    return np.isin(marks.text, texts) | (has_words & np.isin(marks.words, questions))
