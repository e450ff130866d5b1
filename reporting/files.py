"""JSON from files that another program may have touched: each value is of the kind it should be.

Contract: what does not fit is a UserError that names file, line and field, with a remedy.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from utils import UserError

READ_AT_ONCE = 1 << 20  # bytes


class Fields(NamedTuple):
    """A JSON object, and where it stands."""

    values: Mapping[str, object]
    place: str
    remedy: str

    def text(self, key: str) -> str:
        """A text that must be there."""
        value = self.values.get(key)
        return value if isinstance(value, str) else self.refuse(key, "a text")

    def text_or_none(self, key: str) -> str | None:
        """A text; None where it is null or not there."""
        return None if self.values.get(key) is None else self.text(key)

    def number(self, key: str) -> float:
        """A number that must be there."""
        value = self.values.get(key)
        return value if _is_number(value) else self.refuse(key, "a number")

    def number_or_none(self, key: str) -> float | None:
        """A number; None where it is null or not there."""
        return None if self.values.get(key) is None else self.number(key)

    def truth_or_none(self, key: str) -> bool | None:
        """True or false; None where it is null or not there."""
        value = self.values.get(key)
        return value if value is None or isinstance(value, bool) else self.refuse(key, "true or false")

    def numbers(self, key: str) -> list[float]:
        """A list of numbers."""
        value = self.values.get(key)
        fits = isinstance(value, list) and all(map(_is_number, value))
        return value if fits else self.refuse(key, "a list of numbers")

    def texts(self, key: str) -> list[str]:
        """A list of texts."""
        value = self.values.get(key)
        fits = isinstance(value, list) and all(isinstance(item, str) for item in value)
        return value if fits else self.refuse(key, "a list of texts")

    def truths(self, key: str) -> list[bool]:
        """A list of true and false."""
        value = self.values.get(key)
        fits = isinstance(value, list) and all(isinstance(item, bool) for item in value)
        return value if fits else self.refuse(key, "a list of true and false")

    def inner(self, key: str) -> Fields:
        """An object in this one."""
        value = self.values.get(key)
        if not isinstance(value, dict):
            self.refuse(key, "an object")
        return Fields(value, f"{self.place}, {key}", self.remedy)

    def prompt(self, key: str) -> str | list[dict[str, str]]:
        """A prompt: a text, or messages."""
        value = self.values.get(key)
        if isinstance(value, str):
            return value
        is_conversation = isinstance(value, list) and all(
            isinstance(message, dict) and isinstance(message.get("content"), str) for message in value
        )
        return value if is_conversation else self.refuse(key, "a text, or messages")

    def refuse(self, key: str, kind: str):
        """Raises UserError: the field is none of that kind."""
        raise UserError(f"{self.place}: {key} must be {kind}; {self.remedy}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def read_object(path: Path, remedy: str) -> Fields:
    """The JSON object of a file. Raises UserError where it cannot be read, or is none."""
    return object_of(_bytes_of(path, remedy), str(path), remedy)


def read_lines(path: Path, remedy: str, grows: bool = False) -> Iterator[Fields]:
    """The objects of a file of JSON lines; none where there is no file.

    grows: a process may be writing it: a last line without an end is not yet there. Raises UserError where a
    line is none.
    """
    if not path.exists():
        return
    lines = _bytes_of(path, remedy).split(b"\n")
    if grows:
        lines = lines[:-1]
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield object_of(line, f"{path}, line {number}", remedy)


def object_of(content: bytes, place: str, remedy: str) -> Fields:
    """A JSON object. Raises UserError where it is none."""
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place}: is no JSON ({str(error).splitlines()[0]}); {remedy}") from error
    if not isinstance(values, dict):
        raise UserError(f"{place}: must be an object; {remedy}")
    return Fields(values, place, remedy)


def _bytes_of(path: Path, remedy: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {remedy}") from error


def hashes_of(folder: Path, *names: str) -> dict[str, str]:
    """The SHA-256 of those of these files that are there, by name."""
    return {name: _sha256(folder / name) for name in names if (folder / name).is_file()}


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(READ_AT_ONCE):
            digest.update(part)
    return digest.hexdigest()
