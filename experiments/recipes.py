"""How each kind of model is trained and evaluated: recipes.yaml, as overrides of the doors.

Contract: values are the file's texts, unchanged. train_scripts/run.sh asks here, too:
`python -m experiments.recipes MODEL LOSS sft|preference|evaluate` prints one override a line.
"""

from __future__ import annotations

import fnmatch
import sys
from pathlib import Path

import yaml

from utils import UserError, run_entry

FILE = Path(__file__).with_name("recipes.yaml")
OTHERS = "others"  # models without a recipe of their own
STAGES = ("sft", "preference", "evaluate")
USAGE = "usage: python -m experiments.recipes MODEL LOSS sft|preference|evaluate"

Keys = dict[str, str]


def recipe(model: str, loss: str, stage: str) -> list[str]:
    """Overrides of a stage: `sft` and `preference` are of train.py, `evaluate` of evaluate.py.

    model: a file of config/model/; loss: of config/loss/, which counts in `preference` alone.
    """
    recipes = yaml.load(FILE.read_text(encoding="utf-8"), yaml.BaseLoader)  # texts as they stand
    of_model = recipes.get(model, recipes[OTHERS])
    keys: Keys = dict(of_model[stage]) if stage == "evaluate" else {**of_model["train"], **of_model[stage]}
    if stage == "preference":
        keys |= next((of for name, of in of_model["losses"].items() if fnmatch.fnmatch(loss, name)), {})
    return [f"{key}={value}" for key, value in keys.items()]


def main() -> None:
    """Print a recipe. Raises UserError for other arguments."""
    if len(sys.argv) != 4 or sys.argv[3] not in STAGES:
        raise UserError(USAGE)
    print("\n".join(recipe(*sys.argv[1:])))


if __name__ == "__main__":
    run_entry(main)
