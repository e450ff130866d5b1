"""The rows of data sets, as they stand and as groups, for tasks that put them together or apart.

Contract: rows of one format are written as they stand, with all of their columns. Those of several formats,
and those of formats with several rows a prompt, are written in this project's own format.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

from groups import OWN, Drops, Group, Source, choose_format, draw_pairs, loading, open_table, read_groups
from groups.loading import Reading
from settings import DataSet
from synthesis.config import SynthesisSettings
from synthesis.record import Json, Origin
from utils import UserError

PAIRS = 16  # a prompt, where the loader draws them

Row = dict[str, Json]


class Entry(NamedTuple):
    """One prompt of a data set."""

    group: Group
    row: Row | None  # as it stands in the file; None: it is of several rows, or of no file

    @property
    def prompt(self) -> str:
        """Its words, on one line for each message."""
        prompt = self.group.prompt
        return prompt if isinstance(prompt, str) else "\n".join(message["content"] for message in prompt)

    @property
    def text(self) -> str:
        """All that it says."""
        return "\n".join([self.prompt, *(response.text for response in self.group.responses)])


class Entries(NamedTuple):
    """A data set."""

    name: str
    format: str
    entries: tuple[Entry, ...]
    dropped: Drops
    origin: Origin


def read_entries(source: DataSet, settings: SynthesisSettings) -> Entries:
    """The prompts of a data set. Raises UserError for an unknown name or split, and an invalid row."""
    split, classes = source.split or "all", settings.belief_classes
    identity = loading.identity(source.name, split)
    dropped = Drops()
    known = loading.format_of(source.name, split, _reading(source, settings))
    if known is None or known.key is not None or open_table(source.name, split).member:
        everything = loading.everything_of(source, split, _reading(source, settings))
        entries = [Entry(_without_drawn_pairs(group, settings), None) for group in everything.groups]
        name = "" if known is None else known.name
        origin = Origin(source.name, identity, everything.dropped["rows_read"])
        return Entries(source.name, name, tuple(entries), everything.dropped, origin)
    table = open_table(source.name, split)
    rows = list(table.rows())
    known = choose_format(rows, table.place, source.format)
    entries = []
    for where, row in rows:
        for group in read_groups(known, [(where, row)], Source(classes, "", dropped)):
            entries.append(Entry(group, row))
    return Entries(source.name, known.name, tuple(entries), dropped, Origin(source.name, identity, len(rows)))


def _reading(source: DataSet, settings: SynthesisSettings) -> Reading:
    return Reading(settings.seed, settings.belief_classes, PAIRS, 0.0, source.format)


def _without_drawn_pairs(group: Group, settings: SynthesisSettings) -> Group:
    """Without pairs that the loader drew, as every run does anew."""
    bare = group._replace(pairs=())
    if not group.belief_probs:
        return group
    drawn = draw_pairs(bare, settings.belief_classes, PAIRS, settings.seed)
    return bare if drawn == group.pairs else group


def rows_of(chosen: Sequence[tuple[Entries, Entry]]) -> list[Row]:
    """The rows to write. Raises UserError for data that our own format cannot hold, where it must."""
    formats = {of.format for of, _ in chosen}
    if len(formats) == 1 and all(entry.row is not None for _, entry in chosen):
        return [entry.row for _, entry in chosen if entry.row is not None]
    return [own_row(entry.group, of.name) for of, entry in chosen]


def own_row(group: Group, name: str) -> Row:
    """A group as a row of our own format. Raises UserError for one that it cannot hold.

    name: of its data set, for the error.
    """
    if group.labels or not all(response.text.strip() for response in group.responses):
        what = "labels of single responses" if group.labels else "beliefs without answers"
        raise UserError(
            f"data set {name}: has {what}, which format {OWN.name} cannot hold; put data of "
            "one format together, or train on several with datasets=a,b"
        )
    responses: list[Json] = []
    for response in group.responses:
        value: Row = {"text": response.text}
        if response.reward is not None:
            value["reward"] = response.reward
        if response.belief is not None:
            value["belief"] = {"class": response.belief.label, "text": response.belief.text}
        responses.append(value)
    prompt: Json = group.prompt if isinstance(group.prompt, str) else [dict(m) for m in group.prompt]
    row: Row = {"id": group.id, "prompt": prompt, "responses": responses}
    if group.pairs:
        row["pairs"] = [list(pair) for pair in group.pairs]
    if group.belief_probs:
        row["belief_probs"] = list(group.belief_probs)
    if group.question:
        row["question"] = group.question
    if group.weight != 1:
        row["weight"] = group.weight
    if group.people:
        row["group"] = group.people
    if group.constraints:
        row["constraints"] = [{"kind": one.kind, **one.arguments} for one in group.constraints]
    return row


def said(entry: Entry) -> str:
    """What two rows that say the same have in common: prompt, responses, rewards, beliefs, and p*."""
    group = entry.group
    values = [group.prompt, group.responses, group.pairs, group.belief_probs, group.labels]
    return json.dumps(values, ensure_ascii=False)
