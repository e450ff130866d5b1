"""The way through an experiment: plan, or run the cells, collect their numbers, draw tables and figures.

Contract: the results' file alone makes the tables; nothing that another experiment's settings made is
overwritten unless `overwrite` asks for it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from experiments.cells import Cell
from experiments.joining import joined
from experiments.keys import Common
from experiments.planning import print_plan
from experiments.results import Results, check_same, read_results, write_results
from experiments.running import run_cells
from utils import UserError, setup_logging


class Experiment(NamedTuple):
    """What an experiment is, beside its keys."""

    cells: Sequence[Cell]
    settings: Mapping[str, object]  # what its results are of, as its file says it
    collect: Callable[[], Results]  # from what the cells made
    publish: Callable[[Results, Path], Path]  # (results, folder of pages) -> the page


def run_experiment(experiment: Experiment, common: Common) -> None:
    """plan=true, tables=true, join=[...], or everything. Exits with code 2 where a cell failed."""
    setup_logging()
    path = Path(common.results_dir) / f"{common.name}.json"
    if common.join and (common.tables or common.plan):
        raise UserError("join: makes its own tables, and runs nothing; leave out tables and plan")
    if common.tables:
        say_page(experiment.publish(read_results(path), Path(common.docs_dir)))
        return
    if common.join:
        is_part = path.resolve() in [Path(file).resolve() for file in common.join]
        if not is_part and not common.overwrite:
            check_same(path, experiment.settings)
        write_results(path, joined(common.join, experiment.settings))
        say_page(experiment.publish(read_results(path), Path(common.docs_dir)))
        return
    if common.plan:
        print_plan(experiment.cells, common.folder)
        return
    if not common.overwrite:
        check_same(path, experiment.settings)
    outcome = run_cells(experiment.cells, common.folder, common.jobs, common.overwrite)
    if outcome.failed:
        for name, reason in outcome.failed.items():
            print(f"error: {name}: {reason}", file=sys.stderr)
        if outcome.skipped:
            print(f"error: left out, since they need one: {', '.join(outcome.skipped)}", file=sys.stderr)
        print("the same command goes on with these; what is done stays", file=sys.stderr)
        sys.exit(2)
    write_results(path, {"settings": experiment.settings, **experiment.collect()})
    say_page(experiment.publish(read_results(path), Path(common.docs_dir)))


def say_page(page: Path) -> None:
    print(f"tables and figures: {page}")
