"""What would an experiment take? plan=true: each cell, its state and, of training, what train.py plans.

Contract: nothing is written and nothing runs but plans; cells that differ by their seed alone are planned
once. The numbers are of a GPU (gpu_memory_gb, gpu_tflops of config/config.yaml), evaluations not counted.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from experiments.cells import Cell, Records
from experiments.running import ROOT, environment
from utils import UserError

THE_RUN = re.compile(r"the run: (\d+) steps, (\d+) examples, about (\S+) h or (\S+) GPU hours")
MEMORY = re.compile(r"together +(\S+) of")


class Planned(NamedTuple):
    """What one run would take."""

    steps: int
    gpu_hours: float
    memory_gb: float  # of one rank at its peak
    words: str  # of train.py

    @property
    def line(self) -> str:
        fits = self.words.splitlines()[-1]
        return f"{self.steps} steps, {self.memory_gb:g} GB, {self.gpu_hours:.3g} GPU hours; {fits}"


def print_plan(cells: Sequence[Cell], folder: Path) -> None:
    """Print each cell and the sum. Raises UserError for the first plan that fails, in its words."""
    records = Records(folder, cells)
    states = records.states()
    planned: dict[tuple[str, ...], Planned] = {}
    total = left = 0.0
    for cell in records.cells:
        print(f"{cell.name} ({states[cell.name]})\n  {cell.shown}", flush=True)
        if not cell.plan:
            continue
        if cell.plan not in planned:
            planned[cell.plan] = plan_of(cell)
        print(f"  {planned[cell.plan].line}", flush=True)
        total += planned[cell.plan].gpu_hours
        left += planned[cell.plan].gpu_hours if states[cell.name] != "done" else 0.0
    runs = [cell for cell in records.cells if cell.plan]
    counts = f"{len(records.cells)} cells, {len(runs)} of them training runs"
    print(f"together: {counts}: about {total:.3g} GPU hours of training, {left:.3g} of them to do")
    if planned:
        largest = max(planned.values(), key=lambda plan: plan.memory_gb)
        print(f"the run of the most memory, {largest.memory_gb:g} GB:\n{largest.words}")


def plan_of(cell: Cell) -> Planned:
    """What train.py plans for a cell. Raises UserError in its words where it refuses."""
    done = subprocess.run(
        [sys.executable, *cell.plan],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=environment(jobs=1),
    )
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["no word"]
        errors = [line.removeprefix("error: ") for line in said if line.startswith("error: ")]
        raise UserError(f"{cell.name}: {(errors or said)[-1]}")
    run, memory = THE_RUN.search(done.stdout), MEMORY.search(done.stdout)
    if run is None or memory is None:
        raise UserError(f"{cell.name}: its plan says no time; run: python {' '.join(cell.plan)}")
    return Planned(int(run[1]), float(run[4]), float(memory[1]), done.stdout.strip())
