"""Data sets of the hub, and the folders that `save_to_disk` writes.

Contract: rows come through `datasets`, memory-mapped, so its own cache and offline mode apply. A name is
owner/name, with a config behind a colon and a revision behind an at sign.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from groups.rows import Row
from groups.tables import Table, choose_split
from groups.values import plain
from network import prepare_for_hub
from utils import UserError, is_name

ALIASES = {
    "hh": "Anthropic/hh-rlhf",
    "shp": "stanfordnlp/SHP",
    "se": "HuggingFaceH4/stack-exchange-preferences",
    "goqa": "Anthropic/llm_global_opinions",
    "subpop": "jjssuh/subpop",
}
# owner/name or one of the aliases, then :config or :member or both, then @revision
NAME = re.compile(r"(?P<repo>[\w.-]+(/[\w.-]+)?)(:(?P<behind>[^@]*))?(@(?P<revision>.+))?")


class HubName(NamedTuple):
    """A hub data set as it is named, `owner/name:config@revision`."""

    repo: str
    behind: str  # the colon: a config, a member of it, or config:member
    revision: str | None

    def options(self) -> dict[str, str]:
        """The revision as `datasets` takes it."""
        return {} if self.revision is None else {"revision": self.revision}


def hub_name(name: str) -> HubName | None:
    """The parts of a name; None where it is no name of a hub data set, and none that we know."""
    parts = NAME.fullmatch(name)
    if parts is None:
        return None
    repo = ALIASES.get(parts["repo"], parts["repo"])
    return HubName(repo, parts["behind"] or "", parts["revision"]) if "/" in repo else None


def open_hub(name: str, parts: HubName, split: str) -> Table:
    """A split of a hub data set, or all; behind the colon stands a config where it has that, else a member.

    Raises UserError where the hub has no such data set, config or split, or cannot be reached.
    """
    config, member = _config_and_member(name, parts)
    chosen_config = () if config is None else (config,)
    present = _ask(
        name, lambda hub: hub.get_dataset_split_names(parts.repo, *chosen_config, **parts.options())
    )
    chosen = choose_split(name, split, present)

    @functools.cache
    def dataset(of_split: str) -> Any:
        options = {"split": of_split, **parts.options()}
        return _ask(name, lambda hub: hub.load_dataset(parts.repo, *chosen_config, **options))

    def identity() -> str:
        # the fingerprint changes with the files that `datasets` made the split from
        contents = [parts.repo, config, parts.revision]
        for of_split in chosen.splits:
            contents += [of_split, dataset(of_split)._fingerprint]
        return hashlib.blake2b(json.dumps(contents).encode(), digest_size=16).hexdigest()

    place = f"{name}/{split}"
    places = {
        of_split: place if len(chosen.splits) == 1 else f"{name}/{of_split}" for of_split in chosen.splits
    }

    def rows() -> Iterator[tuple[str, Row]]:
        for of_split, where in places.items():
            yield from _rows(where, dataset(of_split))

    return Table(place, rows, chosen.whole, member, identity)


def _config_and_member(name: str, parts: HubName) -> tuple[str | None, str]:
    if not parts.behind:
        return None, ""
    configs = _ask(name, lambda hub: hub.get_dataset_config_names(parts.repo, **parts.options()))
    first, _, rest = parts.behind.partition(":")
    return (first, rest) if first in configs else (None, parts.behind)


def _ask(name: str, question: Callable[[Any], Any]) -> Any:
    """What a function of the package `datasets` answers. Raises UserError where the hub does not."""
    prepare_for_hub(name)
    import datasets

    try:
        return question(datasets)
    # raised for: no such data set, config or split, no access, no network, files that cannot be read
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"data set {name}: no such file, and the hub said: {reason}; "
            "give a file or a hub id (owner/name, owner/name:config, owner/name@revision)"
        ) from error


def _rows(place: str, dataset: Any) -> Iterator[tuple[str, Row]]:
    number = 0
    for number, row in enumerate(dataset, 1):
        yield f"{place}, row {number}", plain(row)
    if number == 0:
        raise UserError(f"{place}: holds no rows; choose another split")


# --- folders of save_to_disk --------------------------------------------------------------------------------


def is_saved(folder: Path) -> bool:
    """Has `save_to_disk` written this folder, of a Dataset or of a DatasetDict?"""
    is_dataset = (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()
    return is_dataset or (folder / "dataset_dict.json").is_file()


def saved_splits(folder: Path) -> dict[str, list[Path]]:
    """The .arrow files of every split of a folder that `save_to_disk` wrote; {"": ...} where it has none.

    Raises UserError where the lists of them are damaged, or name a file that is not there.
    """
    if (folder / "state.json").is_file():
        return {"": _saved_files(folder)}
    listed = _json_object(folder / "dataset_dict.json").get("splits")
    if not isinstance(listed, list) or not all(map(is_name, listed)):
        raise UserError(f"{folder / 'dataset_dict.json'}: field splits: is no list of names; save it again")
    return {name: _saved_files(folder / name) for name in listed}


def _saved_files(folder: Path) -> list[Path]:
    state = folder / "state.json"
    listed = _json_object(state).get("_data_files")
    names = [file.get("filename") for file in listed if isinstance(file, dict)] if listed else [None]
    if not isinstance(listed, list) or len(names) < len(listed) or not all(map(is_name, names)):
        raise UserError(f"{state}: field _data_files: is no list of files; save the data set again")
    paths = [folder / name for name in names]
    for path in paths:
        if not path.is_file():
            raise UserError(f"{path}: no such file, but {state} names it; save the data set again")
    return paths


def _json_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read; save the data set again") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: is no JSON object; save the data set again")
    return value
