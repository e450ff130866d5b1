"""A name or a path -> rows: files on the disk, data sets of the hub, and the names that we know.

Contract: rows come out as raw JSON, in the order of the file. A file that cannot be read raises `UserError`
with the place and the remedy; nothing is repaired.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from groups.parsing import parse_csv, parse_json, parse_jsonl, read_parquet, read_text
from groups.rows import Rows
from groups.values import plain
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
    if path.suffix not in SUFFIXES:
        kind = path.suffix or "this kind of"
        raise UserError(f"data set {path}: cannot read {kind} files; give {', '.join(SUFFIXES)}")
    if path.suffix == ".parquet":
        rows = read_parquet(path)
    else:
        parse = {".jsonl": parse_jsonl, ".json": parse_json, ".csv": parse_csv}[path.suffix]
        rows = parse(path, read_text(path))
    if not rows:
        raise UserError(f"{path}: holds no rows; write one object a row")
    return rows


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
        return plain(list(datasets.load_dataset(name, split=hub_split))), whole
    except (OSError, ValueError) as error:  # datasets raises these for: no such data set or split, no network
        raise UserError(f"{unknown}; the hub said: {str(error).splitlines()[0][:160]}") from error


def _hub_split(split: str, present: Sequence[str]) -> str | None:
    """The split's name on the hub, or None where it is not there."""
    for name in SPLIT_NAMES.get(split, (split,)):
        if name in present:
            return name
    return None
