"""How each kind of model is trained and evaluated: recipes.yaml, as overrides of the doors.

Contract: values are the file's texts, unchanged. train_scripts/run.sh asks here, too:
`python -m experiments.recipes MODEL DATASET LOSS sft|preference|evaluate` prints one override a line.
"""

from __future__ import annotations

import sys
from fnmatch import fnmatchcase as fits
from pathlib import Path

import yaml

from utils import UserError, run_entry

FILE = Path(__file__).with_name("recipes.yaml")
LOSSES = FILE.parent.parent / "config" / "loss"
OTHERS = "others"  # models without a recipe of their own
STAGES = ("sft", "preference", "evaluate")
USAGE = "usage: python -m experiments.recipes MODEL DATASET LOSS sft|preference|evaluate"

Keys = dict[str, str]


def recipe(model: str, data: str, loss: str, stage: str) -> list[str]:
    """Overrides of a stage: `sft` and `preference` are of train.py, `evaluate` of evaluate.py.

    model: a file of config/model/; data: a data set; loss: of config/loss/, which counts in `preference`
    alone.
    """
    of_model = _of_model(model, data)
    keys: Keys = dict(of_model[stage]) if stage == "evaluate" else {**of_model["train"], **of_model[stage]}
    if stage == "preference":
        view = _view_of(loss)
        keys |= next((of for name, of in of_model["losses"].items() if view == name or fits(loss, name)), {})
    return [f"{key}={value}" for key, value in keys.items()]


def _of_model(model: str, data: str) -> dict[str, dict]:
    recipes = yaml.load(FILE.read_text(encoding="utf-8"), yaml.BaseLoader)  # texts as they stand
    for name, of_model in recipes.items():
        if fits(f"{model} on {data}", name):
            return of_model
    return recipes.get(model, recipes[OTHERS])


def _view_of(loss: str) -> str | None:
    """What the loss's file, or the one that it stands on, says that it compares; None: there is none."""
    file = LOSSES / f"{loss}.yaml"
    if not file.is_file():
        return None
    config = yaml.load(file.read_text(encoding="utf-8"), yaml.BaseLoader)
    if "responses" in config:
        return config["responses"]
    return _view_of(config["defaults"][0]) if "defaults" in config else None


def main() -> None:
    """Print a recipe. Raises UserError for other arguments."""
    if len(sys.argv) != 5 or sys.argv[4] not in STAGES:
        raise UserError(USAGE)
    print("\n".join(recipe(*sys.argv[1:])))


if __name__ == "__main__":
    run_entry(main)
