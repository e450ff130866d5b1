"""The folder of an export: it appears whole, or not at all.

Contract: nothing is replaced but an empty folder, or with overwrite an earlier export; what is half written
stands under another, hidden name and goes when the process ends.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from utils import UserError, beside, to_disk, where_supported

CARD = "README.md"
MARK = "grove-export"  # a tag of the card's front matter, by which an earlier export is known
FILE_MODE, FOLDER_MODE = 0o644, 0o755  # for whoever takes it


def check(folder: Path, overwrite: bool) -> None:
    """Raises UserError where an export may not take this place."""
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise UserError(f"config key to={folder}: is no folder; give the name of a new one")
    if not any(folder.iterdir()):
        return
    if not overwrite:
        raise UserError(
            f"config key to={folder}: is not empty; give a new folder, or overwrite=true to replace an "
            "earlier export"
        )
    if not _is_export(folder):
        raise UserError(
            f"config key to={folder}: holds something else than an earlier export, which overwrite=true "
            "would remove; give a new folder"
        )


def _is_export(folder: Path) -> bool:
    """Does the card in it say that it is one of ours?"""
    try:
        lines = (folder / CARD).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    if lines[:1] != ["---"] or "---" not in lines[1:]:
        return False
    return f"- {MARK}" in lines[: lines.index("---", 1)]


@contextmanager
def appearing(folder: Path, overwrite: bool) -> Iterator[Path]:
    """Yield a hidden folder beside `folder`, which takes its place where the block succeeds.

    Raises UserError where the disk refuses, and as `check` does.
    """
    folder = folder.absolute()
    check(folder, overwrite)
    with _writing(folder):
        folder = folder.resolve()
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = beside(folder)
        temporary.mkdir()
        try:
            yield temporary
            _settle(temporary)
            check(folder, overwrite)  # again: the work took its time
            _take_place(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UserError(
            f"export folder {folder}: cannot be written ({reason}); make room, or give another folder"
        ) from error


def _settle(folder: Path) -> None:
    """Open the files to all who may enter, and bring them to the disk."""
    folder.chmod(FOLDER_MODE)
    for path in folder.rglob("*"):
        with where_supported():
            path.chmod(FOLDER_MODE if path.is_dir() else FILE_MODE)
        to_disk(path)
    to_disk(folder)


def _take_place(temporary: Path, folder: Path) -> None:
    """Rename; an earlier export goes only when the new one has its name."""
    before = beside(folder)
    if folder.exists():
        folder.rename(before)
    try:
        temporary.rename(folder)
    except OSError:
        if before.exists():
            before.rename(folder)
        raise
    to_disk(folder.parent)
    shutil.rmtree(before, ignore_errors=True)
