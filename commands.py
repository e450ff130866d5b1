"""The console commands of an installed project: `grove-train` is `python train.py`, from any folder.

Contract: a command finds the project's own modules before any of the same name that is installed beside them
(`evaluate`, `utils`), as `python train.py` does. Installed, all of the project lies in one package's folder.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def train() -> None:
    """`grove-train`."""
    _open("train")


def evaluate() -> None:
    """`grove-evaluate`."""
    _open("evaluate")


def synthesize() -> None:
    """`grove-synthesize`."""
    _open("synthesize")


def report() -> None:
    """`grove-report`."""
    _open("report")


def export() -> None:
    """`grove-export`."""
    _open("export")


def _open(door: str) -> None:
    sys.path.insert(0, str(HERE))
    importlib.import_module("environment").end_in_one_line()
    importlib.import_module(door).command()
