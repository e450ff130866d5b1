"""The commands of cells: what train.py and evaluate.py are given.

Contract: each key stands once, in an order that is part of a cell's hash: another order is another command.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import yaml

from experiments.cells import OF_RESUME, Cell
from experiments.checks import CONFIG
from experiments.rows import SFT, Place

OF_DATA = {  # keys of train.py that an evaluation needs, too, where no run's config says them
    "belief_classes",
    "max_length",
    "max_prompt_length",
    "truncation",
    "eval_fraction",
    "format",
    "add_bos",
}


def training_cell(
    place: Place, name: str, overrides: Sequence[str], planned: Sequence[str], needs: tuple[str, ...] = ()
) -> Cell:
    """A run. planned: the overrides that its plan depends on; runs that differ in others take the same."""
    return Cell(
        place.cell(name),
        ("train.py", *last_wins(overrides)),
        place.run(name),
        needs,
        plan=("train.py", "plan=true", "exp_name=plan", *last_wins(planned)),
        drops=OF_RESUME,
    )


def evaluation_cell(
    place: Place, name: str, split: str, output: Path, overrides: Sequence[str], base: str | None
) -> Cell:
    """What a row is measured by. base: the model that it is, where it is no run."""
    source = place.run(name) if base is None else base
    whole = [f"ckpt=[{as_value(source)}]", *overrides, f"output={as_value(output)}"]
    needs = (place.cell(name),) if base is None else ()
    return Cell(f"{place.cell(name)}@{split}", ("evaluate.py", *last_wins(whole)), output, needs)


# --- overrides ----------------------------------------------------------------------------------------------


def of_run(place: Place, name: str) -> list[str]:
    """What sets a run apart from those of its kind."""
    return [f"exp_name={name}", f"output_dir={as_value(place.where)}", f"seed={place.seed}"]


def begins_from(folder: Path) -> str:
    return f"model.archive={as_value(folder)}"


def data_sets(*names: str, key: str = "datasets") -> str:
    """The override that names data sets, whatever their paths hold."""
    return f"{key}=[{','.join(map(as_value, names))}]"


def of_stage(overrides: Sequence[str], stage: str) -> list[str]:
    """Overrides of all runs as one has them: keys of losses are not SFT's."""
    return [override for override in overrides if stage != SFT or not override.startswith("loss.")]


def of_data(overrides: Sequence[str]) -> list[str]:
    """Those of train.py's that an evaluation needs, too."""
    return [override for override in overrides if override.partition("=")[0] in OF_DATA]


def last_wins(overrides: Sequence[str]) -> list[str]:
    """The overrides, each key once: where it stood first, with its last value."""
    return [f"{key}={value}" for key, value in dict(o.split("=", 1) for o in overrides).items()]


def as_value(text: str | Path) -> str:
    """A text in quotes, as Hydra reads it back: backslashes count before a quote alone, and are doubled."""
    text = str(text)
    quote = '"' if "'" in text and '"' not in text else "'"
    inner = re.sub(rf"(\\*)({quote}|\Z)", lambda match: 2 * match[1] + (match[2] and "\\" + quote), text)
    return f"{quote}{inner}{quote}"


def base_of(model: str, overrides: Sequence[str]) -> str:
    """The model before training, as the config of runs with these overrides names it."""
    for override in overrides:
        if override.startswith("model.name_or_path="):
            return override.partition("=")[2].strip("'\"")
    text = (CONFIG / "model" / f"{model}.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)["name_or_path"]
