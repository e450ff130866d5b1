"""Table 2 of the GDPO paper and its figures: `bash experiments/opinions.sh` (keys: opinions.yaml).

Contract: a population and a seed have one SFT, from which every preference run starts; every row is
evaluated on the same prompts, with the seed's own sampling.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from checking import AtLeast
from experiments import belief_pages, collecting
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
from experiments.keys import DIFFERENT, Common, named_apart, numbers_of, read_keys
from experiments.recipes import recipe
from experiments.rows import (
    BASE,
    FEW_SHOT,
    ICF,
    SFT,
    Place,
    Wanted,
    has_margins,
    is_trained,
    stage_of,
    starts_from_sft,
    view_override,
)
from utils import run_entry

HERE = Path(__file__).parent
VARIABLES = {"MODEL": "model={}", "DATASET": "groups=[{}]"}


@dataclass(frozen=True)
class OpinionsSettings(Common):
    """experiments/opinions.yaml and reviews.yaml."""

    model: str
    groups: Annotated[list[str], DIFFERENT]
    seeds: Annotated[list[str], DIFFERENT]
    methods: Annotated[list[str], DIFFERENT]
    splits: Annotated[list[str] | None, DIFFERENT]
    shots: Annotated[int, AtLeast(1)]
    collapse_betas: Annotated[list[str] | None, DIFFERENT]
    shown_questions: Annotated[int, AtLeast(0)]
    paper: bool

    @property
    def splits_of_data(self) -> list[str]:
        """What is evaluated on."""
        if self.splits is not None:
            return self.splits
        embedded = all(group.startswith("opinions/") for group in self.groups)
        return ["test", "test_questions"] if embedded else ["test"]


def main(file: Path = HERE / "opinions.yaml") -> None:
    """Read the keys, then plan, run, or draw."""
    given = checked(read_keys(OpinionsSettings, file, sys.argv[1:], VARIABLES))
    words = {"model": [given.model], "groups": slugs_of(given.groups)}
    settings = named_apart(given, file, words)
    cells = list(cells_of(settings))
    experiment = Experiment(
        cells,
        results_of(settings),
        collect=lambda: collecting.collect(cells, settings.folder, wanted_of(settings)),
        publish=belief_pages.publish,
    )
    run_experiment(experiment, settings)


def results_of(settings: OpinionsSettings) -> dict[str, object]:
    """What the results are of."""
    return {
        "name": settings.name,
        "model": settings.model,
        "groups": settings.groups,
        "seeds": settings.seeds,
        "methods": settings.methods,
        "splits": settings.splits_of_data,
        "collapse_betas": settings.collapse_betas,
        "shots": settings.shots,
        "shown_questions": settings.shown_questions,
        "paper": settings.paper,
        **settings.overrides,
    }


def checked(settings: OpinionsSettings) -> OpinionsSettings:
    """Raises UserError for seeds or betas that are no numbers, unknown methods, and overrides that the
    experiment sets itself.
    """
    numbers_of("seeds", settings.seeds, int, 0)
    if settings.collapse_betas is not None:
        numbers_of("collapse_betas", settings.collapse_betas, float, 1e-3)
    check_methods("methods", settings.methods, sorted({BASE, FEW_SHOT, ICF, *losses()}))
    check_model(settings.model)
    check_overrides(settings, "*.yaml")
    return settings


def slugs_of(names: Sequence[str]) -> list[str]:
    """Data sets as names of folders: files by their stem, where that tells them apart."""
    stems = [Path(name).stem if Path(name).suffix else name for name in names]
    chosen = stems if len(set(stems)) == len(stems) else names
    return [re.sub(r"[^\w.]+", "-", name).strip("-") for name in chosen]


# --- the cells ----------------------------------------------------------------------------------------------


def cells_of(settings: OpinionsSettings) -> Iterator[Cell]:
    """All runs and evaluations."""
    for seed in settings.seeds:  # outermost: all groups have a seed before any has the next
        for group, slug in zip(settings.groups, slugs_of(settings.groups)):
            cells = _Cells(settings, group, Place(settings.folder, seed, slug))
            trained = [m for m in settings.methods if is_trained(m)]
            if any(starts_from_sft(m) for m in trained) and SFT not in trained:
                trained = [SFT, *trained]
            for method in sorted(trained, key=lambda m: m != SFT):
                yield cells.training(method)
            for method in settings.methods:
                for split in settings.splits_of_data:
                    yield cells.evaluation(method, split)
                    if has_margins(method):
                        yield cells.margins(method, split)
    yield from _collapse_cells(settings)


def _collapse_cells(settings: OpinionsSettings) -> Iterator[Cell]:
    """DPO over several beta, from the SFT of the first group and seed; its own distribution is pi_ref."""
    if not settings.collapse_betas:
        return
    (slug, *_), seed, split = slugs_of(settings.groups), settings.seeds[0], settings.splits_of_data[0]
    cells = _Cells(settings, settings.groups[0], Place(settings.folder, seed, slug))
    if not any(is_trained(m) and (m == SFT or starts_from_sft(m)) for m in settings.methods):
        yield cells.training(SFT)
    if SFT not in settings.methods:
        yield cells.evaluation(SFT, split, "n_samples=0")
    for beta in settings.collapse_betas:
        yield cells.training("dpo", f"loss.beta={beta}", name=f"dpo-beta-{beta}")
        yield cells.evaluation("dpo", split, "n_samples=0", name=f"dpo-beta-{beta}")


class _Cells:
    """The cells of one population and seed."""

    def __init__(self, settings: OpinionsSettings, group: str, place: Place):
        self.settings, self.group, self.place = settings, group, place

    def training(self, method: str, *extra: str, name: str = "") -> Cell:
        """A run. name: of its folder; "": the method's."""
        settings, place, name = self.settings, self.place, name or method
        stage = stage_of(method)
        loss = SFT if method == ICF else method
        own = [f"icf_shots={settings.shots}"] if method == ICF else view_override(method)
        shared = [
            f"loss={loss}",
            f"model={settings.model}",
            data_sets(self.group),
            *recipe(settings.model, self.group, loss, stage),
            *own,
            *of_stage(settings.train_overrides, stage),
            *extra,
        ]
        overrides = [*shared, *of_run(place, name), "log_every_seconds=0"]
        needs: tuple[str, ...] = ()
        if stage != SFT:
            overrides.append(begins_from(place.run(SFT)))
            needs = (place.cell(SFT),)
        return training_cell(place, name, overrides, shared, needs)

    def evaluation(self, method: str, split: str, *extra: str, name: str = "") -> Cell:
        """What a row is measured by. name: of the run's folder; "": the method's."""
        settings, place, name = self.settings, self.place, name or method
        shots = settings.shots if method in (FEW_SHOT, ICF) else 0
        overrides = [
            data_sets(self.group),
            f"split={split}",
            f"seed={place.seed}",
            f"few_shot={shots}",
            *recipe(settings.model, self.group, method, "evaluate"),
            *of_data(settings.train_overrides),
            *settings.evaluate_overrides,
            *extra,
        ]
        base = None if is_trained(method) else base_of(settings.model, settings.train_overrides)
        return evaluation_cell(place, name, split, place.report(name, split), overrides, base)

    def margins(self, method: str, split: str) -> Cell:
        """The margins of a run on held-out pairs."""
        place, output = self.place, self.place.margins(method, split)
        arguments = (f"run={place.run(method)}", f"split={split}", f"output={output}")
        command = ("-m", "experiments.margins", *arguments)
        return Cell(f"{place.cell(method)}@{split}-margins", command, output, (place.cell(method),))


def wanted_of(settings: OpinionsSettings) -> Wanted:
    """Which numbers are collected, and where they lie."""
    return Wanted(
        groups=list(zip(settings.groups, slugs_of(settings.groups))),
        seeds=settings.seeds,
        methods=settings.methods,
        splits=settings.splits_of_data,
        collapse_betas=settings.collapse_betas or [],
        shown_questions=settings.shown_questions,
    )


if __name__ == "__main__":
    run_entry(main)
