"""A name or a path -> rows: files on the disk, data sets of the hub, and the names that we know.

Contract: rows come out as raw JSON, in the order of the file. A file that cannot be read raises `UserError`
with the place and the remedy; nothing is repaired.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from groups.record import Group
from groups.rows import Rows
from utils import UserError

DATA = Path(__file__).parent.parent / "data"
SUFFIXES = (".jsonl", ".json", ".parquet", ".csv")
ALIASES = {
    "hh": "Anthropic/hh-rlhf",
    "shp": "stanfordnlp/SHP",
    "se": "HuggingFaceH4/stack-exchange-preferences",
    "goqa": "Anthropic/llm_global_opinions",
}
OPINION_GROUPS = ("democrat", "independent", "republican", "strong_democrat", "strong_republican")
OPINION_SPLITS = ("train", "eval", "test", "test_questions")
FILE_SPLITS = ("train", "eval", "test", "all")
SPLIT_NAMES = {  # our name of a split: its usual names on the hub, the first one that is there counts
    "train": ("train", "train_prefs"),
    "eval": ("eval", "validation", "test_prefs", "test"),
    "test": ("test", "test_prefs"),
}


class Table(NamedTuple):
    """The rows of a data set as they were read."""

    place: str  # the file, or the data set and its split
    rows: list[Any]
    whole: bool  # whether they hold all splits, so that an eval split must be held out
    member: str  # which member of the data (a country); "" where none is named


def read_table(name: str, split: str) -> Table:
    """Read a file, or a split of a hub data set; a member may stand after a colon, `goqa:Germany`.

    Raises UserError for an unknown name or split, or a file that cannot be read.
    """
    path, member = Path(name), ""
    if not path.exists() and ":" in name:
        before, _, member = name.rpartition(":")
        path = Path(before)
    if path.suffix in SUFFIXES or path.exists():
        if split not in FILE_SPLITS:
            raise UserError(f"data set {name}: no split {split}; a file has train, eval and all")
        return Table(str(path), read_rows(path), True, member)
    rows, whole = _read_hub(ALIASES.get(str(path), str(path)), split)
    return Table(f"{name}/{split}", rows, whole, member)


def numbered(table: Table) -> Rows:
    """The rows, each with its place for errors. Raises UserError where one is no object."""
    rows = [(f"{table.place}, row {number}", row) for number, row in enumerate(table.rows, 1)]
    for where, row in rows:
        if not isinstance(row, dict):
            raise UserError(f"{where}: not a JSON object; write one object a line")
    return rows


# --- files --------------------------------------------------------------------------------------------------


def read_rows(path: Path) -> list[Any]:
    """Rows of a .jsonl, .json, .parquet or .csv file.

    They are dicts where the file is as it should be; `numbered` checks that. Raises UserError where there is
    no such file, it cannot be read, or it holds no rows.
    """
    if not path.is_file():
        raise UserError(
            f"data set {path}: no such file; give a {', '.join(SUFFIXES)} file, a hub id, "
            f"or one of opinions/{{{','.join(OPINION_GROUPS)}}}"
        )
    if path.suffix == ".parquet":
        return _read_parquet(path)
    if path.suffix not in SUFFIXES:
        kind = path.suffix or "this kind of"
        raise UserError(f"data set {path}: cannot read {kind} files; give {', '.join(SUFFIXES)}")
    parse = {".jsonl": _parse_jsonl, ".json": _parse_json, ".csv": _parse_csv}[path.suffix]
    rows = parse(path, _read_text(path))
    if not rows:
        raise UserError(f"{path}: holds no rows; write one object a row")
    return rows


def _read_parquet(path: Path) -> list[dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    # pyarrow raises OSError also for values that it does not know
    unreadable = (pyarrow.ArrowException, OSError, ValueError)
    try:
        return pyarrow.parquet.read_table(path).to_pylist()
    except unreadable as error:
        reason = str(error).splitlines()[0][:200]
        raise UserError(f"{path}: not a readable parquet file ({reason}); write it again") from error


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text at byte {error.start}; save the file as UTF-8") from error


def _parse_csv(path: Path, text: str) -> list[dict[str, Any]]:
    csv.field_size_limit(2**31 - 1)  # a printed table of countries is one long field
    try:
        rows = list(csv.DictReader(text.splitlines(keepends=True)))
    except csv.Error as error:
        raise UserError(f"{path}: not a readable csv file ({error}); write it again") from error
    for number, row in enumerate(rows, 1):
        if None in row:
            raise UserError(
                f"{path}, row {number}: has more fields than the header; "
                "put quotes around fields that hold commas"
            )
    return rows


def _parse_json(path: Path, text: str) -> list[Any]:
    value = _loads(text, str(path), "write one list of objects, or one object a line in a .jsonl file")
    if not isinstance(value, list):
        raise UserError(f"{path}: holds no list; write one list of objects")
    return value


def _parse_jsonl(path: Path, text: str) -> list[Any]:
    return [
        _loads(line, f"{path}, row {number}", "write one JSON object a line")
        for number, line in enumerate(text.split("\n"), 1)
        if line.strip()
    ]


def _loads(text: str, place: str, remedy: str) -> Any:
    """JSON that no later step stumbles over. Raises UserError."""
    try:
        value = json.loads(text)
        if "\\ud" in text.lower():  # half of a surrogate pair is no character, and no tokenizer takes it
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except json.JSONDecodeError as error:
        at = f"{error.msg} at line {error.lineno}, column {error.colno}"
        raise UserError(f"{place}: not valid JSON ({at}); {remedy}") from error
    except UnicodeEncodeError as error:
        raise UserError(
            f"{place}: holds half of a surrogate pair (\\ud800 to \\udfff); write the text as UTF-8"
        ) from error
    except (ValueError, RecursionError) as error:  # digits without end, brackets without end
        raise UserError(f"{place}: not usable JSON ({str(error)[:80]}); {remedy}") from error


# --- the hub ------------------------------------------------------------------------------------------------


def _read_hub(name: str, split: str) -> tuple[list[Any], bool]:
    """Rows of a hub data set, and whether they hold all splits.

    They come through `datasets`: its own cache and offline mode apply. Splits go by their usual names: eval
    is eval, validation, test_prefs or test; data with none of these is all in one split.
    """
    unknown = (
        f"data set {name}: unknown; give opinions/{{{','.join(OPINION_GROUPS)}}}, {', '.join(ALIASES)}, "
        f"a {', '.join(SUFFIXES)} file, or a hub id (owner/name)"
    )
    if name.count("/") != 1:
        raise UserError(unknown)
    import datasets

    try:
        present = datasets.get_dataset_split_names(name)
        has_eval = any(usual in present for usual in SPLIT_NAMES["eval"])
        whole = split in SPLIT_NAMES and not has_eval
        hub_split = _hub_split("train" if whole else split, present)
        if hub_split is None:
            raise UserError(f"data set {name}: no split {split}; it has {', '.join(present)}")
        return list(datasets.load_dataset(name, split=hub_split)), whole
    except (OSError, ValueError) as error:  # datasets raises these for: no such data set or split, no network
        raise UserError(f"{unknown}; the hub said: {str(error).splitlines()[0][:160]}") from error


def _hub_split(split: str, present: Sequence[str]) -> str | None:
    """The split's name on the hub, or None where it is not there."""
    for name in SPLIT_NAMES.get(split, (split,)):
        if name in present:
            return name
    return None


# --- splits of what has none --------------------------------------------------------------------------------


def hold_out(groups: Sequence[Group], split: str, fraction: float) -> list[Group]:
    """One split of data that has no splits of its own.

    `eval` (or `test`) is the ceil(fraction * groups) ones whose prompt has the smallest hash, `train` the
    others, `all` every one. The order of the groups stays.
    """
    if split == "all":
        return list(groups)
    by_hash = sorted(range(len(groups)), key=lambda i: _hash_of_prompt(groups[i]))
    held_out = set(by_hash[: math.ceil(fraction * len(groups))])
    wants_held_out = split != "train"
    return [group for i, group in enumerate(groups) if (i in held_out) == wants_held_out]


def _hash_of_prompt(group: Group) -> str:
    return hashlib.sha256(json.dumps(group.prompt).encode()).hexdigest()
