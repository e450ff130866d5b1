"""Theorem 3 of Swepo, and DPO's collapse, trained: `bash experiments/bias.sh` (keys: bias.yaml).

Contract: one thread, the same numbers every time; each seed is kept when it is done. Pages and figures are
made of the two results' files alone.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
from tqdm import tqdm

import models
from checking import AtLeast
from experiments import bias_collapse, bias_lengths, bias_pages
from experiments.door import say_page
from experiments.keys import DIFFERENT, numbers_of, read_keys
from experiments.made import commit
from experiments.results import Results, check_same, read_results, write_results
from utils import UserError, run_entry, setup_logging, write_json

FILE = Path(__file__).with_name("bias.yaml")
LOOKS = 12  # at a model while it learns
DIGITS = 4


@dataclass(frozen=True)
class BiasSettings:
    """experiments/bias.yaml."""

    seeds: Annotated[list[str], DIFFERENT]
    counts: Annotated[list[str], DIFFERENT]
    prompts: Annotated[int, AtLeast(2, 1000)]
    longest: Annotated[int, AtLeast(2, 32)]
    concentration: Annotated[float, AtLeast(0.01, 1000)]
    steps: Annotated[int, AtLeast(1)]
    collapse_seeds: Annotated[list[str], DIFFERENT]
    betas: Annotated[list[str], DIFFERENT]
    collapse_prompts: Annotated[int, AtLeast(1, 1000)]
    collapse_steps: Annotated[int, AtLeast(1)]
    width: Annotated[int, AtLeast(8, 1024)]
    lr: Annotated[float, AtLeast(1e-6)]
    output_dir: str
    results_dir: str
    docs_dir: str
    tables: bool
    overwrite: bool


OF_PLACES = ("output_dir", "results_dir", "docs_dir", "tables", "overwrite")
OF_COLLAPSE = ("collapse_seeds", "betas", "collapse_prompts", "collapse_steps", "width", "lr")


class Part(NamedTuple):
    """One of the two experiments."""

    name: str  # of its results' file
    settings: Results
    seeds: Sequence[int]
    seeds_key: str  # that gave them
    rows_of: Callable[[int], Iterable[Results]]  # of a seed
    also: Results  # beside its rows


def main() -> None:
    """Read the keys, measure what is not there yet, and draw."""
    settings = read_keys(BiasSettings, FILE, sys.argv[1:], {})
    setup_logging()
    parts = [lengths_part(settings), collapse_part(settings)]
    results, docs = Path(settings.results_dir), Path(settings.docs_dir)
    if not settings.tables:
        torch.set_num_threads(1)  # sums in one order: the same numbers everywhere
        for part in parts:
            path = results / f"{part.name}.json"
            if not settings.overwrite:
                check_same(path, part.settings)
            write_results(path, measured(part, Path(settings.output_dir) / "bias"))
    of_files = [read_results(results / f"{part.name}.json") for part in parts]
    say_page(bias_pages.publish(*of_files, docs))


def lengths_part(settings: BiasSettings) -> Part:
    """Theorem 3. Raises UserError for seeds or counts that are no numbers."""
    counts = numbers_of("counts", settings.counts, int, 1)
    if sorted(counts) != counts or len(counts) < 2:
        raise UserError("counts: must be two or more numbers, the smallest first, counts=[1,4,16]")
    shape = bias_lengths.Shape(
        settings.prompts,
        settings.longest,
        settings.concentration,
        settings.width,
        settings.lr,
        settings.steps,
    )
    look_at = looks(settings.steps)

    def rows(seed: int) -> Iterable[Results]:
        for row in bias_lengths.measure(shape, counts, seed, look_at):
            of_path = {
                name: [round(v, DIGITS) for v in values] for name, values in row.path._asdict().items()
            }
            yield {"arm": row.arm, "k": row.k, "seed": row.seed, **of_path}

    seeds = numbers_of("seeds", settings.seeds, int, 0)
    sigmas = [bias_lengths.make_world(shape, seed, False).sigma for seed in seeds]
    also = {"looked_at": look_at, "sigma": round(max(sigmas), DIGITS)}
    kept = {
        key: value
        for key, value in plain(settings).items()
        if key in ("width", "lr") or key not in OF_COLLAPSE
    }
    return Part("bias", kept, seeds, "seeds", rows, also)


def collapse_part(settings: BiasSettings) -> Part:
    """The collapse. Raises UserError for seeds or betas that are no numbers."""
    betas = numbers_of("betas", settings.betas, float, 1e-3)
    how = (settings.collapse_prompts, settings.width, settings.lr, settings.collapse_steps, betas)

    def rows(seed: int) -> Iterable[Results]:
        for point in bias_collapse.measure(*how, seed):
            yield point._asdict()

    kept = {key: value for key, value in plain(settings).items() if key in OF_COLLAPSE}
    seeds = numbers_of("collapse_seeds", settings.collapse_seeds, int, 0)
    return Part("collapse", kept, seeds, "collapse_seeds", rows, {})


def plain(settings: BiasSettings) -> dict[str, object]:
    """The keys that decide the numbers."""
    return {key: value for key, value in dataclasses.asdict(settings).items() if key not in OF_PLACES}


def looks(steps: int) -> list[int]:
    """The steps after which a model is looked at: 0, and more of the early ones, to the last."""
    return sorted({round(steps * (look / (LOOKS - 1)) ** 2) for look in range(LOOKS)})


def measured(part: Part, folder: Path) -> Results:
    """All rows of all seeds: those that were kept under the same settings, and the others."""
    rows: list[Results] = []
    seconds = 0.0
    for seed in tqdm(part.seeds, desc=part.name, unit="seed"):
        of_seed = one_seed(part, seed, folder)
        rows += of_seed["rows"]
        seconds += of_seed["seconds"]
    made = {
        "commit": commit(),
        "command": "bash experiments/bias.sh",
        "thread_seconds": round(seconds, 1),
        "versions": models.versions(),
    }
    return {"settings": part.settings, "made": made, **part.also, "rows": rows}


def one_seed(part: Part, seed: int, folder: Path) -> Results:
    """What was kept of a seed under these settings, or what is measured now. Raises UserError where the disk
    refuses it.
    """
    alone = {**part.settings, part.seeds_key: [str(seed)]}  # the seeds beside it do not count
    digest = hashlib.blake2b(json.dumps(alone, sort_keys=True).encode(), digest_size=6).hexdigest()
    path = folder / f"{part.name}-seed-{seed}-{digest}.json"
    if path.is_file():
        return read_results(path)
    since = time.process_time()
    rows = list(part.rows_of(seed))
    found = {"settings": alone, "seconds": time.process_time() - since, "rows": rows}
    try:
        write_json(path, found)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); set output_dir=...") from error
    return found


if __name__ == "__main__":
    run_entry(main)
