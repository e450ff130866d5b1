"""What a name of data opens: a table, and which of its splits is meant.

Contract: a table's rows come anew from the first on whenever they are asked for, one after the other; nothing
keeps them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from groups.rows import Row
from utils import UserError

FILE_SPLITS = ("train", "eval", "test", "all")  # of data that has no splits of its own
SPLIT_NAMES = {  # our name of a split: its usual names, the first one that is there counts
    "train": ("train", "train_prefs", "train_sft"),
    "eval": ("eval", "validation", "valid", "val", "dev", "test_prefs", "test_sft", "test"),
    "test": ("test", "test_prefs", "test_sft", "eval", "validation", "valid", "val", "dev"),
}
OF_SPLITS = {usual for names in SPLIT_NAMES.values() for usual in names} | {"test_questions"}


class Table(NamedTuple):
    """The rows of a data set, as they are in its files."""

    place: str  # the file or files, or the data set and its split
    rows: Callable[[], Iterator[tuple[str, Row]]]  # every row with its place, from the first on
    whole: bool  # whether they hold all splits, so that an eval split must be held out
    member: str  # what stands behind the colon (a country); "" where nothing does
    identity: Callable[[], str]  # a hash of the contents that the rows come from


class Choice(NamedTuple):
    """What is read of data that has splits of its own."""

    splits: tuple[str, ...]  # by their names there
    whole: bool  # whether they are one split that holds all of ours


def choose_split(name: str, split: str, present: Sequence[str]) -> Choice:
    """Which of the splits that are present is ours: eval is eval, validation, ..., test_prefs or test.

    Data with none of these is all in its train split. `all` is every split of a usual name, but train_sft and
    test_sft beside train_prefs and test_prefs, whose prompts they hold again. Raises UserError where there is
    no such split.
    """
    has_eval = any(usual in present for usual in SPLIT_NAMES["eval"])
    ours = [usual for usual in present if usual in OF_SPLITS]
    if split == "all" and split not in present and ours:
        of_pairs = {usual.replace("_prefs", "_sft") for usual in ours if usual.endswith("_prefs")}
        return Choice(tuple(usual for usual in ours if usual not in of_pairs), not has_eval)
    whole = split in FILE_SPLITS and not has_eval
    wanted = "train" if whole else split
    for usual in SPLIT_NAMES.get(wanted, (wanted,)):
        if usual in present:
            return Choice((usual,), whole)
    raise UserError(f"data set {name}: no split {split}; it has {', '.join(present)}")
