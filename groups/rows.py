"""What readers share: the rows that they get, what they are told beside them, and the checks of one field.

Contract: a reader takes (rows, source) and gives groups. A bad row raises `UserError`; a row that is left out
on purpose is counted in `source.dropped`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from groups.record import Group, Pair, Response
from utils import UserError

Row = dict[str, Any]  # raw JSON: column -> value
Rows = Sequence[tuple[str, Row]]  # (file and row, columns)

NOTE = "note: "  # begins the name of a count that left nothing out
# counts that say nothing of what is left out
NO_DROPS = {"rows_read", "in_other_splits", "prompts_truncated", "responses_truncated"}
LARGEST_REWARD = 1e15  # so that its square fits single precision, and sums of many do


class Drops(Counter):
    """What was left out, by reason, with the place of the first of each."""

    def __init__(self, *counts: Any) -> None:
        super().__init__(*counts)
        self.first: dict[str, str] = {}


def drop(dropped: Counter, reason: str, where: str, count: int = 1) -> None:
    """Count what is left out at a place, which is the first of several."""
    dropped[reason] += count
    if isinstance(dropped, Drops):
        dropped.first.setdefault(reason, where)


def add_drops(dropped: Counter, others: Drops) -> None:
    """Add what was left out of a part to what was left out of the whole."""
    dropped.update(others)
    if isinstance(dropped, Drops):
        dropped.first = {**others.first, **dropped.first}


def left_out(dropped: Counter) -> dict[str, int]:
    """What was left out, by reason, without counts of what was not."""
    return {
        reason: count
        for reason, count in dropped.items()
        if count and reason not in NO_DROPS and not reason.startswith(NOTE)
    }


def why_dropped(dropped: Drops) -> str:
    """What was left out in words: every reason with its count and its first place; "" where nothing was."""
    reasons = [f"{reason} ({dropped[reason]}, first at {where})" for reason, where in dropped.first.items()]
    return ", ".join(reasons)


class Source(NamedTuple):
    """What a reader is told beside its rows."""

    classes: Sequence[str]  # the belief classes' labels
    member: str  # which member of the data (a country); "" where none is named
    dropped: Counter  # where to count what is left out, by reason

    def drop(self, reason: str, where: str) -> None:
        """Count what is left out at a place."""
        drop(self.dropped, reason, where)

    def note(self, reason: str, where: str) -> None:
        """Count what was done to a row that is kept; `where` is its place."""
        self.dropped[f"{NOTE}{reason}"] += 1


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


# --- fields -------------------------------------------------------------------------------------------------


def is_number(value: Any) -> bool:
    """Whether a raw value is an int of 64 bits or a float (NaN and infinities included), and no bool."""
    if isinstance(value, bool):
        return False
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**63)


def is_share(value: Any) -> bool:
    """Whether a raw value is a finite number of 0 or more."""
    return is_number(value) and math.isfinite(value) and value >= 0


def is_reward(value: Any) -> bool:
    """Whether a raw value is a number that single precision holds, with room for its square."""
    return is_number(value) and abs(value) < LARGEST_REWARD


def text_field(row: Row, field: str, where: str) -> str:
    """A field that must hold a text. Raises UserError where it is missing or empty."""
    value = row.get(field)
    if isinstance(value, str) and value.strip():
        return value
    if value is not None and not isinstance(value, str):
        name = "number" if isinstance(value, int | float) else type(value).__name__
        raise UserError(f"{where}: field {field}: holds a {name}; give a text")
    raise UserError(f"{where}: field {field}: missing or empty; give the text or leave the row out")


# --- roles of messages --------------------------------------------------------------------------------------

ROLES = {  # the names that templates know, and the other names that data sets give them
    "user": ("user", "human", "prompter"),
    "assistant": ("assistant", "gpt", "bot", "chatgpt", "chatbot", "model", "ai"),
    "system": ("system", "developer"),
    "tool": ("tool", "function", "observation", "ipython"),
}
USUAL_ROLE = {other: usual for usual, others in ROLES.items() for other in others}


def usual_role(name: str) -> str | None:
    """The name of a role that templates know; None where it is unknown."""
    return USUAL_ROLE.get(name.strip().lower())
