"""Results' files: every number that tables and figures are drawn from, as JSON.

Contract: a file is whole or as it was, says in "settings" of which experiment it is, and is not replaced by
one of other settings. Damaged results are a UserError.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from utils import UserError, atomic_path, log

Json = dict[str, object]
Results = Mapping[str, object]  # JSON values; "settings" says of which experiment they are


def read_results(path: Path) -> Results:
    """A results' file. Raises UserError where it is none."""
    if not path.is_file():
        raise UserError(f"{path}: no results are there; run the experiment without tables=true first")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: is damaged ({error}); restore it, or run the experiment again") from error
    if not isinstance(found, dict) or "settings" not in found:
        raise UserError(f"{path}: holds no results of an experiment; set results_dir=<another folder>")
    return found


@contextlib.contextmanager
def refusing_damage(of: str = "results") -> Iterator[None]:
    """Around what reads results: a key or value that is missing, or of another kind, is a UserError."""
    try:
        yield
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise UserError(f"{of}: damaged ({error!r}); restore the file, or run it again") from error


def check_same(path: Path, settings: Mapping[str, object]) -> None:
    """Raises UserError where results of other settings would be overwritten."""
    if path.is_file() and read_results(path)["settings"] != json.loads(json.dumps(settings)):
        raise UserError(
            f"{path}: holds results of other settings; set results_dir=... and docs_dir=... for a trial, "
            "name=... for another experiment, or overwrite=true to replace them"
        )


def write_results(path: Path, results: Results) -> None:
    """Small, and what differs from other results can be read line by line."""
    try:
        with atomic_path(path) as temporary:
            temporary.write_text(as_text(results) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); set results_dir=...") from error
    log.info("results: %s", path)


def as_text(results: Results) -> str:
    """JSON, with a list's objects on lines of their own."""
    parts = []
    for key, value in results.items():
        text = json.dumps(value, ensure_ascii=False)
        if isinstance(value, list) and value:
            lines = [json.dumps(entry, ensure_ascii=False) for entry in value]
            text = "[\n  " + ",\n  ".join(lines) + "\n ]"
        parts.append(f" {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}"
