"""Hashes of files' contents, so that what was made of them is known to be of them.

Contract: files of the same bytes have one hash. That of a large file is remembered in the cache folder, under
the file's path, size, time of change and inode, so that a second start does not read it again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from utils import UserError, cache_dir, write_json

LARGE = 16 * 2**20  # bytes: what is smaller is read anew each time
SETTLED = 2.0  # seconds: a file that was changed just now may change again without a trace in its time
MOST_REMEMBERED = 4096  # files
CHUNK = 1 << 20


def identity_of(paths: Sequence[Path]) -> str:
    """A hash of what several files hold, in their order. Raises UserError where one cannot be read."""
    whole = hashlib.blake2b(digest_size=16)
    for path in paths:
        try:
            whole.update(f"{path.suffix} {hash_of(path)}\n".encode())
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); check the file") from error
    return whole.hexdigest()


def hash_of(path: Path) -> str:
    """A hash of what a file holds. Raises OSError where it cannot be read."""
    stat = path.stat()
    if stat.st_size < LARGE:
        return _read_hash(path)
    key, signature = str(path.resolve()), [stat.st_size, stat.st_mtime_ns, stat.st_ino]
    remembered = _remembered()
    if key in remembered and remembered[key][:-1] == signature:
        return remembered[key][-1]
    found = _read_hash(path)
    after = path.stat()
    is_same = [after.st_size, after.st_mtime_ns, after.st_ino] == signature
    if is_same and time.time() - stat.st_mtime > SETTLED:
        _remember(key, [*signature, found])
    return found


def _read_hash(path: Path) -> str:
    found = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            found.update(chunk)
    return found.hexdigest()


def _remembered() -> dict[str, list]:
    """{path: [size, time of change, inode, hash]}; {} where there is none, or the file was damaged."""
    try:
        value = json.loads((cache_dir() / "contents.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(value, dict):
        return {}
    return {key: entry for key, entry in value.items() if isinstance(entry, list) and len(entry) == 4}


def _remember(key: str, entry: list) -> None:
    """Add an entry; ranks that do so at once may lose one another's, which costs a second reading."""
    entries = {**_remembered(), key: entry}
    kept = dict(list(entries.items())[-MOST_REMEMBERED:])
    with suppress(OSError):  # a cache that cannot be written only costs time
        write_json(cache_dir() / "contents.json", kept)
