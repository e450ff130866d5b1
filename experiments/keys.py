"""An experiment's keys: its YAML beside the code, then the environment, then the command line.

Contract: the keys become one frozen record, checked once; a wrong one is a UserError that names the key.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from checking import AtLeast, Rule, list_keys, meant, record
from commented import help_of_file
from doorway import HELP, with_lists_bracketed
from utils import UserError, one_line, without_secrets

NAME = Rule("must be a name that a folder may have", r"[\w.-]*\w[\w.-]*")
DIFFERENT = Rule("must be a list of different names, [a,b]", distinct=True)


@dataclass(frozen=True)
class Common:
    """The keys that every experiment has."""

    name: Annotated[str, NAME]
    output_dir: str
    results_dir: str
    docs_dir: str
    jobs: Annotated[int, AtLeast(1, 1024)]
    plan: bool
    tables: bool
    join: list[str] | None
    overwrite: bool
    train: list[str] | None
    evaluate: list[str] | None

    @property
    def folder(self) -> Path:
        """Of runs, evaluations, records and logs."""
        return Path(self.output_dir) / self.name

    @property
    def from_results(self) -> bool:
        """Are tables and figures all that is asked for? Then no cell is needed."""
        return self.tables or bool(self.join)

    @property
    def train_overrides(self) -> list[str]:
        return self.train or []

    @property
    def evaluate_overrides(self) -> list[str]:
        return self.evaluate or []

    @property
    def overrides(self) -> dict[str, list[str]]:
        """Those that were given, as results name them: without secrets."""
        return {
            "train": [without_secrets(override) for override in self.train_overrides],
            "evaluate": [without_secrets(override) for override in self.evaluate_overrides],
        }


Settings = TypeVar("Settings", bound=Common)


def read_keys(
    kind: type[Settings], file: Path, arguments: Sequence[str], variables: Mapping[str, str]
) -> Settings:
    """The record of an experiment's keys. variables: by variable of the environment, the argument that
    it stands for, "model={}".

    Raises UserError for an argument that is no key=value, an unknown key, and a value of another kind.
    """
    if HELP & set(arguments):
        print(help_of_file(file))
        sys.exit(0)
    given = [form.format(os.environ[name]) for name, form in variables.items() if os.environ.get(name)]
    known = [field.name for field in fields(kind)]
    for argument in arguments:
        key, equals, _ = argument.partition("=")
        if not equals or key not in known:
            raise UserError(f"{argument}: {_hint(key, bool(equals), known, file)}")
    try:
        lists = list_keys(kind)
        bracketed = with_lists_bracketed([*given, *arguments], lists)
        config = OmegaConf.merge(OmegaConf.load(file), OmegaConf.from_dotlist(bracketed))
        values = OmegaConf.to_container(config, resolve=True)
    except (OmegaConfBaseException, YAMLError) as error:
        raise UserError(f"{file.name}: {one_line(error)}; its keys stand there with comments") from error
    lone = {key: [value] for key, value in values.items() if key in lists and isinstance(value, int | float)}
    return record(kind, {**values, **lone}, f"../experiments/{file.name}")


def named_apart(given: Settings, file: Path, words: Mapping[str, Sequence[str]]) -> Settings:
    """The settings under a name that tells them from the usual ones, where none was given.

    words: by key, what stands behind the name where the key's value is another than the file's.
    """
    usual = OmegaConf.to_container(OmegaConf.load(file))
    values = vars(given)
    if given.name != usual["name"]:
        return given
    parts = [given.name]
    for key, of_key in words.items():
        parts += of_key if values[key] != usual[key] else []
    return replace(given, name="-".join(parts))


def _hint(key: str, is_pair: bool, known: Sequence[str], file: Path) -> str:
    if not is_pair:
        return f"must be key=value; the keys stand in experiments/{file.name}"
    stands = f"unknown key {key}; {meant(key, known)}the keys stand in experiments/{file.name}"
    if "train" not in known:
        return stands
    return f"{stands}; keys of train.py go in train={key}=..., those of evaluate.py in evaluate={key}=..."


def numbers_of(key: str, texts: Sequence[str], kind: type[int] | type[float], least: float) -> list:
    """A list of different numbers of a key. Raises UserError for what is none."""
    try:
        numbers = [kind(text) for text in texts]
    except ValueError:
        numbers = []
    if not numbers or len(set(numbers)) < len(numbers) or not all(least <= n < 2**31 for n in numbers):
        what = "whole numbers" if kind is int else "numbers"
        raise UserError(f"{key}=[{','.join(texts)}]: must be a list of different {what}, {least:g} or more")
    return numbers
