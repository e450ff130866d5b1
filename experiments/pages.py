"""The page of an experiment on the disk, with its figures.

Contract: each file is whole or as it was; a disk that refuses is one line.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from reporting.figures import files_of
from utils import UserError, atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_page(folder: Path, name: str, text: str, figures: Mapping[str, Figure]) -> Path:
    """Write NAME.md and NAME-*.svg and .png. Raises UserError where the disk refuses them."""
    page = folder / f"{name}.md"
    try:
        for figure_name, figure in figures.items():
            for kind, content in files_of(figure).items():
                with atomic_path(folder / f"{name}-{figure_name}.{kind}") as temporary:
                    temporary.write_bytes(content)
        with atomic_path(page) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        why = os.strerror(error.errno or 0)
        raise UserError(f"{folder}: cannot be written ({why}); set docs_dir=<another folder>") from error
    return page
