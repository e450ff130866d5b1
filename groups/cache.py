"""What is made once and read by many processes: folders of the user's cache, complete or absent.

Contract: a folder is named by a hash of all that determines what is in it; it appears by rename, and one
whose files are not as they were written is made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

from groups.contents import hash_of
from utils import UserError, beside, cache_dir, locked, log, to_disk, write_json

READY, FACTS, HASHES = "ready", "facts.json", "hashes.json"
UNUSED = 30 * 86400  # seconds after which a folder may go
PAUSE = 0.1  # seconds between two looks at what another process makes

Facts = dict[str, Any]
Maker = Callable[[Path], Generator[None, None, Facts]]  # fills a folder, a step at a time


def key_of(determined_by: Mapping[str, Any]) -> str:
    """A folder's name."""
    text = json.dumps(determined_by, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def folder_of(kind: str, key: str) -> Path:
    """Where it is once it is made: in the user's cache, or, with a warning, in the temporary folder where the
    cache cannot be written.
    """
    folder = cache_dir() / kind / key
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder / READY
        reason = "no permission"
    except OSError as error:
        reason = error.strerror or str(error)
    spare = _own_temporary_folder()
    log.warning("cache folder %s cannot be written (%s): %s holds the data", folder, reason, spare)
    return spare / kind / key / READY


def _own_temporary_folder() -> Path:
    """A folder that all processes of this user have, and no one else. Raises UserError where it is
    another's.
    """
    folder = Path(tempfile.gettempdir()) / f"grove-{os.getuid()}"
    with contextlib.suppress(OSError):  # `made` says what is wrong with it
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            raise UserError(f"temporary folder {folder}: is another user's; set GROVE_CACHE to a folder")
    return folder


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
        os.utime(folder.parent)  # it was used
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
    _forget_unused(folder.parent.parent)


def _forget_unused(of_kind: Path) -> None:
    """Remove what no run has opened for a month; what a process still maps stays there for it."""
    for base in of_kind.iterdir():
        with contextlib.suppress(OSError):
            if time.time() - base.stat().st_mtime > UNUSED:
                with locked(base) as is_ours:
                    if is_ours:
                        shutil.rmtree(base)


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
