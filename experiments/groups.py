"""One model for several groups of people: `bash experiments/groups.sh` (keys: groups.yaml).

Contract: all groups are trained on together, their names in the prompts; every row is evaluated on the same
prompts of every group, of those too that nothing was trained on.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import yaml

from experiments import group_collecting, group_pages
from experiments.cells import Cell
from experiments.door import Experiment, run_experiment
from experiments.group_collecting import UNNAMED, Wanted
from experiments.keys import DIFFERENT, Common, numbers_of, read_keys
from experiments.opinions import OF_DATA, OWN, base_of, last_wins
from experiments.recipes import recipe
from experiments.rows import BASE, SFT, Place, is_trained, starts_from_sft
from settings import TEMPLATE
from utils import UserError, run_entry, without_secrets

HERE = Path(__file__).parent
FILE = HERE / "groups.yaml"
ROOT = HERE.parent
VARIABLES = {"MODEL": "model={}"}
SET_HERE = (*OWN, "group_in_prompt", "group_template", "eval_groups")


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
    def train_overrides(self) -> list[str]:
        return self.train or []

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
    settings = checked(read_keys(GroupsSettings, FILE, sys.argv[1:], VARIABLES))
    defaults = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    if settings.name == defaults["name"] and settings.model != defaults["model"]:
        settings = dataclasses.replace(settings, name=f"{settings.name}-{settings.model}")
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
        "train": [without_secrets(o) for o in settings.train_overrides],
        "evaluate": [without_secrets(o) for o in settings.evaluate or []],
    }


def checked(settings: GroupsSettings) -> GroupsSettings:
    """Raises UserError for seeds that are no numbers, unknown methods and models, and overrides that the
    experiment sets itself.
    """
    numbers_of("seeds", settings.seeds, int, 0)
    known = {BASE, *(path.stem for path in (ROOT / "config" / "loss").glob("*.yaml"))}
    for key, methods in (("methods", settings.methods), ("unnamed", settings.unnamed or [])):
        for method in methods:
            if method not in known:
                raise UserError(f"{key}=[...,{method}]: unknown; choose of {', '.join(sorted(known))}")
    models = sorted(path.stem for path in (ROOT / "config" / "model").glob("*.yaml"))
    if settings.model not in models:
        raise UserError(f"model={settings.model}: unknown; choose one of {', '.join(models)}")
    twice = set(settings.groups) & set(settings.eval_groups or [])
    if twice:
        raise UserError(f"eval_groups: {min(twice)} is trained on, too; leave it out of groups")
    for key, overrides in (("train", settings.train_overrides), ("evaluate", settings.evaluate or [])):
        for override in overrides:
            name, equals, _ = override.partition("=")
            if not equals or name in SET_HERE:
                what = "is set by the experiment itself" if equals else "must be key=value"
                raise UserError(f"{key}=[{override}]: {what}; see the keys in experiments/groups.yaml")
    return settings


def wanted_of(settings: GroupsSettings) -> Wanted:
    """Which numbers are collected, and where they lie."""
    return Wanted(settings.seeds, settings.rows, settings.splits_of_data)


# --- the cells ----------------------------------------------------------------------------------------------


def cells_of(settings: GroupsSettings) -> Iterator[Cell]:
    """All runs and evaluations."""
    for seed in settings.seeds:
        cells = _Cells(settings, seed)
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

    def __init__(self, settings: GroupsSettings, seed: str):
        self.settings, self.seed = settings, seed
        self.prefix = f"seed-{seed}"
        self.where = settings.folder / self.prefix

    def training(self, row: str) -> Cell:
        """A run on all groups together."""
        settings, method = self.settings, method_of(row)
        stage = "preference" if starts_from_sft(method) else "sft"
        is_preference = stage == "preference"
        shared = [
            f"loss={method}",
            f"model={settings.model}",
            data_sets("datasets", settings.groups),
            *self._naming(row),
            *recipe(settings.model, settings.groups[0], method, stage),
            *(["responses=own_belief"] if method == "dpo" else []),
            *[o for o in settings.train_overrides if is_preference or not o.startswith("loss.")],
        ]
        of_run = [f"exp_name={row}", f"output_dir='{self.where}'", f"seed={self.seed}"]
        needs: tuple[str, ...] = ()
        if is_preference:
            first = f"{SFT}{_mark(row)}"
            of_run.append(f"model.archive='{self.where / first}'")
            needs = (f"{self.prefix}/{first}",)
        return Cell(
            f"{self.prefix}/{row}",
            ("train.py", *last_wins([*shared, *of_run, "log_every_seconds=0"])),
            self.where / row,
            needs,
            plan=("train.py", "plan=true", "exp_name=plan", *last_wins(shared)),
        )

    def evaluation(self, row: str, split: str) -> Cell:
        """What a row is measured by: every group's prompts, asked as it was trained."""
        settings = self.settings
        is_run = is_trained(method_of(row))
        output = Place(settings.folder, self.prefix).report(row, split)
        held_out = settings.eval_groups or []
        overrides = [
            f"ckpt=['{self.where / row if is_run else base_of(settings)}']",
            data_sets("datasets", settings.groups),
            *([data_sets("eval_groups", held_out)] if held_out else []),
            f"split={split}",
            f"seed={self.seed}",
            *self._naming(row),
            *recipe(settings.model, settings.groups[0], method_of(row), "evaluate"),
            *[o for o in settings.train_overrides if o.partition("=")[0] in OF_DATA],
            *(settings.evaluate or []),
            f"output='{output}'",
        ]
        needs = (f"{self.prefix}/{row}",) if is_run else ()
        return Cell(f"{self.prefix}/{row}@{split}", ("evaluate.py", *last_wins(overrides)), output, needs)

    def _naming(self, row: str) -> list[str]:
        """How the row's prompts name the groups."""
        if _mark(row):
            return ["group_in_prompt=false"]
        template = self.settings.template
        said = [] if template is None else [f"group_template='{template}'"]
        return ["group_in_prompt=true", *said]


def data_sets(key: str, names: Sequence[str]) -> str:
    """The override that names data sets, whatever their paths hold."""
    return f"{key}=[{','.join(repr(name) for name in names)}]"


if __name__ == "__main__":
    run_entry(main)
