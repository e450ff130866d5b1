"""What readers share: the rows that they get, what they are told beside them, and the checks of one field.

Contract: a reader takes (rows, source) and gives groups. A bad row raises `UserError`; a row that is left out
on purpose is counted in `source.dropped`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from groups.record import Group, Pair, Response
from utils import UserError

Row = dict[str, Any]  # raw JSON: column -> value
Rows = Sequence[tuple[str, Row]]  # (file and row, columns)


class Source(NamedTuple):
    """What a reader is told beside its rows."""

    classes: Sequence[str]  # the belief classes' labels
    member: str  # which member of the data (a country); "" where none is named
    dropped: Counter  # where to count what is left out, by reason


Reader = Callable[[Rows, Source], list[Group]]


class PairsOfPrompt(NamedTuple):
    """The responses and pairs of one prompt, gathered from several rows."""

    where: str  # its first row
    responses: dict[Response, int]  # every different response with its index
    pairs: list[Pair]

    def pair_of(self, preferred: Response, other: Response) -> Pair:
        """The indices of two responses; one that was not seen before gets the next index."""
        first = self.responses.setdefault(preferred, len(self.responses))
        second = self.responses.setdefault(other, len(self.responses))
        return first, second


def is_number(value: Any) -> bool:
    """Whether a raw value is an int of 64 bits or a float (NaN and infinities included), and no bool."""
    if isinstance(value, bool):
        return False
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**63)


def is_share(value: Any) -> bool:
    """Whether a raw value is a number of 0 or more."""
    return is_number(value) and value >= 0


def text_field(row: Row, field: str, where: str) -> str:
    """A field that must hold a text. Raises UserError where it is missing or empty."""
    if not isinstance(row.get(field), str) or not row[field].strip():
        raise UserError(f"{where}: field {field}: missing or empty; give the text or leave the row out")
    return row[field]
