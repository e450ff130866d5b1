"""Losses of pairs and of sets on ranked responses: `bash experiments/ranked.sh` (keys: ranked.yaml).

Contract: all runs start from the same model and see equally many responses, in steps of equally many
(budget=responses), or train equally long by the speeds that were measured so (budget=seconds). All are
evaluated on the same prompts, with the seed's own sampling.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from checking import AtLeast
from experiments import ranked_collecting, ranked_pages
from experiments.cells import Cell
from experiments.checks import check_methods, check_model, check_overrides
from experiments.commands import (
    as_value,
    base_of,
    begins_from,
    data_sets,
    evaluation_cell,
    of_run,
    training_cell,
)
from experiments.door import Experiment, run_experiment
from experiments.keys import DIFFERENT, Common, named_apart, numbers_of, read_keys
from experiments.ranked_methods import (
    AGAIN,
    BASE,
    METHODS,
    ON_POLICY,
    SWEPO,
    Load,
    Row,
    equal_rows,
    load_of,
    rows_of,
)
from experiments.recipes import recipe
from experiments.results import read_results
from experiments.rows import Place
from groups import INSTRUCTIONS
from preference_datasets import load_groups
from utils import UserError, run_entry

FILE = Path(__file__).with_name("ranked.yaml")
VARIABLES = {"MODEL": "model={}", "DATASET": "dataset={}"}
LEAST_EVALUATION = 16  # prompts of the one validation that every run ends with
SET_HERE = ("responses", "n_examples", "batch_size", "max_responses")


@dataclass(frozen=True)
class RankedSettings(Common):
    """experiments/ranked.yaml."""

    model: str
    dataset: str
    split: str
    seeds: Annotated[list[str], DIFFERENT]
    counts: Annotated[list[str], DIFFERENT]
    methods: Annotated[list[str], DIFFERENT]
    on_policy: bool
    budget: Literal["responses", "seconds"]
    responses: Annotated[int, AtLeast(1)]
    step_responses: Annotated[int, AtLeast(2)]
    seconds: Annotated[float, AtLeast(1)]
    size: Annotated[float, AtLeast(1e-3)]

    @property
    def ks(self) -> list[int]:
        return sorted(map(int, self.counts))

    @property
    def rows(self) -> list[Row]:
        return rows_of(self.methods, self.ks)

    @property
    def has_rounds(self) -> bool:
        """Is there a second round? Only the embedded instructions can be sampled and scored."""
        return self.on_policy and self.dataset == INSTRUCTIONS and Row(SWEPO, self.ks[-1]) in self.rows


def main() -> None:
    """Read the keys, then plan, run, or draw."""
    given = checked(read_keys(RankedSettings, FILE, sys.argv[1:], VARIABLES))
    stem = re.sub(r"[^\w.-]+", "-", Path(given.dataset).stem)
    first = named_apart(given, FILE, {"model": [given.model], "dataset": [stem]})
    is_timed = given.budget == "seconds"
    settings = dataclasses.replace(first, name=f"{first.name}-seconds") if is_timed else first
    speeds = {}
    if is_timed and not settings.from_results:
        measured = Path(first.results_dir) / f"{first.name}.json"
        speeds = ranked_collecting.speeds_of(read_results(measured), measured)
    loads = {} if settings.from_results else loads_of(settings)
    cells = list(cells_of(settings, loads, speeds))
    experiment = Experiment(
        cells,
        results_of(settings),
        collect=lambda: ranked_collecting.collect(cells, settings.folder, wanted_of(settings, loads)),
        publish=ranked_pages.publish,
    )
    run_experiment(experiment, settings)


def results_of(settings: RankedSettings) -> dict[str, object]:
    """What the results are of."""
    keys = ("name", "model", "dataset", "split", "seeds", "counts", "methods", "on_policy", "budget", "size")
    amount = ("step_responses", settings.budget)
    return {
        **{key: value for key, value in dataclasses.asdict(settings).items() if key in (*keys, *amount)},
        **settings.overrides,
    }


def checked(settings: RankedSettings) -> RankedSettings:
    """Raises UserError for seeds or counts that are no numbers, unknown methods and models, and overrides
    that the experiment sets itself.
    """
    numbers_of("seeds", settings.seeds, int, 0)
    numbers_of("counts", settings.counts, int, 2)
    check_methods("methods", settings.methods, METHODS)
    check_model(settings.model)
    check_overrides(settings, FILE.name, SET_HERE)
    return settings


def wanted_of(settings: RankedSettings, loads: Mapping[Row, Load]) -> ranked_collecting.Wanted:
    """Which numbers are collected."""
    per_example = {row.name: load.responses / load.examples for row, load in loads.items()}
    if settings.has_rounds:
        last = settings.ks[-1]
        per_example |= {f"{name}@{last}": float(last) for name in (ON_POLICY, AGAIN)}
    equal = equal_rows(settings.methods, settings.ks)
    names = [BASE, *per_example]
    return ranked_collecting.Wanted(
        settings.dataset, settings.split, settings.seeds, names, equal, per_example
    )


def loads_of(settings: RankedSettings) -> dict[Row, Load]:
    """Every run, and what a visit of one of its prompts is."""
    groups = load_groups(settings.dataset, "train")
    return {row: load_of(row, groups) for row in settings.rows}


# --- the cells ----------------------------------------------------------------------------------------------


def cells_of(
    settings: RankedSettings, loads: Mapping[Row, Load], speeds: ranked_collecting.Speeds
) -> Iterator[Cell]:
    """All runs and evaluations, seed by seed. Runs go first: with jobs > 1 they are timed beside each other,
    and few beside an evaluation. speeds: responses a second by row; used where budget=seconds.
    """
    for seed in settings.seeds:
        of_seed = _of_seed(settings, _Cells(settings, Place(settings.folder, seed)), loads, speeds)
        yield from sorted(of_seed, key=lambda cell: cell.command[0] == "evaluate.py")


def _of_seed(
    settings: RankedSettings, cells: _Cells, loads: Mapping[Row, Load], speeds: ranked_collecting.Speeds
) -> Iterator[Cell]:
    """Every row, and what it is measured by."""
    yield cells.evaluation(BASE)
    for row, load in loads.items():
        amount = settings.size * settings.responses
        if settings.budget == "seconds":
            amount = settings.size * settings.seconds * speed_of(row, speeds)
        yield cells.training(row, load, amount)
        yield cells.evaluation(row.name)
        if settings.has_rounds and row == Row(SWEPO, settings.ks[-1]):
            yield from cells.rounds(row, load, amount)


def speed_of(row: Row, speeds: ranked_collecting.Speeds) -> float:
    """Raises UserError where it was not measured."""
    if row.name not in speeds:
        raise UserError(
            f"budget=seconds: the speed of {row.name} was not measured; run it with budget=responses first"
        )
    return speeds[row.name]


class _Cells:
    """The cells of one seed."""

    def __init__(self, settings: RankedSettings, place: Place):
        self.settings, self.place = settings, place

    def training(self, row: Row, load: Load, responses: float) -> Cell:
        """A run that sees so many responses."""
        return self._run(row.name, row, load, responses, [data_sets(self.settings.dataset)])

    def rounds(self, row: Row, load: Load, responses: float) -> Iterator[Cell]:
        """From a run's model: on its own responses, and on the first ones again."""
        place = self.place
        first, own = place.run(row.name), place.where / "own-responses.jsonl"
        sampled = Cell(
            place.cell("own-responses"),
            (
                "synthesize.py",
                "task=instructions",
                "split=train",
                f"ckpt={as_value(first)}",
                f"n_samples={row.k}",
                f"seed={place.seed}",
                f"output={as_value(own)}",
            ),
            own,
            (place.cell(row.name),),
        )
        yield sampled
        given = data_sets(self.settings.dataset)
        held_out = data_sets(self.settings.dataset, key="eval_datasets")
        of_data = {
            ON_POLICY: [data_sets(str(own)), held_out, begins_from(first)],
            AGAIN: [given, begins_from(first)],
        }
        for name, keys in of_data.items():
            needs = (sampled.name if name == ON_POLICY else place.cell(row.name),)
            yield self._run(f"{name}@{row.k}", row, load, responses, keys, needs)
            yield self.evaluation(f"{name}@{row.k}")

    def _run(
        self,
        name: str,
        row: Row,
        load: Load,
        responses: float,
        keys: Sequence[str],
        needs: tuple[str, ...] = (),
    ) -> Cell:
        settings, method = self.settings, METHODS[row.method]
        shared = [
            f"loss={method.loss}",
            f"model={settings.model}",
            *recipe(settings.model, settings.dataset, method.loss, "preference"),
            f"responses={method.responses}",
            *method.keys,
            f"max_responses={row.k}",
            "shuffle=prompts",
            f"n_eval_examples={LEAST_EVALUATION}",
            "do_first_eval=false",
            f"eval_every={10**9}",
            f"n_examples={load.examples_of(responses)}",
            f"batch_size={load.examples_of(settings.step_responses)}",
            *settings.train_overrides,
        ]
        overrides = [*shared, *keys, *of_run(self.place, name), "log_every_seconds=0"]
        planned = [*shared, data_sets(settings.dataset)]
        return training_cell(self.place, name, overrides, planned, needs)

    def evaluation(self, name: str) -> Cell:
        """What a row is measured by."""
        settings, place = self.settings, self.place
        overrides = [
            data_sets(settings.dataset),
            f"split={settings.split}",
            f"seed={place.seed}",
            *settings.evaluate_overrides,
        ]
        base = base_of(settings.model, settings.train_overrides) if name == BASE else None
        return evaluation_cell(place, name, settings.split, place.report(name), overrides, base)


if __name__ == "__main__":
    run_entry(main)
