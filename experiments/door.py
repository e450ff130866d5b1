"""The way through an experiment: plan, or run the cells, collect their numbers, draw tables and figures.

Contract: the results' file alone makes the tables; nothing that another experiment's settings made is
overwritten unless `overwrite` asks for it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from experiments.cells import Cell
from experiments.keys import Common
from experiments.planning import print_plan
from experiments.running import run_cells
from utils import UserError, atomic_path, log, setup_logging

Results = Mapping[str, object]  # JSON values; "settings" says of which experiment they are


class Experiment(NamedTuple):
    """What an experiment is, beside its keys."""

    cells: Sequence[Cell]
    settings: Mapping[str, object]  # what its results are of, as its file says it
    collect: Callable[[], Results]  # from what the cells made
    publish: Callable[[Results, Path], Path]  # (results, folder of pages) -> the page


def run_experiment(experiment: Experiment, common: Common) -> None:
    """plan=true, tables=true, or everything. Exits with code 2 where a cell failed."""
    setup_logging()
    path = Path(common.results_dir) / f"{common.name}.json"
    if common.tables:
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


def read_results(path: Path) -> Results:
    """A results' file. Raises UserError where it is none."""
    if not path.is_file():
        raise UserError(f"{path}: no results are there; run the experiment without tables=true first")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: is damaged ({error}); restore it, or run the experiment again") from error
    if not isinstance(found, dict) or "settings" not in found:
        raise UserError(f"{path}: holds no results of an experiment; set results_dir=<another folder>")
    return found


def check_same(path: Path, settings: Mapping[str, object]) -> None:
    """Raises UserError where results of other settings would be overwritten."""
    if path.is_file() and read_results(path)["settings"] != json.loads(json.dumps(settings)):
        raise UserError(
            f"{path}: holds results of other settings; set results_dir=... and docs_dir=... for a trial, "
            "name=... for another experiment, or overwrite=true to replace them"
        )


def write_results(path: Path, results: Results) -> None:
    """Small, and what differs from other results can be read line by line."""
    try:
        with atomic_path(path) as temporary:
            temporary.write_text(as_text(results) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); set results_dir=...") from error
    log.info("results: %s", path)


def as_text(results: Results) -> str:
    """JSON, with a list's objects on lines of their own."""
    parts = []
    for key, value in results.items():
        text = json.dumps(value, ensure_ascii=False)
        if isinstance(value, list) and value:
            lines = [json.dumps(entry, ensure_ascii=False) for entry in value]
            text = "[\n  " + ",\n  ".join(lines) + "\n ]"
        parts.append(f" {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}"
