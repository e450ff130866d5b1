"""The rows of the tables on opinions: what each is called, and where its numbers lie.

Contract: a method is its name everywhere: in keys, folders and results.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

BASE, FEW_SHOT, ICF, SFT, DPO, GDPO = "base", "few_shot", "icf", "sft", "dpo", "gdpo"
TITLES = {
    BASE: "base",
    FEW_SHOT: "few-shot",
    ICF: "ICF",
    SFT: "SFT",
    DPO: "DPO",
    "rpo": "DPO and likelihood",
    GDPO: "GDPO",
    "gdpo_calibration": "GDPO, calibration only",
    "gdpo_preference": "GDPO, preference only",
    "gdpo_kto": "GDPO with KTO",
    "gdpo_swepo": "GDPO with Swepo",
}


class Wanted(NamedTuple):
    """Which numbers."""

    groups: Sequence[tuple[str, str]]  # (data set, its folder)
    seeds: Sequence[str]
    methods: Sequence[str]
    splits: Sequence[str]
    collapse_betas: Sequence[str]
    shown_questions: int


class Place(NamedTuple):
    """Where the runs and evaluations of one seed lie, and what their cells are called."""

    folder: Path  # of the experiment
    seed: str
    slug: str = ""  # of the population, where each has runs of its own

    @property
    def prefix(self) -> str:
        """Of cells: "opinions-democrat/seed-0", "seed-0"."""
        return f"{self.slug}/seed-{self.seed}" if self.slug else f"seed-{self.seed}"

    @property
    def where(self) -> Path:
        return self.folder / self.prefix

    def cell(self, name: str) -> str:
        """The cell of a run."""
        return f"{self.prefix}/{name}"

    def run(self, name: str) -> Path:
        return self.where / name

    def report(self, name: str, split: str = "") -> Path:
        """An evaluation's folder. split: where there are several."""
        return self.where / "evaluations" / (f"{name}-{split}" if split else name)

    def margins(self, name: str, split: str) -> Path:
        return self.where / "margins" / f"{name}-{split}.jsonl"


def is_trained(method: str) -> bool:
    return method not in (BASE, FEW_SHOT)


def starts_from_sft(method: str) -> bool:
    return method not in (BASE, FEW_SHOT, ICF, SFT)


def stage_of(method: str) -> str:
    """The recipe's stage of a run: "sft" | "preference"."""
    return "preference" if starts_from_sft(method) else SFT


def view_override(method: str) -> list[str]:
    """The override of a run whose pairs come after their own beliefs, as the paper's DPO has them."""
    return ["responses=own_belief"] if method in (DPO, "rpo") else []


def has_margins(method: str) -> bool:
    """Is there a reference that the row's implied rewards are against?"""
    return starts_from_sft(method)


def title_of(method: str) -> str:
    return TITLES.get(method, method)
