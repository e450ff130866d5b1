"""What is made once and read by many processes: folders of the user's cache, complete or absent.

Contract: a folder is named by a hash of all that determines what is in it; it appears by rename, and one
whose files are not as they were written is made again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

from groups.contents import hash_of
from utils import UserError, beside, cache_dir, locked, log, to_disk, write_json

READY, FACTS, HASHES = "ready", "facts.json", "hashes.json"
PAUSE = 0.1  # seconds between two looks at what another process makes

Facts = dict[str, Any]
Maker = Callable[[Path], Generator[None, None, Facts]]  # fills a folder, a step at a time


def key_of(determined_by: Mapping[str, Any]) -> str:
    """A folder's name."""
    text = json.dumps(determined_by, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def folder_of(kind: str, key: str) -> Path:
    """Where it is once it is made."""
    return cache_dir() / kind / key / READY


def read_facts(folder: Path) -> Facts:
    """What its maker said of it."""
    return json.loads((folder / FACTS).read_text())


def made(folder: Path, make: Maker) -> Iterator[None]:
    """Make a folder where it is not there, a step at a time; wait where another process is making it.

    Raises UserError where the cache cannot be written.
    """
    base = folder.parent
    try:
        base.mkdir(parents=True, exist_ok=True)
        while True:
            with locked(base) as is_ours:
                if is_ours:
                    yield from _made_under_lock(folder, make)
                    return
            yield  # the other one may wait for ranks that wait for this one
            time.sleep(PAUSE)
    except OSError as error:
        raise UserError(
            f"cache folder {base}: cannot be written ({error.strerror or error}); make room, or set "
            "GROVE_CACHE to a folder with room"
        ) from error


def _made_under_lock(folder: Path, make: Maker) -> Iterator[None]:
    if _is_intact(folder):
        return
    for left in folder.parent.iterdir():  # of a process that died, or damaged
        shutil.rmtree(left)
    temporary = beside(folder)
    temporary.mkdir()
    try:
        yield from _fill(temporary, make)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    to_disk(folder.parent)


def _fill(folder: Path, make: Maker) -> Iterator[None]:
    facts = yield from make(folder)
    write_json(folder / FACTS, facts)
    for path in folder.iterdir():
        to_disk(path)
    write_json(folder / HASHES, {path.name: hash_of(path) for path in folder.iterdir()})


def _is_intact(folder: Path) -> bool:
    if not folder.exists():
        return False
    try:
        hashes = json.loads((folder / HASHES).read_text())
        if FACTS in hashes and all(hash_of(folder / name) == of_old for name, of_old in hashes.items()):
            return True
    except (OSError, ValueError, AttributeError):
        pass
    log.warning("%s is damaged: making it again", folder)
    return False
