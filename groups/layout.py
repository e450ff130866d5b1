"""What a format is: which columns its rows have, of which kinds, and who reads them.

Contract: a format says all columns that it uses; what it names nowhere is metadata.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import NamedTuple

from groups.kinds import ANYTHING, NUMBER, TEXT, Kind, is_blank
from groups.pairs import SCORE_COLUMNS
from groups.rows import Reader, Row

Fields = Mapping[str, Kind]


def always(row: Row) -> bool:
    """Nothing else tells the format."""
    return True


class Format(NamedTuple):
    """A layout of rows that people have."""

    name: str  # as `format=` takes it
    fields: Fields  # the columns that every row has, with the kinds of their values
    read: Reader  # of some rows, in their order
    # rows with one key belong to one prompt and are read together; None: a row has all of its prompt
    key: Callable[[Row], Hashable] | None = None
    takes_member: bool = False  # one of its members (a country) may be named behind a colon
    optional: Fields = {}  # columns that it uses where a row has them
    repeated: frozenset[str] = frozenset()  # columns that say again what others say
    looks_like: Callable[[Row], bool] = always  # what else tells it, when formats are recognised
    uses_all: bool = False  # whether every other column is one that it uses (a group of people, say)
    is_recognised: bool = True  # False: rows are of it where `format=` names it
    is_named: bool = False  # whether `format=` named it, and columns that others would use are ignored

    @property
    def columns(self) -> frozenset[str]:
        """The columns that every row has."""
        return frozenset(self.fields)

    def fits(self, row: Row) -> bool:
        """Has a row what this format needs, in the right kinds?"""
        if not self.columns <= row.keys():
            return False
        if not all(kind.holds(row[column]) for column, kind in self.fields.items()):
            return False
        optional = ((row.get(column), kind) for column, kind in self.optional.items())
        return all(is_blank(value) or kind.holds(value) for value, kind in optional) and self.looks_like(row)

    def used(self, row: Row) -> frozenset[str]:
        """The columns of a row that this format uses."""
        return frozenset(
            c for c in (*self.fields, *self.optional, *self.repeated) if c in row and not is_blank(row[c])
        )


def all_of(*columns: str) -> Fields:
    """Columns whose values their reader checks."""
    return dict.fromkeys(columns, ANYTHING)


SYSTEM: Fields = {"system": TEXT, "system_prompt": TEXT}
SCORED: Fields = dict.fromkeys(SCORE_COLUMNS, NUMBER)
