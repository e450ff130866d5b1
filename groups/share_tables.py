"""Readers of a plain table of shares or counts: a row an option of a question in a group of people.

Contract: as in `questions`. Rows that contradict one another are a UserError that names the first of them.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple

from groups.questions import Question, groups_of, known_labels
from groups.record import Group
from groups.rows import Row, Rows, Source, is_share, text_field
from groups.values import clipped, is_absent, parsed
from utils import UserError


class _Option(NamedTuple):
    """One row of a plain table."""

    where: str
    words: str
    mass: float
    weight: float | None
    is_count: bool
    label: str | None  # of its class, where the row states it
    asked: int | None  # people who answered the question, where the row states it


def read_shares(rows: Rows, source: Source) -> list[Group]:
    """A plain table: question, option, share or count, and where they are: group, weight, class, n.

    The rows of one question and group of people are a `Group`, its options in their order. A weight
    multiplies the share or count. Counts of an option that comes again add up, and so do weighted shares;
    raises UserError for shares of it without weights.
    """
    groups = []
    for question in share_questions(rows, source.classes):
        groups += groups_of(question, source)
    return groups


def share_questions(rows: Rows, classes: Sequence[str]) -> Iterator[Question]:
    """The questions of all rows; those of one need not stand together."""
    questions: dict[tuple[str, str], list[_Option]] = {}
    for where, row in rows:
        (name,) = shares_group(where, row)
        option = _option(where, row, classes)
        questions.setdefault((text_field(row, "question", where), name), []).append(option)
    for (text, name), members in questions.items():
        yield _merged(text, name, members)


def key_of_shares(row: Row) -> Hashable:
    """What the rows of one `Group` have in common."""
    return str(row.get("question")), str(row.get("group"))


def shares_group(where: str, row: Row) -> list[str]:
    """The group of people of a row, "" where it names none. Raises UserError for what is no text."""
    name = row.get("group")
    if isinstance(name, list | dict):
        raise UserError(f"{where}: field group: holds a {type(name).__name__}; give a text")
    return ["" if is_absent(name) else str(name)]


def _option(where: str, row: Row, classes: Sequence[str]) -> _Option:
    words = row.get("option")
    if is_absent(words) or isinstance(words, list | dict):
        raise UserError(f"{where}: field option: is no text; give the option's words")
    field = "share" if is_absent(row.get("count")) else "count"
    mass, weight = parsed(row.get(field)), parsed(row.get("weight"))
    if not is_share(mass):
        raise UserError(
            f"{where}: field {field}: {clipped(row.get(field))} is no number of 0 or more; correct the row"
        )
    if is_absent(weight):
        weight = None
    elif not is_share(weight):
        raise UserError(
            f"{where}: field weight: {clipped(weight)} is no number of 0 or more; correct the row"
        )
    label = None
    if not is_absent(row.get("class")):
        (label,) = known_labels([row["class"]], where, "class", classes)
    asked = parsed(row.get("n"))
    if is_absent(asked):
        asked = None
    elif not is_share(asked) or not float(asked).is_integer():
        raise UserError(
            f"{where}: field n: {clipped(row['n'])} is no number of people; correct the row, or leave n out"
        )
    return _Option(where, str(words), mass, weight, field == "count", label, asked)


def _merged(text: str, name: str, members: Sequence[_Option]) -> Question:
    """The question of some rows. Raises UserError where they contradict one another."""
    first = members[0]
    for field, values in (
        ("weight", {m.weight is None for m in members}),
        ("class", {m.label is None for m in members}),
    ):
        if len(values) > 1:
            raise UserError(f"{first.where}: field {field}: not all options of the question have it; add it")
    masses: dict[str, float] = {}
    labels: dict[str, str] = {}
    for option in members:
        if option.words in masses and option.weight is None and not option.is_count:
            raise UserError(
                f"{option.where}: field option: {option.words} comes a second time; correct the row, "
                "or add counts or weights by which shares add up"
            )
        mass = option.mass * (1 if option.weight is None else option.weight)
        masses[option.words] = masses.get(option.words, 0) + mass
        if option.label is not None and labels.setdefault(option.words, option.label) != option.label:
            raise UserError(
                f"{option.where}: field class: {clipped(option.words)} has two classes; correct the row"
            )
    shares = {name: list(masses.values())}
    return Question(first.where, text, list(masses), list(labels.values()), shares, _asked(members))


def _asked(members: Sequence[_Option]) -> int | None:
    """How many people answered: as the rows state it in n, else by their counts, without weights.

    Differing numbers of an option that comes again add up. Raises UserError where the options' differ.
    """
    stated: dict[str, int] = {}
    for option in members:
        if option.asked is not None:
            stated[option.words] = stated.get(option.words, 0) + int(option.asked)
    numbers = sorted({int(option.asked) for option in members if option.asked is not None})
    if len(numbers) > 1:
        numbers = sorted(set(stated.values()))
    if len(numbers) > 1:
        raise UserError(
            f"{members[0].where}: field n: is {numbers[0]} and {numbers[-1]} for one question; give how many "
            "people answered it, in all of its rows, or leave n out"
        )
    if numbers:
        return numbers[0]
    counts = [option.mass for option in members if option.is_count and float(option.mass).is_integer()]
    return int(sum(counts)) if len(counts) == len(members) else None
