"""What a policy is asked: the prompts of data sets, of files of prompts, and of the embedded instructions.

Contract: every prompt comes once, under a name of its own, without responses. A bad row raises `UserError`.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from evaluation.tasks.prompts import ID_COLUMNS, PROMPT_COLUMNS, SPLIT, TEXT_FILE, read_prompt_file
from groups import INSTRUCTIONS, Drops, Group, loading, open_table, read_instructions
from groups.contents import identity_of
from groups.loading import Reading
from groups.run_splits import drawn
from groups.values import is_absent
from rewards import constraints_of
from settings import DataSet
from synthesis.config import SynthesisSettings
from synthesis.record import Origin, key_apart
from utils import UserError

LOOKED_AT = 20  # rows that tell whether a file holds prompts alone
OF_PROMPTS = {*PROMPT_COLUMNS, *ID_COLUMNS, "category", "constraints", "split"}
PAIRS = 1  # that the loader draws, and nobody looks at


class Asked(NamedTuple):
    """What is asked."""

    groups: list[Group]
    origins: tuple[Origin, ...]
    repeated: int  # rows whose prompt another row has


def read_prompts(settings: SynthesisSettings) -> Asked:
    """The prompts of all sources, `n` of them, drawn by the seed.

    split: of data sets that have splits; null: all. Raises UserError for an unknown name or split, an invalid
    row, and where there are fewer than `n`.
    """
    found: dict[str, Group] = {}
    origins, rows = [], 0
    for source in settings.sources or []:
        if source.weight is not None:
            raise UserError(f"sources: {source.name} has a weight, which is for task=mix; give n, or none")
        groups, origin = _read(source, settings)
        for group in _some(groups, source.n, settings.seed, source.name):
            found.setdefault(json.dumps(group.prompt), group)
            rows += 1
        origins.append(origin)
    if not found:
        names = ", ".join(source.name for source in settings.sources or [])
        raise UserError(f"sources=[{names}]: hold no prompts; give others, or another split=")
    groups = _some(_named_apart(list(found.values())), settings.n, settings.seed, "all sources")
    return Asked(groups, tuple(origins), rows - len(found))


def _some(groups: Sequence[Group], count: int | None, seed: int, name: str) -> list[Group]:
    if count is not None and count > len(groups):
        raise UserError(
            f"sources: {name} has {len(groups)} prompts, and n={count} are asked for; give a smaller n"
        )
    return list(drawn(groups, count, seed))


def _named_apart(groups: Sequence[Group]) -> list[Group]:
    """The groups under ids that differ."""
    taken: set[str] = set()
    named = []
    for group in groups:
        named.append(group._replace(id=key_apart(group.id, taken)))
        taken.add(named[-1].id)
    return named


def _read(source: DataSet, settings: SynthesisSettings) -> tuple[list[Group], Origin]:
    name, split = source.name, source.split or settings.split
    if name == INSTRUCTIONS:
        groups = [instruction.group() for instruction in read_instructions(split)]
        return groups, Origin(name, loading.identity(name, split or "train"), len(groups))
    if source.format is None and _holds_prompts_alone(name):
        if split is not None:
            raise UserError(f"sources: {name} holds prompts without splits; leave split={split} out")
        groups = _of_prompt_file(name)
        return groups, Origin(name, _identity_of_prompts(name), len(groups))
    return _of_data_set(source, split or "all", settings)


def _holds_prompts_alone(name: str) -> bool:
    """Is there nothing in the first rows of a file but prompts and what names them?"""
    if Path(name).suffix.lower() == TEXT_FILE:
        return True
    if loading.embedded_splits(name):
        return False
    rows = itertools.islice(open_table(name, _split_of_prompts(name)).rows(), LOOKED_AT)
    columns = [{column for column, value in row.items() if not is_absent(value)} for _, row in rows]
    return all(held <= OF_PROMPTS for held in columns)


def _split_of_prompts(name: str) -> str:
    """What is read of a place that holds prompts alone."""
    return "all" if Path(name).exists() else SPLIT


def _identity_of_prompts(name: str) -> str:
    if Path(name).suffix.lower() == TEXT_FILE:
        return identity_of([Path(name)])
    return loading.identity(name, _split_of_prompts(name))


def _of_prompt_file(name: str) -> list[Group]:
    groups = []
    for question in read_prompt_file(name):
        given = question.row.get("constraints")
        asked = () if is_absent(given) else constraints_of(given, question.where)
        group = Group(question.id, question.prompt, (), where=question.where, dataset=name)
        groups.append(group._replace(constraints=asked))
    return groups


def _of_data_set(source: DataSet, split: str, settings: SynthesisSettings) -> tuple[list[Group], Origin]:
    fraction = settings.eval_fraction
    reading = Reading(settings.seed, settings.belief_classes, PAIRS, fraction, source.format)
    dropped = Drops()
    loaded = loading.load(source, split, reading, dropped)
    groups = [group._replace(responses=(), pairs=(), labels=()) for group in loaded.groups]
    identity = loading.identity(source.name, source.split or split)
    return groups, Origin(source.name, identity, dropped["rows_read"])
