"""What people of one group answered to one question, and how published surveys say it.

Contract: a tally holds what its source says and no more: `n` is None where it does not say how many answered.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from groups import choose_format, open_table
from groups.questions import Question, is_named
from groups.rows import is_share
from groups.surveys import MEMBERS, MOST_NAMED, questions_of
from settings import DataSet
from synthesis.record import Origin
from utils import UserError

EVERYBODY = "everybody"
COLUMNS_OF_PEOPLE = (
    "where a file has a row for each person, name its columns: question= and answer=, or questions=a,b"
)
TABLES = ("shares", "counts")  # formats of a row an option
ROUNDING = 0.03  # shares that were rounded sum to 1, or to 100, up to this part of it


class Tally(NamedTuple):
    """The answers of one group to one question."""

    key: str  # of the question, one in its source
    question: str
    group: str
    options: tuple[str, ...]
    counts: tuple[float, ...]  # weighted answers, or shares, in the options' order
    n: int | None  # people who answered; None: the source does not say
    labels: tuple[str, ...] = ()  # the options' classes, where the source states them
    fault: str = ""  # why it cannot be used, as its source stands
    scale: tuple[str, ...] = ()  # all options that the source names, those that nobody chose, too; (): none


class Survey(NamedTuple):
    """All tallies of a source."""

    origin: Origin
    tallies: tuple[Tally, ...]


def read_published(source: DataSet, countries: Sequence[str] | None, classes: Sequence[str]) -> Survey:
    """The tallies of a source of shares or counts. countries: the groups to take; None: all.

    Raises UserError for a row that is none of its format, shares in a plain table that do not sum to 1, and a
    country that no row has.
    """
    table = open_table(source.name, source.split or "all")
    rows = list(table.rows())
    try:
        known = choose_format(rows, table.place, source.format)
    except UserError as error:
        raise UserError(f"{error}; {COLUMNS_OF_PEOPLE}") from error
    if known.name not in MEMBERS:
        raise UserError(
            f"{table.place}: is of format {known.name}, which has no shares of answers; {COLUMNS_OF_PEOPLE}"
        )
    member = "+".join(countries) if countries else table.member
    tallies = []
    present: dict[str, None] = {}
    numbers: dict[str, int] = {}
    for number, question in enumerate(questions_of(known.name, rows, classes), 1):
        present.update(dict.fromkeys(question.shares))
        named = [name for name in question.shares if is_named(name, member)]
        if known.name in TABLES:  # where each group of people has the question in rows of its own
            number = numbers.setdefault(question.text, len(numbers) + 1)
        tallies += [_tally(f"{number:05d}", question, name, known.name) for name in named]
    for name in countries or [member]:
        if name and not any(is_named(there, name) for there in present):
            some = ", ".join(list(present)[:MOST_NAMED]) + (", ..." if len(present) > MOST_NAMED else "")
            raise UserError(f"{table.place}: no group {name}; it has {some}")
    return Survey(Origin(source.name, table.identity(), len(rows)), tuple(tallies))


def _tally(key: str, question: Question, name: str, known: str) -> Tally:
    shares = question.shares[name]
    options, labels = tuple(question.options), tuple(question.labels)
    group = name or EVERYBODY
    fits = isinstance(shares, list) and len(shares) == len(options) and all(map(is_share, shares))
    if not fits:
        fault = "shares do not fit the options"
        return Tally(key, question.text, group, options, (), None, labels, fault)
    total = sum(shares)
    fault = "" if total > 0 else "no answers"
    is_count = known in ("counts", "opinionqa")
    if not is_count and total > 0 and not _is_whole(total):
        fault = f"shares that do not sum to 1: {total:.4g}"
        if known == "shares":
            raise UserError(
                f"{question.where}: field share: the question's shares sum to {total:.4g}; correct them"
            )
    return Tally(key, question.text, group, options, tuple(map(float, shares)), question.asked, labels, fault)


def _is_whole(total: float) -> bool:
    return abs(total - 1) <= ROUNDING or abs(total / 100 - 1) <= ROUNDING
