"""The folder of a report: can it be written?

Contract: what a folder or a disk refuses is a UserError of one line, and is tried before any work.
"""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from utils import UserError

FILES = (
    "predictions.jsonl",
    "distributions.jsonl",
    "by_prompt.jsonl",
    "report.json",
    "report.html",
    "report.md",
)


def check_folder(folder: Path) -> None:
    """Try whether a report can be written to `folder`; nothing is left there. Raises UserError."""
    made: list[Path] = []
    try:
        with writing(folder):
            missing = [path for path in (folder, *folder.parents) if not path.exists()]
            for path in reversed(missing):
                path.mkdir()
                made.append(path)
            with tempfile.NamedTemporaryFile(dir=folder, prefix=".probe-") as probe:
                probe.write(b"\0")
                probe.flush()
            for name in FILES:
                if (folder / name).is_dir():
                    raise IsADirectoryError(errno.EISDIR, f"{name}: {os.strerror(errno.EISDIR)}")
    finally:
        with contextlib.suppress(OSError):  # somebody else writes there already
            for path in reversed(made):
                path.rmdir()


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Raises UserError where the block cannot write to `folder`."""
    try:
        yield
    except (OSError, UnicodeEncodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(
            f"report folder {folder}: cannot be written ({reason}); make room, or set output=<another folder>"
        ) from error
