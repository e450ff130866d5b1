"""Which code made something: this project's version, and the commit of its clone.

Contract: what is not known is left out, never guessed. Nothing is imported but the standard library.
"""

from __future__ import annotations

import subprocess
from functools import lru_cache
from pathlib import Path

from environment import HERE, VERSION


@lru_cache(maxsize=1)
def own_version() -> str:
    """This project's version, with its commit where it is a clone: 0.2.0, commit 1f0c..."""
    commit = commit_of(HERE)
    return f"{VERSION}, commit {commit}" if commit else VERSION


def commit_of(folder: Path) -> str | None:
    """The commit of a clone, with + behind it where files differ from it; None where the folder is none."""
    try:
        top = _git(folder, "rev-parse", "--show-toplevel")
        if Path(top).resolve() != folder.resolve():  # installed below another project
            return None
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
        return _git(folder, "rev-parse", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=20
    )
    return done.stdout.strip()
