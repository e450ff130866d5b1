"""One model for several groups of people: `bash experiments/groups.sh` (keys: groups.yaml).

Contract: all groups are trained on together, their names in the prompts; every row is evaluated on the same
prompts of every group, of those too that nothing was trained on.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from experiments import group_collecting, group_pages
from experiments.cells import Cell
from experiments.checks import check_methods, check_model, check_overrides, losses
from experiments.commands import (
    base_of,
    begins_from,
    data_sets,
    evaluation_cell,
    of_data,
    of_run,
    of_stage,
    training_cell,
)
from experiments.door import Experiment, run_experiment
from experiments.group_collecting import UNNAMED, Wanted
from experiments.keys import DIFFERENT, Common, named_apart, numbers_of, read_keys
from experiments.recipes import recipe
from experiments.rows import BASE, SFT, Place, is_trained, stage_of, starts_from_sft, view_override
from settings import TEMPLATE
from utils import UserError, run_entry

FILE = Path(__file__).with_name("groups.yaml")
VARIABLES = {"MODEL": "model={}"}
SET_HERE = ("group_in_prompt", "group_template", "eval_groups")


@dataclass(frozen=True)
class GroupsSettings(Common):
    """experiments/groups.yaml."""

    model: str
    groups: Annotated[list[str], DIFFERENT]
    eval_groups: Annotated[list[str] | None, DIFFERENT]
    template: Annotated[str | None, TEMPLATE]
    seeds: Annotated[list[str], DIFFERENT]
    methods: Annotated[list[str], DIFFERENT]
    unnamed: Annotated[list[str] | None, DIFFERENT]
    splits: Annotated[list[str] | None, DIFFERENT]

    @property
    def splits_of_data(self) -> list[str]:
        """What is evaluated on."""
        if self.splits is not None:
            return self.splits
        embedded = all(name.startswith("opinions/") for name in [*self.groups, *(self.eval_groups or [])])
        return ["eval", "test_questions"] if embedded else ["test"]

    @property
    def rows(self) -> list[str]:
        """The rows of the tables."""
        return [*self.methods, *(f"{method}{UNNAMED}" for method in self.unnamed or [])]


def main() -> None:
    """Read the keys, then plan, run, or draw."""
    given = checked(read_keys(GroupsSettings, FILE, sys.argv[1:], VARIABLES))
    settings = named_apart(given, FILE, {"model": [given.model]})
    cells = list(cells_of(settings))
    experiment = Experiment(
        cells,
        results_of(settings),
        collect=lambda: group_collecting.collect(cells, settings.folder, wanted_of(settings)),
        publish=group_pages.publish,
    )
    run_experiment(experiment, settings)


def results_of(settings: GroupsSettings) -> dict[str, object]:
    """What the results are of."""
    keys = ("name", "model", "groups", "eval_groups", "template", "seeds", "methods", "unnamed")
    return {
        **{key: value for key, value in dataclasses.asdict(settings).items() if key in keys},
        "splits": settings.splits_of_data,
        **settings.overrides,
    }


def checked(settings: GroupsSettings) -> GroupsSettings:
    """Raises UserError for seeds that are no numbers, unknown methods and models, and overrides that the
    experiment sets itself.
    """
    numbers_of("seeds", settings.seeds, int, 0)
    known = sorted({BASE, *losses()})
    check_methods("methods", settings.methods, known)
    check_methods("unnamed", settings.unnamed or [], known)
    check_model(settings.model)
    twice = set(settings.groups) & set(settings.eval_groups or [])
    if twice:
        raise UserError(f"eval_groups: {min(twice)} is trained on, too; leave it out of groups")
    check_overrides(settings, FILE.name, SET_HERE)
    return settings


def wanted_of(settings: GroupsSettings) -> Wanted:
    """Which numbers are collected, and where they lie."""
    return Wanted(settings.seeds, settings.rows, settings.splits_of_data)


# --- the cells ----------------------------------------------------------------------------------------------


def cells_of(settings: GroupsSettings) -> Iterator[Cell]:
    """All runs and evaluations."""
    for seed in settings.seeds:
        cells = _Cells(settings, Place(settings.folder, seed))
        trained = [row for row in settings.rows if is_trained(method_of(row))]
        begun = [f"{SFT}{_mark(row)}" for row in trained if starts_from_sft(method_of(row))]
        for row in dict.fromkeys([*begun, *trained]):
            yield cells.training(row)
        for row in settings.rows:
            for split in settings.splits_of_data:
                yield cells.evaluation(row, split)


def method_of(row: str) -> str:
    """A row's method, trained with names or without."""
    return row.removesuffix(UNNAMED)


def _mark(row: str) -> str:
    return UNNAMED if row.endswith(UNNAMED) else ""


class _Cells:
    """The cells of one seed."""

    def __init__(self, settings: GroupsSettings, place: Place):
        self.settings, self.place = settings, place

    def training(self, row: str) -> Cell:
        """A run on all groups together."""
        settings, place, method = self.settings, self.place, method_of(row)
        stage = stage_of(method)
        shared = [
            f"loss={method}",
            f"model={settings.model}",
            data_sets(*settings.groups),
            *self._naming(row),
            *recipe(settings.model, settings.groups[0], method, stage),
            *view_override(method),
            *of_stage(settings.train_overrides, stage),
        ]
        overrides = [*shared, *of_run(place, row)]
        needs: tuple[str, ...] = ()
        if stage != SFT:
            first = f"{SFT}{_mark(row)}"
            overrides.append(begins_from(place.run(first)))
            needs = (place.cell(first),)
        overrides.append("log_every_seconds=0")
        return training_cell(place, row, overrides, shared, needs)

    def evaluation(self, row: str, split: str) -> Cell:
        """What a row is measured by: every group's prompts, asked as it was trained."""
        settings, place, method = self.settings, self.place, method_of(row)
        held_out = settings.eval_groups or []
        overrides = [
            data_sets(*settings.groups),
            *([data_sets(*held_out, key="eval_groups")] if held_out else []),
            f"split={split}",
            f"seed={place.seed}",
            *self._naming(row),
            *recipe(settings.model, settings.groups[0], method, "evaluate"),
            *of_data(settings.train_overrides),
            *settings.evaluate_overrides,
        ]
        base = None if is_trained(method) else base_of(settings.model, settings.train_overrides)
        return evaluation_cell(place, row, split, place.report(row, split), overrides, base)

    def _naming(self, row: str) -> list[str]:
        """How the row's prompts name the groups."""
        if _mark(row):
            return ["group_in_prompt=false"]
        template = self.settings.template
        said = [] if template is None else [f"group_template='{template}'"]
        return ["group_in_prompt=true", *said]


if __name__ == "__main__":
    run_entry(main)
