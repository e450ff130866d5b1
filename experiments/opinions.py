"""Table 2 of the GDPO paper and its figures: `bash experiments/opinions.sh` (keys: opinions.yaml).

Contract: a population and a seed have one SFT, from which every preference run starts; every row is
evaluated on the same prompts, with the seed's own sampling.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import yaml

from checking import AtLeast
from experiments import belief_pages, collecting
from experiments.cells import OF_RESUME, Cell
from experiments.door import Experiment, run_experiment
from experiments.keys import DIFFERENT, Common, numbers_of, read_keys
from experiments.recipes import recipe
from experiments.rows import BASE, FEW_SHOT, ICF, SFT, Place, Wanted, has_margins, is_trained, starts_from_sft
from utils import UserError, run_entry, without_secrets

HERE = Path(__file__).parent
ROOT = HERE.parent
VARIABLES = {"MODEL": "model={}", "DATASET": "groups=[{}]"}
OF_DATA = {  # keys of train.py that an evaluation needs, too, where no run's config says them
    "belief_classes",
    "max_length",
    "max_prompt_length",
    "truncation",
    "eval_fraction",
    "format",
    "add_bos",
}
OWN = ("exp_name", "output_dir", "model.archive", "datasets", "seed", "loss", "ckpt", "output", "split")


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
    def train_overrides(self) -> list[str]:
        return self.train or []

    @property
    def splits_of_data(self) -> list[str]:
        """What is evaluated on."""
        if self.splits is not None:
            return self.splits
        embedded = all(group.startswith("opinions/") for group in self.groups)
        return ["test", "test_questions"] if embedded else ["test"]


def main(file: Path = HERE / "opinions.yaml") -> None:
    """Read the keys, then plan, run, or draw."""
    settings = read_keys(OpinionsSettings, file, sys.argv[1:], VARIABLES)
    settings = checked(settings)
    defaults = yaml.safe_load(file.read_text(encoding="utf-8"))
    if settings.name == defaults["name"]:
        settings = dataclasses.replace(settings, name=name_of(settings, defaults))
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
        "train": [without_secrets(o) for o in settings.train_overrides],
        "evaluate": [without_secrets(o) for o in settings.evaluate or []],
    }


def checked(settings: OpinionsSettings) -> OpinionsSettings:
    """Raises UserError for seeds or betas that are no numbers, unknown methods, and overrides that the
    experiment sets itself.
    """
    numbers_of("seeds", settings.seeds, int, 0)
    if settings.collapse_betas is not None:
        numbers_of("collapse_betas", settings.collapse_betas, float, 1e-3)
    known = {BASE, FEW_SHOT, ICF, *(path.stem for path in (ROOT / "config" / "loss").glob("*.yaml"))}
    for method in settings.methods:
        if method not in known:
            names = ", ".join(sorted(known))
            raise UserError(f"methods=[...,{method}]: unknown; choose of {names}")
    if not (ROOT / "config" / "model" / f"{settings.model}.yaml").is_file():
        names = ", ".join(sorted(path.stem for path in (ROOT / "config" / "model").glob("*.yaml")))
        raise UserError(f"model={settings.model}: unknown; choose one of {names}, or add config/model/*.yaml")
    for key, overrides in (("train", settings.train_overrides), ("evaluate", settings.evaluate or [])):
        for override in overrides:
            name, equals, _ = override.partition("=")
            if not equals or name in OWN:
                what = "is set by the experiment itself" if equals else "must be key=value"
                raise UserError(f"{key}=[{override}]: {what}; see the keys in experiments/*.yaml")
    return settings


def name_of(settings: OpinionsSettings, defaults: dict) -> str:
    """The name, with the model and the groups behind it where they are not the usual ones."""
    parts = [settings.name]
    if settings.model != defaults["model"]:
        parts.append(settings.model)
    if settings.groups != defaults["groups"]:
        parts += slugs_of(settings.groups)
    return "-".join(parts)


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
            where = settings.folder / slug / f"seed-{seed}"
            prefix = f"{slug}/seed-{seed}"
            cells = _Cells(settings, group, seed, where, prefix)
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
    where, prefix = settings.folder / slug / f"seed-{seed}", f"{slug}/seed-{seed}"
    cells = _Cells(settings, settings.groups[0], seed, where, prefix)
    if not any(is_trained(m) and (m == SFT or starts_from_sft(m)) for m in settings.methods):
        yield cells.training(SFT)
    if SFT not in settings.methods:
        yield cells.evaluation(SFT, split, "n_samples=0")
    for beta in settings.collapse_betas:
        yield cells.training("dpo", f"loss.beta={beta}", name=f"dpo-beta-{beta}")
        yield cells.evaluation("dpo", split, "n_samples=0", name=f"dpo-beta-{beta}")


class _Cells:
    """The cells of one population and seed."""

    def __init__(self, settings: OpinionsSettings, group: str, seed: str, where: Path, prefix: str):
        self.settings, self.group, self.seed, self.where, self.prefix = settings, group, seed, where, prefix

    def training(self, method: str, *extra: str, name: str = "") -> Cell:
        """A run. name: of its folder; "": the method's."""
        settings, name = self.settings, name or method
        stage = "preference" if starts_from_sft(method) else "sft"
        loss = SFT if method == ICF else method
        pairs = ["responses=own_belief"]
        own = {ICF: [f"icf_shots={settings.shots}"], "dpo": pairs, "rpo": pairs}.get(method, [])
        shared = [
            f"loss={loss}",
            f"model={settings.model}",
            data_sets(self.group),
            *recipe(settings.model, self.group, loss, stage),
            *own,
            *[o for o in settings.train_overrides if stage == "preference" or not o.startswith("loss.")],
            *extra,
        ]
        of_run = [
            f"exp_name={name}",
            f"output_dir='{self.where}'",
            f"seed={self.seed}",
            "log_every_seconds=0",
        ]
        needs: tuple[str, ...] = ()
        if stage == "preference":
            of_run.append(f"model.archive='{self.where / SFT}'")
            needs = (f"{self.prefix}/{SFT}",)
        return Cell(
            f"{self.prefix}/{name}",
            ("train.py", *last_wins([*shared, *of_run])),
            self.where / name,
            needs,
            plan=("train.py", "plan=true", "exp_name=plan", *last_wins(shared)),
            drops=OF_RESUME,
        )

    def evaluation(self, method: str, split: str, *extra: str, name: str = "") -> Cell:
        """What a row is measured by. name: of the run's folder; "": the method's."""
        settings, name = self.settings, name or method
        is_run = is_trained(method)
        shots = settings.shots if method in (FEW_SHOT, ICF) else 0
        output = Place(settings.folder, self.prefix).report(name, split)
        overrides = [
            f"ckpt=['{self.where / name if is_run else base_of(settings)}']",
            data_sets(self.group),
            f"split={split}",
            f"seed={self.seed}",
            f"few_shot={shots}",
            *recipe(settings.model, self.group, method, "evaluate"),
            *[o for o in settings.train_overrides if o.partition("=")[0] in OF_DATA],
            *(settings.evaluate or []),
            *extra,
            f"output='{output}'",
        ]
        command = ("evaluate.py", *last_wins(overrides))
        needs = (f"{self.prefix}/{name}",) if is_run else ()
        return Cell(f"{self.prefix}/{name}@{split}", command, output, needs)

    def margins(self, method: str, split: str) -> Cell:
        """The margins of a run on held-out pairs."""
        output = Place(self.settings.folder, self.prefix).margins(method, split)
        arguments = (f"run={self.where / method}", f"split={split}", f"output={output}")
        command = ("-m", "experiments.margins", *arguments)
        needs = (f"{self.prefix}/{method}",)
        return Cell(f"{self.prefix}/{method}@{split}-margins", command, output, needs)


def last_wins(overrides: Sequence[str]) -> list[str]:
    """The overrides, each key once: where it stood first, with its last value."""
    return [f"{key}={value}" for key, value in dict(o.split("=", 1) for o in overrides).items()]


def data_sets(name: str) -> str:
    """The override that names a data set, whatever its path holds."""
    return f"datasets=['{name}']"


def base_of(settings: OpinionsSettings) -> str:
    """The model before training, as the runs' config names it."""
    for override in settings.train_overrides:
        if override.startswith("model.name_or_path="):
            return override.partition("=")[2].strip("'\"")
    text = (ROOT / "config" / "model" / f"{settings.model}.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)["name_or_path"]


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
