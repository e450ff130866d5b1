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
    """Where the runs and evaluations of one population and seed lie."""

    folder: Path  # of the experiment
    prefix: str  # "opinions-democrat/seed-0"

    def run(self, name: str) -> Path:
        return self.folder / self.prefix / name

    def report(self, name: str, split: str) -> Path:
        return self.folder / self.prefix / "evaluations" / f"{name}-{split}"

    def margins(self, name: str, split: str) -> Path:
        return self.folder / self.prefix / "margins" / f"{name}-{split}.jsonl"


def is_trained(method: str) -> bool:
    return method not in (BASE, FEW_SHOT)


def starts_from_sft(method: str) -> bool:
    return method not in (BASE, FEW_SHOT, ICF, SFT)


def has_margins(method: str) -> bool:
    """Is there a reference that the row's implied rewards are against?"""
    return starts_from_sft(method)


def title_of(method: str) -> str:
    return TITLES.get(method, method)
