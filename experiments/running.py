"""Cells at work: in order of need, some at a time, each with a log of its own.

Contract: what is done stays done. A signal ends the cells as Ctrl-C ends a command (training saves a
checkpoint), and the same command goes on where it was. A cell that fails takes along those that need it, and
nothing else.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from experiments.cells import Cell, Records
from machine import num_cores
from utils import LAUNCHER, UserError, locked, log, without_secrets

ROOT = Path(__file__).parent.parent  # where commands run
POLL_SECONDS = 0.1
PATIENCE_SECONDS = 600  # for a cell to save and end, before it is killed
LAST_BYTES = 20_000  # of a log, in which its error is looked for


class Work(NamedTuple):
    """A cell's process."""

    cell: Cell
    process: subprocess.Popen
    since: float
    before: float  # seconds of earlier tries


class Outcome(NamedTuple):
    """How the cells ended."""

    failed: dict[str, str]  # by name: why, in one line
    skipped: list[str]  # they need one that failed


def run_cells(cells: Sequence[Cell], folder: Path, jobs: int, overwrite: bool) -> Outcome:
    """Run what is not done yet, `jobs` cells at a time. folder: of records and logs.

    Raises UserError where another experiment is at work in the folder, or where a cell's product is another
    command's; `utils.Stopped` once all cells have ended on a signal.
    """
    records = Records(folder, cells)
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            problem = f"cannot be made ({error.strerror})"
            raise UserError(f"output_dir: {folder} {problem}; set output_dir=<another folder>") from error
        if not stack.enter_context(locked(folder)):
            raise UserError(f"{folder}: another experiment is at work there; wait for it, or set output_dir=")
        records.prepare(overwrite)
        return _Crew(records, jobs).work()


class _Crew:
    """The processes of the cells, and what is yet to do."""

    def __init__(self, records: Records, jobs: int):
        self.records, self.jobs = records, jobs
        states = records.states()
        self.done = {name for name, state in states.items() if state == "done"}
        self.waiting = [cell for cell in records.cells if cell.name not in self.done]
        self.running: list[Work] = []
        self.outcome = Outcome({}, [])
        self.bar = tqdm(total=len(records.cells), initial=len(self.done), desc="cells", unit="cell")

    def work(self) -> Outcome:
        """Until nothing is left, or a signal comes."""
        try:
            with self.bar:
                while self.waiting or self.running:
                    self._start()
                    self._look()
                    time.sleep(POLL_SECONDS if self.running else 0)
        finally:
            self._stop()
        return self.outcome

    def _start(self) -> None:
        """Start what can begin; leave out what cannot any more."""
        before = list(self.running)
        lost = {*self.outcome.failed, *self.outcome.skipped}
        for cell in list(self.waiting):
            if lost & set(cell.needs):
                self.waiting.remove(cell)
                self.outcome.skipped.append(cell.name)
                lost.add(cell.name)
            elif len(self.running) < self.jobs and self.done.issuperset(cell.needs):
                self.waiting.remove(cell)
                self._say(f"{cell.name}: {cell.shown}")
                seconds = self.records.seconds(cell)
                self.records.write(cell, "begun", seconds)
                self.running.append(Work(cell, self._process(cell), time.monotonic(), seconds))
        if self.running != before:
            self._show()

    def _show(self) -> None:
        """The names of the cells at work, behind the bar."""
        self.bar.set_postfix_str(", ".join(work.cell.name for work in self.running))

    def _process(self, cell: Cell) -> subprocess.Popen:
        """The cell's process, in a group of its own: a signal from the terminal reaches it through us."""
        with self.records.path(cell, ".log").open("ab") as output:
            output.write(f"\n$ {cell.shown}\n".encode())
            output.flush()
            return subprocess.Popen(
                [sys.executable, *cell.command],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment(self.jobs),
                start_new_session=True,
            )

    def _look(self) -> None:
        """Note what has ended."""
        for work in list(self.running):
            code = work.process.poll()
            if code is None:
                continue
            self.running.remove(work)
            self._ended(work, code)
            self._show()

    def _ended(self, work: Work, code: int) -> None:
        cell, seconds = work.cell, time.monotonic() - work.since
        if code == 0 and cell.makes.exists():
            self.records.write(cell, "done", work.before + seconds)
            drop(cell)
            self.done.add(cell.name)
            self.bar.update()
            self._say(f"{cell.name}: done in {seconds:.0f} s")
            return
        self.records.write(cell, "begun", work.before + seconds)
        path = self.records.path(cell, ".log")
        reason = last_error(path) if code else f"{cell.makes} was not made"
        self.outcome.failed[cell.name] = f"{reason} (exit code {code}; log: {path})"
        self._say(f"{cell.name}: failed: {self.outcome.failed[cell.name]}")

    def _say(self, text: str) -> None:
        """A line above the bar."""
        with tqdm.external_write_mode():
            log.info("%s", text)

    def _stop(self) -> None:
        """End what still runs: as SIGTERM ends a command, which saves; a second signal kills it."""
        for work in self.running:
            send(work.process, signal.SIGTERM)
        until = time.monotonic() + PATIENCE_SECONDS
        try:
            for work in self.running:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    work.process.wait(max(0.0, until - time.monotonic()))
                seconds = time.monotonic() - work.since
                with contextlib.suppress(UserError):  # a full disk: the cell goes on from what it saved
                    self.records.write(work.cell, "begun", work.before + seconds)
        finally:
            for work in self.running:
                if work.process.poll() is None:
                    send(work.process, signal.SIGKILL)
            self.running = []


def drop(cell: Cell) -> None:
    """Remove what nothing needs of a cell that is done: links to it, such as `latest`, stay."""
    for path in cell.makes.glob(cell.drops) if cell.drops else ():
        if not path.parent.parent.is_symlink():
            shutil.rmtree(path, ignore_errors=True)


def send(process: subprocess.Popen, signum: int) -> None:
    """A signal to a cell's process and to those that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signum)


def environment(jobs: int) -> dict[str, str]:
    """Of a cell: its share of the cores, unless OMP_NUM_THREADS says otherwise, and the process whose death
    ends it.
    """
    threads = max(1, num_cores() // jobs)
    return {"OMP_NUM_THREADS": str(threads), **os.environ, LAUNCHER: str(os.getpid())}


def last_error(path: Path) -> str:
    """The last line of a log that says what was wrong: a user's error, else its last line."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - LAST_BYTES))
        text = file.read().decode(errors="replace")
    lines = [line.strip() for line in text.replace("\r", "\n").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    return without_secrets((errors or lines or ["no word"])[-1].removeprefix("error: "))
