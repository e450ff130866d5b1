"""Several groups of people in one evaluation, as report.json has them.

Contract: records of plain numbers; `as_json` and `read_groups` are each other's inverse. Names are data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from measures.summaries import Summary
from reporting.files import Fields

Matrix = Sequence[Sequence[Summary]]  # [whose p*][whose prompt]
ByDistance = Mapping[str, Summary]

HELD_OUT = " (held out)"


class OfCheckpoint(NamedTuple):
    """What the groups say of one checkpoint."""

    by_group: Mapping[str, Mapping[str, Summary]]  # by group and metric, on its own prompts
    matrix: Mapping[str, Matrix]  # by distance
    steering: ByDistance


class PeopleGroups(NamedTuple):
    """All groups of people of an evaluation."""

    names: Sequence[str]
    held_out: Sequence[str]  # that nothing was trained on
    in_prompt: bool  # whether prompts name them
    checkpoints: Mapping[str, OfCheckpoint]
    between: Mapping[str, Matrix]  # the groups' own distributions against one another
    apart: ByDistance  # the steering of a perfect model

    def title(self, name: str) -> str:
        """A group's name in a table."""
        return f"{name}{HELD_OUT}" if name in self.held_out else name


# --- report.json --------------------------------------------------------------------------------------------


def as_json(groups: PeopleGroups) -> dict[str, object]:
    """The value of the key `groups`."""
    checkpoints = {name: of._asdict() for name, of in groups.checkpoints.items()}
    return {**groups._asdict(), "checkpoints": checkpoints}


def read_groups(fields: Fields) -> PeopleGroups:
    """The same, read. Raises UserError where it is damaged."""
    names = fields.texts("names")
    of_checkpoints = fields.inner("checkpoints")
    checkpoints = {}
    for name in of_checkpoints.values:
        of = of_checkpoints.inner(name)
        by_group = of.inner("by_group")
        checkpoints[name] = OfCheckpoint(
            {group: _summaries(by_group.inner(group)) for group in by_group.values},
            _matrices(of.inner("matrix"), len(names)),
            _summaries(of.inner("steering")),
        )
    in_prompt = fields.truth_or_none("in_prompt")
    return PeopleGroups(
        names,
        fields.texts("held_out"),
        bool(in_prompt),
        checkpoints,
        _matrices(fields.inner("between"), len(names)),
        _summaries(fields.inner("apart")),
    )


def summary_of(fields: Fields) -> Summary:
    """A mean with its interval. Raises UserError where it is none."""
    value, low, high = (fields.number_or_none(key) for key in ("value", "low", "high"))
    return {"value": value, "low": low, "high": high, "n": int(fields.number("n"))}


def _summaries(fields: Fields) -> dict[str, Summary]:
    return {key: summary_of(fields.inner(key)) for key in fields.values}


def _matrices(fields: Fields, size: int) -> dict[str, Matrix]:
    found = {}
    for key, rows in fields.values.items():
        is_square = isinstance(rows, list) and len(rows) == size
        if not is_square or not all(isinstance(row, list) and len(row) == size for row in rows):
            fields.refuse(key, f"{size} rows of {size} numbers with intervals")
        cells = [[Fields({"cell": cell}, fields.place, fields.remedy) for cell in row] for row in rows]
        found[key] = [[summary_of(cell.inner("cell")) for cell in row] for row in cells]
    return found
