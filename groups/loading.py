"""A data set's name -> its groups, on the disk: rows are read one after the other, and never all in memory.

Contract: groups come in the order of their rows; those of several rows stand where the first of them stood. A
bad row raises `UserError`; what is left out on purpose is counted, with the first place of each reason.
"""

from __future__ import annotations

import itertools
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from groups.beliefs import read_opinions
from groups.contents import identity_of
from groups.drawing import draw_pairs
from groups.files import DATA, INSTRUCTION_SPLITS, INSTRUCTIONS, OPINION_SPLITS, open_table
from groups.formats import MOST_LOOKED_AT, Format, choose_format, read_groups
from groups.instructions import read_ranked_instructions
from groups.record import Group
from groups.rows import Drops, Row, Source, add_drops, why_dropped
from groups.spilled import Chosen, Spilled
from groups.splits import Loaded, Marker, Marks, numbers_of
from groups.surveys import check_member
from groups.tables import Table
from settings import DataSet
from utils import UserError, log

AT_ONCE = 256  # rows that are read together

NumberedRow = tuple[str, Row]  # (file and row, columns)


class Reading(NamedTuple):
    """How data sets are read, whatever their names."""

    seed: int
    classes: Sequence[str]
    pairs_per_prompt: int
    eval_fraction: float
    format: str | None = None  # of the rows; None: recognised


class Everything(NamedTuple):
    """All groups that were read of a name, and what was left out of them."""

    groups: Sequence[Group]
    marks: Marks
    whole: bool  # whether they hold all splits
    dropped: Drops


def load(data_set: DataSet, split: str, reading: Reading, dropped: Counter) -> Loaded:
    """A data set's split, see `preference_datasets.load_groups`."""
    return split_of(everything_of(data_set, split, reading), split, reading, dropped)


def everything_of(data_set: DataSet, split: str, reading: Reading) -> Everything:
    """All groups that a split of a data set is made of; of the split that it names, where it does."""
    everything = read_everything(data_set.name, data_set.split or split, reading)
    return everything._replace(whole=everything.whole or data_set.split is not None)


def split_of(everything: Everything, split: str, reading: Reading, dropped: Counter) -> Loaded:
    """One split of all that was read."""
    groups, marks, whole, of_all = everything
    add_drops(dropped, of_all)
    if not whole:
        return Loaded(groups, marks, False)
    numbers = numbers_of(marks, split, reading.eval_fraction)
    dropped["in_other_splits"] += len(groups) - len(numbers)
    return Loaded(Chosen(groups, numbers), marks.of(numbers), split != "all")


def embedded_splits(name: str) -> Sequence[str] | None:
    """The splits of an embedded data set; None where the name is another's."""
    if name == INSTRUCTIONS:
        return INSTRUCTION_SPLITS
    if name == "opinions" or name.startswith("opinions/"):
        return OPINION_SPLITS
    return None


def _embedded_groups(name: str, split: str, reading: Reading) -> list[Group]:
    """The groups of an embedded data set. Raises UserError for an unknown one, or an unknown split."""
    if name == INSTRUCTIONS:
        return read_ranked_instructions(split)
    return read_opinions(name, split, reading.seed, reading.pairs_per_prompt, reading.classes)


def read_everything(name: str, split: str, reading: Reading) -> Everything:
    """All groups of a name. Raises UserError for an unknown name or split, or an invalid row."""
    dropped = Drops()
    if embedded_splits(name):
        embedded = _embedded_groups(name, split, reading)
        dropped["rows_read"] = len(embedded)
        return Everything(*_spilled(name, embedded), False, dropped)
    table = open_table(name, split)
    groups, marks = _spilled(name, _groups_of(name, table, reading, dropped))
    if not len(groups):
        rows = dropped["rows_read"]
        log.warning("%s: all %d rows are left out: %s", table.place, rows, why_dropped(dropped))
    return Everything(groups, marks, table.whole, dropped)


