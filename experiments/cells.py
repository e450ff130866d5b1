"""Cells: one command each, what it needs, what it makes, and how one knows that it is done.

Contract: a cell is done where its record says so under the hash of its command and of the commands of all
that it needs. A record of another command is never taken for it, and nothing that it made is overwritten.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from utils import UserError, without_secrets, write_json

RECORDS = "cells"  # folder of records and logs, below the experiment's
State = Literal["new", "begun", "done", "changed"]


class Cell(NamedTuple):
    """One command of an experiment."""

    name: str  # "republican/seed-0/gdpo": it names the record and the log, too
    command: tuple[str, ...]  # for Python: ("train.py", "loss=gdpo", ...)
    makes: Path  # the folder or file that is there when it is done
    needs: tuple[str, ...] = ()  # names of cells that must be done before
    plan: tuple[str, ...] = ()  # the command that says what it would take; cells of one plan take the same
    drops: str = ""  # pattern of folders in `makes` that nothing needs once the cell is done

    @property
    def shown(self) -> str:
        """The command as a user would type it, without secrets."""
        return without_secrets(" ".join(["python", *map(quoted, self.command)]))

    @property
    def plain(self) -> str:
        """The command for its hash, without secrets."""
        return without_secrets(" ".join(["python", *self.command]))


OF_RESUME = "*/trainer_state/optimizer"  # what a run that has ended keeps to go on: twice its weights


class Record(NamedTuple):
    """What is kept of a cell."""

    hash: str
    state: Literal["begun", "done"]
    command: str
    seconds: float = 0.0  # at work, all tries that it took together


def in_order(cells: Sequence[Cell]) -> list[Cell]:
    """The cells, each behind those that it needs, otherwise as given.

    Raises ValueError for two of one name, a need that is no cell, and a circle.
    """
    by_name = {cell.name: cell for cell in cells}
    if len(by_name) < len(cells):
        raise ValueError("two cells have one name")
    placed: dict[str, Cell] = {}
    waiting = list(cells)
    while waiting:
        first = next((cell for cell in waiting if all(need in placed for need in cell.needs)), None)
        if first is None:
            raise ValueError(f"{waiting[0].name}: needs what is no cell, or itself")
        placed[first.name] = first
        waiting.remove(first)
    return [*placed.values()]


def hashes_of(cells: Sequence[Cell]) -> dict[str, str]:
    """By name: the hash of a cell's command, and of the commands of all that it needs."""
    hashes: dict[str, str] = {}
    for cell in in_order(cells):
        determined_by = [cell.plain, *(hashes[need] for need in cell.needs)]
        digest = hashlib.blake2b(json.dumps(determined_by).encode(), digest_size=16)
        hashes[cell.name] = digest.hexdigest()
    return hashes


def quoted(argument: str) -> str:
    """An argument for a shell, in double quotes where it has single ones of its own and nothing to expand."""
    if "'" in argument and not set(argument) & set('"$`\\!'):
        return f'"{argument}"'
    return shlex.quote(argument)


class Records:
    """The records of an experiment's cells, in its folder."""

    def __init__(self, folder: Path, cells: Sequence[Cell]):
        self.folder, self.cells = folder, in_order(cells)
        self.hashes = hashes_of(cells)

    def path(self, cell: Cell, suffix: str) -> Path:
        """A file of this cell: its record (.json) or its log (.log)."""
        return self.folder / RECORDS / f"{cell.name}{suffix}"

    def read(self, cell: Cell) -> Record | None:
        """None where the cell was never begun. Raises UserError for a damaged record."""
        path = self.path(cell, ".json")
        if not path.is_file():
            return None
        try:
            return Record(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{path}: is no record of a cell ({error}); remove it to run the cell") from error

    def write(self, cell: Cell, state: Literal["begun", "done"], seconds: float) -> None:
        """Keep a record. Raises UserError where the disk refuses it."""
        record = Record(self.hashes[cell.name], state, cell.shown, round(seconds, 1))
        try:
            write_json(self.path(cell, ".json"), record._asdict())
        except OSError as error:
            where = self.folder / RECORDS
            raise UserError(f"{where}: cannot be written ({error.strerror}); set output_dir=...") from error

    def seconds(self, cell: Cell) -> float:
        """Seconds of this cell's command so far; 0 where it was another command."""
        record = self.read(cell)
        return record.seconds if record and record.hash == self.hashes[cell.name] else 0.0

    def state(self, cell: Cell) -> State:
        """Done is a cell whose record says so, and whose product is still there."""
        record = self.read(cell)
        if record is None:
            return "new"
        if record.hash != self.hashes[cell.name]:
            return "changed"
        return "done" if record.state == "done" and cell.makes.exists() else "begun"

    def states(self) -> dict[str, State]:
        """By name, in order of need. One that is done, but needs one that is not, is begun."""
        states: dict[str, State] = {}
        for cell in self.cells:
            state = self.state(cell)
            is_stale = state == "done" and any(states[need] != "done" for need in cell.needs)
            states[cell.name] = "begun" if is_stale else state
        return states

    def prepare(self, overwrite: bool) -> None:
        """See to it that every cell can begin, go on, or is done.

        What a changed command made before is refused, or, with `overwrite`, set aside under another name.
        Raises UserError before anything is moved.
        """
        states = self.states()
        changed = [cell for cell in self.cells if states[cell.name] == "changed"]
        foreign = [c for c in self.cells if states[c.name] == "new" and c.makes.exists()]
        if (changed or foreign) and not overwrite:
            cell = (changed or foreign)[0]
            problem = "was made by another command" if changed else "was not made by this experiment"
            raise UserError(
                f"{cell.name}: {cell.makes} {problem}; give the first settings again, set overwrite=true to "
                "make it anew (the old one is set aside), or set output_dir=..."
            )
        for cell in [*changed, *foreign]:
            set_aside(cell.makes)
            set_aside(self.path(cell, ".json"))


def set_aside(path: Path) -> None:
    """Rename a file or folder to the first free NAME.old-1, NAME.old-2, ..."""
    number = 1
    while path.with_name(f"{path.name}.old-{number}").exists():
        number += 1
    if path.exists():
        os.rename(path, path.with_name(f"{path.name}.old-{number}"))
