"""Cells and experiments of commands that take no time; nothing here imports torch."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from experiments import running
from experiments.cells import Cell
from experiments.door import Experiment
from experiments.keys import Common

APPEND = "import pathlib, sys; p = pathlib.Path(sys.argv[1]); p.open('a').write(sys.argv[2] + '\\n')"
SAVED = "pathlib.Path(sys.argv[3] + '.saved')"
# works for a minute unless it saved before; SIGTERM makes it save
ENDLESS = f"""
import signal, time
def save(*_):
    {SAVED}.touch()
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
pathlib.Path(sys.argv[3] + '.begun').touch()
time.sleep(0 if {SAVED}.exists() else 60)
"""


def cell(folder: Path, name: str, *needs: str, then: str = "", word: str = "") -> Cell:
    """A cell that adds its name (or word) to order.txt, makes a file, and does something more."""
    code = f"{APPEND}\npathlib.Path(sys.argv[3]).touch()\n{then}"
    command = ("-c", code, str(folder / "order.txt"), word or name, str(folder / f"{name}.made"))
    return Cell(name, command, folder / f"{name}.made", needs)


def run(folder: Path, *cells: Cell, jobs: int = 1, overwrite: bool = False) -> running.Outcome:
    return running.run_cells(cells, folder, jobs, overwrite)


def order(folder: Path) -> list[str]:
    """The names of the cells in the order in which they began."""
    return (folder / "order.txt").read_text().split()


def three(folder: Path) -> list[Cell]:
    """Cells in a row, of which the second one takes a minute."""
    return [cell(folder, "a"), cell(folder, "b", "a", then=ENDLESS), cell(folder, "c", "b")]


if __name__ == "__main__":  # an experiment in a process of its own
    import signal

    from utils import run_entry

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    run_entry(lambda: run(Path(sys.argv[1]), *three(Path(sys.argv[1]))))


def common(tmp_path, **changes):
    """The keys of an experiment named x, in this folder."""
    places = {key: str(tmp_path / key) for key in ("output_dir", "results_dir", "docs_dir")}
    flags = dict.fromkeys(("plan", "tables", "overwrite"), False)
    nothing = dict.fromkeys(("train", "evaluate", "join"))
    return Common(**{"name": "x", "jobs": 1, **nothing, **places, **flags, **changes})


def made_up(tmp_path, settings):
    """An experiment of one cell; its page is its results."""

    def publish(results, folder):
        folder.mkdir(exist_ok=True)
        (folder / "x.md").write_text(json.dumps(results))
        return folder / "x.md"

    return Experiment([cell(tmp_path, "a")], settings, lambda: {"values": [{"v": [1, 2]}]}, publish)
