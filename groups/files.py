"""A name or a path -> rows: files on the disk, data sets of the hub, and the names that we know.

Contract: rows come out as raw JSON, in the order of the file, one after the other. A file that cannot be read
raises `UserError` with the place and the remedy; nothing is repaired.
"""

from __future__ import annotations

import functools
import glob
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from groups.contents import identity_of
from groups.hub import ALIASES, hub_name, is_saved, open_hub, saved_splits
from groups.parsing import KINDS, read_values
from groups.rows import Row
from groups.streams import CODECS
from groups.tables import FILE_SPLITS, OF_SPLITS, Table, choose_split
from groups.waves import is_wave, read_wave, wave_files
from utils import UserError

DATA = Path(__file__).parent.parent / "data"
SUFFIXES = tuple(KINDS)  # each may be followed by one of CODECS
OPINION_GROUPS = ("democrat", "independent", "republican", "strong_democrat", "strong_republican")
OPINION_SPLITS = ("train", "eval", "test", "test_questions")
INSTRUCTIONS = "instructions"  # the name of the embedded instructions
INSTRUCTION_SPLITS = ("train", "eval", "test")
GLOB_MARKS = re.compile(r"[*?\[]")
# what stands beside the data of a folder and is none
NO_DATA = re.compile(
    r"[._].*|(README|LICENSE|NOTICE|CITATION)\b.*|.*\.(md|lock|crc)|dataset_infos?\.json", re.I
)
SHARD = re.compile(r"(?P<split>.+?)-\d{5}-of-\d{5}(-\w+)?")  # as the hub's tools name the files of a split


def open_table(name: str, split: str) -> Table:
    """Open a file, a folder or a glob of them, or a split of a hub data set, by its name.

    A member may stand after a colon, `goqa:Germany`. Raises UserError for an unknown name or split, or files
    that are not there; rows that cannot be read raise it when they are reached.
    """
    path, member = _path_and_member(name)
    if name and path.is_dir():
        return _open_folder(path, split, member)
    if GLOB_MARKS.search(str(path)) and not path.exists():
        return _open_files(str(path), _globbed(path), split, member)
    if path.is_file() or _kind_of(path):
        return _open_files(str(path), [path], split, member)
    parts = hub_name(name)
    if parts is None:
        raise UserError(
            f"data set {name}: unknown; give opinions/{{{','.join(OPINION_GROUPS)}}}, {INSTRUCTIONS}, "
            f"{', '.join(ALIASES)}, a {', '.join(SUFFIXES)} file, a folder of them, or a hub id (owner/name)"
        )
    return open_hub(name, parts, split)


def read_rows(path: Path) -> list[Row]:
    """All rows of a file. Raises UserError where it cannot be read, or holds no rows."""
    _check_files([path])
    return [row for _, row in _rows_of(str(path), [path])]


def _path_and_member(name: str) -> tuple[Path, str]:
    """The path that a name begins with, and what stands behind the colon after it."""
    if name and Path(name).exists():
        return Path(name), ""
    for colon in re.finditer(":", name):
        path = Path(name[: colon.start()])
        if path.exists() or _kind_of(path):
            return path, name[colon.end() :]
    return Path(name), ""


def _kind_of(path: Path) -> str:
    """Which of SUFFIXES a file has, before one of CODECS; "" where it has none."""
    suffix = Path(_without_codec(path)).suffix
    return suffix if suffix in KINDS else ""


def _without_codec(path: Path) -> str:
    """The file's name without the suffix of its compression."""
    return path.stem if path.suffix in CODECS else path.name


# --- files --------------------------------------------------------------------------------------------------


def _open_files(place: str, paths: Sequence[Path], split: str, member: str) -> Table:
    """One table of several files, which hold all splits."""
    if split not in FILE_SPLITS:
        raise UserError(f"data set {place}: no split {split}; a file has train, eval and all")
    return _table(place, paths, True, member)


def _table(place: str, paths: Sequence[Path], whole: bool, member: str) -> Table:
    _check_files(paths)
    return Table(place, lambda: _rows_of(place, paths), whole, member, lambda: identity_of(paths))


def _check_files(paths: Sequence[Path]) -> None:
    """All are files of one kind that can be read. Raises UserError."""
    kinds: dict[str, Path] = {}
    names: dict[Path, Path] = {}
    for path in paths:
        if not path.is_file():
            raise UserError(
                f"data set {path}: no such file; give a {', '.join(SUFFIXES)} file, a hub id, "
                f"{INSTRUCTIONS}, or one of opinions/{{{','.join(OPINION_GROUPS)}}}"
            )
        kind = _kind_of(path)
        if not kind:
            raise UserError(
                f"data set {path}: cannot read {path.suffix or 'this kind of'} files; give "
                f"{', '.join(SUFFIXES)}, or one of them with {' or '.join(CODECS)} after it"
            )
        kinds.setdefault(kind, path)
        twin = names.setdefault(path.with_name(_without_codec(path)), path)
        if twin != path:
            raise UserError(f"data set {path}: {twin.name} stands beside it under the same name; keep one")
    if len(kinds) > 1:
        one, other, *_ = kinds.values()
        raise UserError(f"data set {one.parent}: {one.name} and {other.name} are of two kinds; keep one kind")


