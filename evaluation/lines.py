"""One line of predictions.jsonl: a response that was sampled, or the scores of given ones.

Contract: lines are read as they were written, whatever a report added to them. What a killed process left of
its last line is cut; a file of anything else is a UserError that names its line, and stays as it is.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from generation import Written
from groups import Prompt
from utils import UserError

BEGIN = b'{"checkpoint": '  # of every line
REMEDY = "set output=<another folder>, or overwrite=true to set the file aside"


class Prediction(NamedTuple):
    """A sampled response, by the names of its line."""

    checkpoint: str
    decoding: str
    sample: int  # its number among those of its prompt
    id: str  # of its group
    dataset: str
    prompt: Prompt
    response: str
    finish: str  # see `generation.Written`
    tokens: int
    seed: int
    max_new_tokens: int
    made_by: str  # a hash of how it was asked, a dash, and a hash of what answered

    @property
    def key(self) -> tuple[str, int]:
        """What it is among all responses of its checkpoint."""
        return self.made_by, self.sample

    @property
    def written(self) -> Written:
        """What a generator handed over."""
        return Written(self.response, self.finish, self.tokens)


class Entry(NamedTuple):
    """A line as it stands in the file."""

    raw: bytes  # with its end
    checkpoint: str
    id: str
    made_by: str
    prediction: Prediction | None  # None: it has the scores of given responses

    @property
    def key(self) -> tuple[str, int] | str:
        """What it is among all lines of its checkpoint."""
        return self.prediction.key if self.prediction else f"{self.id} {self.made_by}"


def as_line(prediction: Prediction) -> bytes:
    """The line of a response."""
    try:
        return json.dumps(prediction._asdict(), ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:  # half of a surrogate pair, which only an escape can say
        return json.dumps(prediction._asdict()).encode() + b"\n"


def read_lines(path: Path) -> list[Entry]:
    """The lines of a file without a torn last one; none where there is no file.

    Raises UserError for a file that is none of ours.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); set output=<another folder>") from error
    *whole, last = content.split(b"\n")
    entries = [_entry(line, f"{path}, line {number}") for number, line in enumerate(whole, 1)]
    is_torn = last.startswith(BEGIN) or (entries and BEGIN.startswith(last)) or not last.strip(b"\0")
    if not is_torn:
        raise _not_ours(f"{path}, its last line")
    return entries


def _entry(line: bytes, place: str) -> Entry:
    """Raises UserError where the line is none of ours."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _not_ours(place) from error
    if not isinstance(values, dict):
        raise _not_ours(place)
    named = [values.get(key) for key in ("checkpoint", "id", "made_by")]
    if not all(isinstance(value, str) for value in named) or named[2].count("-") != 1:
        raise _not_ours(place)
    prediction = None if "logps" in values else _prediction(values, place)
    return Entry(line + b"\n", *named, prediction)


def _prediction(values: dict[str, object], place: str) -> Prediction:
    kinds = {"decoding": str, "sample": int, "dataset": str, "response": str, "finish": str, "tokens": int}
    kinds |= {"seed": int, "max_new_tokens": int, "prompt": str | list}
    for key, kind in kinds.items():
        if not isinstance(values.get(key), kind) or isinstance(values[key], bool):
            raise _not_ours(place)
    return Prediction(*(values[field] for field in Prediction._fields))


def _not_ours(place: str) -> UserError:
    return UserError(f"{place}: is no prediction as this version writes them; {REMEDY}")
