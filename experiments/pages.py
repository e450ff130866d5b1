"""What all pages of experiments have: the disk, their heads and what it took.

Contract: each file is whole or as it was; a disk that refuses is one line. Texts of results are escaped.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.results import Results
from reporting.figures import files_of
from reporting.markdown import escaped
from utils import UserError, atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure


FROM_SFT = (  # of the head, where runs start so
    "- means over seeds with 95% bootstrap intervals over questions; every preference run starts from its "
    "seed's SFT"
)


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


def listed(texts: Sequence[str]) -> str:
    """Texts of results, one behind the other."""
    return ", ".join(map(escaped, texts))


def made_line(made: Results) -> str:
    """A line of the head: the machine and the versions."""
    gpus = f"; {listed(made['gpus'])}" if made["gpus"] else ""
    versions = ", ".join(f"{key} {value}" for key, value in made["versions"].items())
    return f"- made on {escaped(made['cpu'])}{gpus}; {versions}; commit {made['commit']}"


def override_lines(settings: Results) -> list[str]:
    """Of the head: the overrides, where there are any."""
    overrides = [*settings["train"], *settings["evaluate"]]
    return [f"- overrides: {listed(overrides)}"] if overrides else []


def folded(summary: str, content: str) -> str:
    """What a reader opens on demand; Markdown in it stays Markdown, on the site and in a repository."""
    return f'<details markdown="1"><summary>{summary}</summary>\n\n{content}\n\n</details>'


def cost(cells: Sequence[Results]) -> Iterator[str]:
    """Every command of a results' file, with its seconds."""
    yield "## What it took"
    total = sum(cell["seconds"] for cell in cells)
    yield f"{len(cells)} cells, {total / 3600:.2f} hours of their own time together."
    commands = "\n".join(f"{cell['seconds']:8.1f} s  {cell['command']}" for cell in cells)
    # indented, not fenced: no text of a command can end it
    yield folded(
        "Every command, with its seconds", "\n".join("    " + line for line in commands.splitlines())
    )