def _rows_of(place: str, paths: Sequence[Path]) -> Iterator[tuple[str, Row]]:
    """The rows of several files, each with its place. Raises UserError where one is no object."""
    is_empty = True
    for path in paths:
        for number, row in enumerate(read_values(path, _kind_of(path)), 1):
            where = f"{path}, row {number}"
            if not isinstance(row, dict):
                raise UserError(f"{where}: not a JSON object; write one object a line")
            is_empty = False
            yield where, row
    if is_empty:
        raise UserError(f"{place}: holds no rows; write one object a row")


def _globbed(pattern: Path) -> list[Path]:
    """The files that a pattern names, by name. Raises UserError where there are none."""
    found = [Path(path) for path in sorted(glob.glob(str(pattern), recursive=True))]
    files = [path for path in found if path.is_file()]
    if not files:
        raise UserError(f"data set {pattern}: no file fits; correct the pattern, and quote it in a shell")
    return files


# --- folders ------------------------------------------------------------------------------------------------


def _open_folder(folder: Path, split: str, member: str) -> Table:
    """The shards of a folder as one table, or a split of a folder whose files are named by their splits."""
    if is_wave(folder):
        return _open_wave(folder, split, member)
    splits = saved_splits(folder) if is_saved(folder) else _splits_of(folder)
    if "" in splits:
        return _open_files(str(folder), splits[""], split, member)
    chosen = choose_split(str(folder), split, list(splits))
    place = str(folder) if len(chosen.splits) > 1 else f"{folder}/{chosen.splits[0]}"
    paths = [path for name in chosen.splits for path in splits[name]]
    return _table(place, paths, chosen.whole, member)


def _open_wave(folder: Path, split: str, member: str) -> Table:
    """One table of the files of a survey, which hold all splits."""
    whole = _open_files(str(folder), wave_files(folder), split, member)
    rows = functools.cache(lambda: read_wave(folder))  # as many as questions, from as many as people
    return whole._replace(rows=lambda: iter(rows()))


def _splits_of(folder: Path) -> dict[str, list[Path]]:
    """The files of every split, sorted by name; {"": all of them} where names tell of none.

    Raises UserError where some files are named by a split and others are not.
    """
    folders, files = _inside(folder)
    if not files and folders and OF_SPLITS >= {path.name for path in folders}:
        return {path.name: _inside(path)[1] for path in folders}
    if not files and [path.name for path in folders] == ["data"]:
        return _splits_of(folder / "data")
    if not files:
        raise UserError(f"data set {folder}: a folder without data files; give {', '.join(SUFFIXES)} files")
    if folders:
        raise UserError(f"data set {folder}: holds {folders[0].name} beside data files; give a pattern")
    splits: dict[str, list[Path]] = {}
    for path in files:
        splits.setdefault(_split_name(path), []).append(path)
    is_named = bool(OF_SPLITS & set(splits))
    if is_named and "" in splits:
        raise UserError(
            f"data set {splits[''][0]}: is of no split, and other files are named by theirs; "
            "move it out of the folder, or give a pattern"
        )
    return splits if is_named or ("" not in splits and len(splits) > 1) else {"": files}


def _inside(folder: Path) -> tuple[list[Path], list[Path]]:
    """The folders and the data files in a folder, sorted by name. Raises UserError where others are there."""
    try:
        inside = [path for path in sorted(folder.iterdir()) if not NO_DATA.fullmatch(path.name)]
    except OSError as error:
        raise UserError(f"data set {folder}: cannot be read ({error.strerror}); check the folder") from error
    files = [path for path in inside if path.is_file()]
    for path in files:
        if not _kind_of(path):
            raise UserError(f"data set {path}: is no data file; move it out of the folder, or give a pattern")
    return [path for path in inside if path.is_dir()], files


def _split_name(path: Path) -> str:
    """train for train-00000-of-00002.parquet or train.jsonl; "" where the name tells of no split."""
    stem = _without_codec(path).removesuffix(_kind_of(path))
    shard = SHARD.fullmatch(stem)
    if shard:
        return shard["split"]
    return stem if stem in OF_SPLITS else ""
