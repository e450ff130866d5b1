"""Blocks of code in README.md, CONTRIBUTING.md and docs/, and what a shell makes of them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

from helpers import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SHELLS = ("bash", "zsh")
# commands that are noted instead of run; others, cat and cd among them, run as they are
NOTED = ("python", "bash", "torchrun", "sbatch", "pip", "lm_eval", "pre-commit", "mkdocs")
COMMAND = re.compile(rf"(([A-Z_]+=\S* )*({'|'.join(NOTED)}|source) |cat > )")
NOTE = """#!/bin/sh
for word in {name} "$@"; do printf '%s\\n\\001' "$word"; done >> "$NOTES"
printf '\\002' >> "$NOTES"
"""


class Block(NamedTuple):
    """A block of code. language: of its fence; of an indented one, bash where it begins with a command."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(path: Path) -> list[Block]:
    """The fenced and the indented blocks of a page."""
    found: list[Block] = []
    lines = path.read_text(encoding="utf-8").splitlines()
    number = 0
    while number < len(lines):
        fence = re.match(r"( *)```(\w*)$", lines[number])
        begin, body = number + 1, []
        number += 1
        if fence:
            while not lines[number].strip().startswith("```"):
                body.append(lines[number].removeprefix(fence[1]))
                number += 1
            number += 1
            found.append(Block(path.name, begin, fence[2], "\n".join(body) + "\n"))
        elif lines[begin - 1].startswith("    ") and (begin == 1 or not lines[begin - 2].strip()):
            body.append(lines[begin - 1].strip())
            while number < len(lines) and lines[number].startswith("    "):
                body.append(lines[number].removeprefix("    "))
                number += 1
            language = "bash" if COMMAND.match(body[0]) else "text"
            found.append(Block(path.name, begin, language, "\n".join(body) + "\n"))
    return found


def blocks(language: str) -> list[Block]:
    """All blocks of a language."""
    return [block for path in PAGES for block in blocks_of(path) if block.language == language]


def noted(text: str, shell: str, folder: Path) -> list[list[str]]:
    """The words of every command that a shell calls, in a folder with an environment to enter."""
    bin_folder, notes = folder / "bin", folder / "notes"
    bin_folder.mkdir(exist_ok=True)
    for name in NOTED:
        (bin_folder / name).write_text(NOTE.format(name=name))
        (bin_folder / name).chmod(0o755)
    (folder / ".venv" / "bin").mkdir(parents=True, exist_ok=True)
    (folder / ".venv" / "bin" / "activate").touch()
    notes.write_text("")
    typed = folder / "typed"
    typed.write_text(text)
    options = ["-f", "-e"] if shell == "zsh" else ["-e"]
    done = subprocess.run(
        [shutil.which(shell), *options, str(typed)],
        cwd=folder,
        env={"PATH": f"{bin_folder}:{os.environ['PATH']}", "NOTES": str(notes), "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, f"{shell}: {done.stderr}"
    calls = notes.read_text().split("\002")[:-1]
    return [[word.removesuffix("\n") for word in call.split("\001")[:-1]] for call in calls]
