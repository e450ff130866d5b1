"""How an evaluation was made, as a reader copies it: settings, commands, where weights come from, hashes.

Contract: values of report.json's settings go in, texts come out, without secrets.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from reporting.record import Evaluation
from utils import without_secrets

APART = ("unjudged", "scope", "sources", "command")  # shown elsewhere on the page


class Fact(NamedTuple):
    """A setting in words."""

    name: str
    value: str


class Source(NamedTuple):
    """Where a checkpoint is, and a hash of what answered."""

    checkpoint: str
    place: str
    maker: str  # "": its answers are not in predictions.jsonl


def facts_of(evaluation: Evaluation) -> list[Fact]:
    """The settings that the page does not show elsewhere."""
    return [
        Fact(name.replace("_", " "), in_words(value))
        for name, value in evaluation.settings.items()
        if name not in APART
    ]


def in_words(value: object) -> str:
    """A value as a reader has it: without brackets and quotes."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {in_words(inner)}" for name, inner in value.items()) or "-"
    if isinstance(value, list | tuple):
        return ", ".join(map(in_words, value)) or "-"
    return "-" if value is None else without_secrets(str(value))


def sources_of(evaluation: Evaluation) -> list[Source]:
    """All checkpoints that answered."""
    sources = evaluation.settings.get("sources")
    if not isinstance(sources, Mapping):
        return []
    return [Source(name, in_words(place), evaluation.makers.get(name, "")) for name, place in sources.items()]


def commands_of(evaluation: Evaluation) -> list[str]:
    """What made the numbers, where it is known, and what makes the page again."""
    made = evaluation.settings.get("command")
    again = f"python report.py {shlex.quote(shown_path(evaluation.folder))}"
    return [*([without_secrets(made)] if isinstance(made, str) else []), again]


def shown_path(path: str) -> str:
    """A path as short as it is from the working directory."""
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else Path(relative).as_posix()
