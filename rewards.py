"""Rewards that a program computes: how far a response keeps to the constraints that its prompt states.

Contract: pure functions of text. Every satisfaction is in [0, 1], and 1 exactly where the constraint is met;
what has degrees (a length, a share of words) gets partial credit. A response without a word meets nothing.
Whether a response is true or sensible is not asked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from constraints import KINDS, SCRIPTS, composed, words_of
from utils import UserError

MOST = 10.0  # the reward of a response that meets all constraints
MOST_COUNTED = 10**6
Argument = int | str | list[str]


class Constraint(NamedTuple):
    """One thing that a prompt asks of its response, of one of KINDS."""

    kind: str
    arguments: Mapping[str, Argument]


def reward(constraints: Sequence[Constraint], response: str) -> float:
    """The mean satisfaction of at least one constraint, times 10: 0 to 10."""
    return MOST * math.fsum(satisfaction(one, response) for one in constraints) / len(constraints)


def satisfaction(constraint: Constraint, response: str) -> float:
    """How far a response meets a constraint: 0 to 1, which is that it does."""
    text = composed(response).strip()
    if not words_of(text):
        return 0.0
    return KINDS[constraint.kind].met(text, **constraint.arguments)


def constraints_of(rows: object, where: str) -> tuple[Constraint, ...]:
    """The constraints of plain JSON, [{"kind": "words", "at_least": 20, "at_most": 40}, ...].

    Raises UserError for an unknown kind, or arguments that are not the kind's.
    """
    if not isinstance(rows, list) or not rows:
        raise UserError(f"{where}: field constraints: missing or empty; write a list of objects with a kind")
    return tuple(_constraint_of(row, where) for row in rows)


def _constraint_of(row: object, where: str) -> Constraint:
    kind = row.get("kind") if isinstance(row, dict) else None
    if not isinstance(kind, str) or kind not in KINDS:
        raise UserError(
            f"{where}: field constraints: kind {kind!r} is unknown; take one of {', '.join(KINDS)}"
        )
    needed, taken = KINDS[kind].needed, KINDS[kind].needed + KINDS[kind].optional
    arguments = {name: value for name, value in row.items() if name != "kind"}
    for name, value in arguments.items():
        if name not in taken:
            raise _wrong(where, kind, name, f"is unknown; {kind} takes {', '.join(taken) or 'no others'}")
        if not FORMS[name].fits(value):
            raise _wrong(where, kind, name, f"{value!r} is impossible; give {FORMS[name].words}")
    for name in needed:
        if name not in arguments:
            raise _wrong(where, kind, name, f"is missing; give {FORMS[name].words}")
    if "at_least" in taken:
        _check_range(arguments, where, kind)
    return Constraint(kind, arguments)


def _check_range(arguments: Mapping[str, object], where: str, kind: str) -> None:
    least, most = arguments.get("at_least"), arguments.get("at_most")
    if least is None and most is None:
        raise _wrong(where, kind, "at_least", "is missing, and so is at_most; give one or both")
    if least is not None and most is not None and least > most:
        raise _wrong(where, kind, "at_least", f"{least} is above at_most {most}; exchange them")


def _wrong(where: str, kind: str, name: str, problem: str) -> UserError:
    return UserError(f"{where}: field constraints: {kind}: {name} {problem}")


# --- arguments ----------------------------------------------------------------------------------------------


class Form(NamedTuple):
    """What an argument may be, and how to say it."""

    fits: Callable[[object], bool]
    words: str


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= MOST_COUNTED


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_list(value: object, fits: Callable[[object], bool]) -> bool:
    return isinstance(value, list) and bool(value) and all(map(fits, value))


def _is_phrase(value: object) -> bool:
    return isinstance(value, str) and bool(words_of(value))


COUNT = Form(_is_count, f"a whole number of 0 to {MOST_COUNTED}")
PHRASE = Form(_is_phrase, "a text with a word in it")
FORMS = {
    "at_least": COUNT,
    "at_most": COUNT,
    "percent": Form(lambda value: _is_count(value) and 1 <= value <= 100, "a whole number of 1 to 100"),
    "keys": Form(lambda value: _is_list(value, _is_text), "a list of texts"),
    "texts": Form(lambda value: _is_list(value, _is_phrase), "a list of texts with a word in each"),
    "phrase": PHRASE,
    "mark": Form(_is_text, "a text"),
    "letter": Form(lambda value: _is_text(value) and len(value) == 1 and value.isalpha(), "one letter"),
    "script": Form(lambda value: value in SCRIPTS, f"one of {', '.join(SCRIPTS)}"),
}