def _spilled(name: str, source: Iterable[Group]) -> tuple[Spilled[Group], Marks]:
    """The groups of a data set on the disk, with their marks."""
    groups: Spilled[Group] = Spilled()
    marker = Marker()
    for group in source:
        groups.append(group._replace(dataset=name))
        marker.add(group)
    return groups, marker.marks()


def first_groups(name: str, split: str, reading: Reading) -> list[Group]:
    """Groups of the first rows: for checks that need not wait for the others. Raises UserError as above."""
    if embedded_splits(name):
        return _embedded_groups(name, split, reading)
    table = open_table(name, split)
    rows = list(itertools.islice(table.rows(), MOST_LOOKED_AT))
    known = _format_of(name, table, rows, reading)
    return list(_with_pairs(_read(known, rows[:AT_ONCE], table, reading, Drops()), reading))


def format_of(name: str, split: str, reading: Reading) -> Format | None:
    """Which format the rows are in; None for the embedded data. Raises UserError as above."""
    if embedded_splits(name):
        return None
    table = open_table(name, split)
    return _format_of(name, table, list(itertools.islice(table.rows(), MOST_LOOKED_AT)), reading)


def identity(name: str, split: str) -> str:
    """A hash of all that a data set's rows come from."""
    if embedded_splits(name):
        return identity_of(sorted((DATA / name.split("/")[0]).glob("*.jsonl")))
    return open_table(name, split).identity()


# --- rows -> groups -----------------------------------------------------------------------------------------


def _groups_of(name: str, table: Table, reading: Reading, dropped: Drops) -> Iterator[Group]:
    """The groups of a table, with drawn pairs where they have beliefs and no pairs of their own."""
    rows = table.rows()
    first = list(itertools.islice(rows, MOST_LOOKED_AT))
    known = _format_of(name, table, first, reading)
    if table.member:
        check_member(known.name, table.rows(), table.member, table.place)
    every_row = _counted(itertools.chain(first, rows), dropped)
    parts = _parts(every_row) if known.key is None else _prompts(every_row, known)
    for part in parts:
        yield from _with_pairs(_read(known, part, table, reading, dropped), reading)


def _format_of(name: str, table: Table, first: Sequence[NumberedRow], reading: Reading) -> Format:
    known = choose_format(first, table.place, reading.format)
    if table.member and not known.takes_member:
        raise UserError(
            f"data set {name}: its columns have no members to choose from; remove :{table.member}"
        )
    return known


def _counted(rows: Iterable[NumberedRow], dropped: Drops) -> Iterator[NumberedRow]:
    for row in rows:
        dropped["rows_read"] += 1
        yield row


def _parts(rows: Iterator[NumberedRow]) -> Iterator[list[NumberedRow]]:
    """Some rows at a time, in their order."""
    while part := list(itertools.islice(rows, AT_ONCE)):
        yield part


def _prompts(rows: Iterable[NumberedRow], known: Format) -> Iterator[list[NumberedRow]]:
    """The rows of one prompt at a time, in the order of their first ones."""
    kept: Spilled[NumberedRow] = Spilled()
    number_of_key: dict[int, int] = {}  # by hash
    prompt_of = array("q")
    for where, row in rows:
        kept.append((where, row))
        key = hash(known.key(row))
        prompt_of.append(number_of_key.setdefault(key, len(number_of_key)))
    order = np.argsort(np.array(prompt_of, np.int64), kind="stable")
    ends = np.cumsum(np.bincount(np.array(prompt_of, np.int64)))
    for start, end in itertools.pairwise([0, *ends.tolist()]):
        yield [kept[i] for i in order[start:end]]


def _read(
    known: Format, rows: Sequence[NumberedRow], table: Table, reading: Reading, dropped: Drops
) -> list[Group]:
    return read_groups(known, rows, Source(reading.classes, table.member, dropped))


def _with_pairs(groups: Iterable[Group], reading: Reading) -> Iterator[Group]:
    for group in groups:
        if group.belief_probs and not group.pairs:
            pairs = draw_pairs(group, reading.classes, reading.pairs_per_prompt, reading.seed)
            group = group._replace(pairs=pairs)
        yield group
