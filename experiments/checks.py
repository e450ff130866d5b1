"""Checks of keys that several experiments have: the model, the methods, and overrides of their commands.

Contract: a wrong value is a UserError that names the key and what it may be.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from experiments.keys import Common
from utils import UserError

CONFIG = Path(__file__).parent.parent / "config"
SET_BY_ALL = (
    "exp_name",
    "output_dir",
    "model.archive",
    "datasets",
    "seed",
    "loss",
    "ckpt",
    "output",
    "split",
)


def losses() -> list[str]:
    """The losses that a method may be: files of config/loss/."""
    return _names_in(CONFIG / "loss")


def check_model(name: str) -> None:
    """Raises UserError for a model that is no file of config/model/."""
    known = _names_in(CONFIG / "model")
    if name not in known:
        raise UserError(
            f"model={name}: unknown; choose one of {', '.join(known)}, or add config/model/*.yaml"
        )


def check_methods(key: str, methods: Collection[str], known: Collection[str]) -> None:
    """Raises UserError for the first method of a key that is none of `known`."""
    for method in methods:
        if method not in known:
            raise UserError(f"{key}=[...,{method}]: unknown; choose of {', '.join(known)}")


def check_overrides(settings: Common, file: str, own: Collection[str] = ()) -> None:
    """Raises UserError for an override that is no key=value, or that an experiment sets itself.

    file: of the experiment's keys; own: keys that it sets beside those of all experiments.
    """
    for key, overrides in (("train", settings.train_overrides), ("evaluate", settings.evaluate_overrides)):
        for override in overrides:
            name, equals, _ = override.partition("=")
            if not equals or name in (*SET_BY_ALL, *own):
                what = "is set by the experiment itself" if equals else "must be key=value"
                raise UserError(f"{key}=[{override}]: {what}; see the keys in experiments/{file}")


def _names_in(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.yaml"))
