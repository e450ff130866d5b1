"""Results of different seeds, made in different places, as one.

Contract: nothing but the seeds differs between files, and no seed stands in two; each number is as it was.
What is not counted by seed (answers that are shown, a collapse) is that of the first seed's file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.results import Json, Results, read_results, refusing_damage
from utils import UserError

SEEDS = "seeds"
CELLS = "cells"  # of one seed each, though their lines do not say so
SAME = ("questions", "equal", "groups", "held_out")  # else values are not of the same prompts and rows


def joined(files: Sequence[str], settings: Mapping[str, object]) -> Results:
    """The files' results as if one place had made them. settings: of the whole, all seeds among them.

    Raises UserError for files of other settings or prompts, a seed that two have, and one that none has.
    """
    by_path = {file: read_results(Path(file)) for file in files}
    held: dict[str, list[str]] = {}
    for file, results in by_path.items():
        with refusing_damage(file):
            held[file] = _seeds_of(file, results, settings)
    seeds = [str(seed) for seed in settings[SEEDS]]
    of_seed = _by_seed(held, seeds)
    in_order = list(dict.fromkeys(of_seed[seed] for seed in seeds))
    first = by_path[in_order[0]]
    others = [by_path[file] for file in in_order[1:]]
    for file, results in zip(in_order[1:], others):
        for key in SAME:
            if results.get(key) != first.get(key):
                raise UserError(f"join: {file}: its {key} are not those of {in_order[0]}; leave it out")
    whole: Json = {**first, "settings": dict(settings)}
    with refusing_damage("join"):
        for key, value in first.items():
            if _is_by_seed(key, value):
                whole[key] = [*value, *(line for results in others for line in results[key])]
        whole["made"] = _made([results["made"] for results in (first, *others)])
    return whole


def _seeds_of(file: str, results: Results, settings: Mapping[str, object]) -> list[str]:
    """The seeds that a file holds. Raises UserError where anything else of its settings differs."""
    held = results["settings"]
    for key in {**settings, **held}:
        if key != SEEDS and held.get(key) != settings.get(key):
            raise UserError(
                f"join: {file}: made with {key}={_shown(held.get(key))}, not {_shown(settings.get(key))}; "
                "give it the same keys, or leave it out"
            )
    return [str(seed) for seed in held[SEEDS]]


def _by_seed(held: Mapping[str, Sequence[str]], wanted: Sequence[str]) -> dict[str, str]:
    """By seed: the file that has it. held: each file's seeds."""
    of_seed: dict[str, str] = {}
    for file, seeds in held.items():
        for seed in seeds:
            if seed in of_seed:
                raise UserError(f"join: {file}: has seed {seed}, and so has {of_seed[seed]}; leave one out")
            of_seed[seed] = file
    if set(of_seed) != set(wanted):
        raise UserError(
            f"join: the files have seeds {_shown([*of_seed])}, and seeds={_shown(wanted)}; give {SEEDS}=..."
        )
    return of_seed


def _is_by_seed(key: str, value: object) -> bool:
    """A list with a line a seed or more."""
    is_list = isinstance(value, list) and bool(value)
    return is_list and (key == CELLS or all(isinstance(line, dict) and "seed" in line for line in value))


def _made(of_files: Sequence[Json]) -> Json:
    """How they were made: each thing once, in the files' order."""
    made: Json = dict(of_files[0])
    for key, value in made.items():
        found = [each.get(key) for each in of_files]
        if isinstance(value, str):
            made[key] = ", ".join(dict.fromkeys(map(str, found)))
        elif isinstance(value, list):
            made[key] = list(dict.fromkeys(entry for each in found for entry in each or []))
        elif key == "versions":
            made[key] = {name: ", ".join(dict.fromkeys(str(each[name]) for each in found)) for name in value}
    return made


def _shown(value: object) -> str:
    if isinstance(value, list | tuple):
        return f"[{','.join(map(str, value))}]"
    return str(value)
