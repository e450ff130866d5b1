"""What tasks of synthesis share: items and their results, and where the data came from.

Contract: records are frozen and hold plain JSON values.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Set
from typing import NamedTuple

Json = str | int | float | bool | None | list["Json"] | dict[str, "Json"]


class Tokens(NamedTuple):
    """What models read and wrote for an item, whether now or in an earlier command."""

    prompt: int = 0
    completion: int = 0

    def __add__(self, other: object) -> Tokens:
        if not isinstance(other, Tokens):
            return NotImplemented
        return Tokens(self.prompt + other.prompt, self.completion + other.completion)


NO_TOKENS = Tokens()


class Item(NamedTuple):
    """One thing to make: a question's distribution, one answer, the samples of a prompt."""

    key: str  # its name: different in one task
    inputs: Json = None  # all that determines its result beside the task's facts: texts, its own seed


class Result(NamedTuple):
    """What became of an item, once and for all."""

    value: Json  # what was made; None where it was rejected
    rejected: str = ""  # why there is no value; "": there is one
    tokens: Tokens = NO_TOKENS


class Origin(NamedTuple):
    """A source of the data."""

    name: str  # as the config has it
    identity: str  # a hash of its contents; "" where there is none
    rows: int

    @property
    def fact(self) -> Json:
        """What a task's results depend on."""
        return [self.name, self.identity]


class Maker(NamedTuple):
    """A model that wrote or judged."""

    role: str  # "writes", "judges", "maps options"
    model: str
    server: str  # its address without user, password and query; "": this machine


class Provenance(NamedTuple):
    """What `synthesis.json` says beside the counts, tokens and rejects of the work itself."""

    origins: tuple[Origin, ...] = ()
    makers: tuple[Maker, ...] = ()
    prompts: Mapping[str, str] = {}  # by their role, the templates that were sent
    counts: Mapping[str, Json] = {}  # of what is in the data, and of what was left out
    licence: str | None = None  # of the sources, as the user says


def key_apart(key: str, taken: Set[str]) -> str:
    """The key, or where it is taken the first of `key (2)`, `key (3)`, ... that is not."""
    number, apart = 1, key
    while apart in taken:
        number += 1
        apart = f"{key} ({number})"
    return apart


def digest(value: object) -> str:
    """A hash of plain JSON values."""
    text = json.dumps(value, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
