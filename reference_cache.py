"""Log-probs on the disk, by the key of their path: files that are added and never rewritten, read by memory
map.

Contract: a file holds sorted keys with their log-probs (nats), and its name their checksum; one that does not
fit its name is left out with a warning, and its log-probs are computed again. Where several files hold a key,
the first one's value stays.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from utils import atomic_path, locked, log

ENTRY = np.dtype([("key", np.uint64, 2), ("logp", np.float64)])
MOST_FILES = 64  # more of them are joined when they are opened
SUFFIX = ".npy"


class ReferenceCache:
    """The log-probs of one model, in a folder of its own."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.files: dict[str, np.ndarray] = {}  # by name, in the order of their numbers
        self._read()
        if len(self.files) > MOST_FILES:
            self._join()

    def look_up(self, keys: np.ndarray) -> np.ndarray:
        """The log-probs (A,) of some keys (A, 2); NaN where one is not there."""
        logps = np.full(len(keys), np.nan)
        for entries in self.files.values():
            unknown = np.flatnonzero(np.isnan(logps))
            logps[unknown] = _find(entries, keys[unknown])
        return logps

    def add(self, keys: np.ndarray, logps: np.ndarray) -> np.ndarray:
        """Add log-probs (A,) of different keys (A, 2); give those that the cache then holds of them. NaN is
        given back, and not added.

        Where the disk refuses, with a warning, nothing is added.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with locked(self.folder, wait=True):
                self._read()  # another run may have added some
                known = self.look_up(keys)
                is_new = np.isnan(known)
                is_kept = is_new & ~np.isnan(logps)
                if is_kept.any():
                    self._write(_sorted(keys[is_kept], logps[is_kept]))
            return np.where(is_new, logps, known)
        except OSError as error:
            log.warning("reference cache %s cannot be written (%s): going on without it", self.folder, error)
            return logps

    def _read(self) -> None:
        """Open the files that are there and not open yet."""
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            if path.name not in self.files:
                entries = read_file(path)
                if entries is not None:
                    self.files[path.name] = entries

    def _write(self, entries: np.ndarray) -> None:
        numbers = [int(path.name.split("-")[0]) for path in self.folder.glob(f"*{SUFFIX}")]
        number = max(numbers, default=0) + 1
        path = self.folder / f"{number:06d}-{_digest(entries)}{SUFFIX}"
        write_file(path, entries)
        self.files[path.name] = np.load(path, mmap_mode="r")

    def _join(self) -> None:
        """Put all files into one; the first value of a key stays."""
        try:
            with locked(self.folder, wait=True):
                self._read()
                before = list(self.files)
                everything = np.concatenate(list(self.files.values()))
                entries = _sorted(everything["key"], everything["logp"])
                is_first = np.ones(len(entries), bool)
                is_first[1:] = (entries["key"][1:] != entries["key"][:-1]).any(1)
                self._write(entries[is_first])
                for name in before:
                    if name not in list(self.files)[-1:]:
                        (self.folder / name).unlink(missing_ok=True)
                        del self.files[name]
        except OSError as error:
            log.warning(
                "reference cache %s cannot be joined (%s): going on with its parts", self.folder, error
            )


def read_file(path: Path) -> np.ndarray | None:
    """A file's entries, by memory map; None where another run has joined it to others meanwhile, and, with a
    warning, where it is damaged.
    """
    try:
        entries = np.load(path, mmap_mode="r")
        if entries.dtype == ENTRY and path.stem.endswith(f"-{_digest(entries)}"):
            return entries
        problem = "does not fit its checksum"
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError) as error:
        problem = (str(error).splitlines() or [type(error).__name__])[0]
    log.warning("reference cache %s is damaged (%s): computing it again", path, problem)
    path.unlink(missing_ok=True)
    return None


def write_file(path: Path, entries: np.ndarray) -> None:
    """Write entries whole or not at all."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, entries)


def _sorted(keys: np.ndarray, logps: np.ndarray) -> np.ndarray:
    """Entries in the order of their keys; those of one key in the order in which they came."""
    entries = np.empty(len(keys), ENTRY)
    order = np.lexsort((keys[:, 1], keys[:, 0]))
    entries["key"], entries["logp"] = keys[order], logps[order]
    return entries


def _find(entries: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """The log-probs of keys among sorted entries; NaN where one is not there."""
    logps = np.full(len(keys), np.nan)
    firsts = entries["key"][:, 0]
    at = np.searchsorted(firsts, keys[:, 0])
    waiting = np.arange(len(keys))
    while len(waiting):  # keys that share their first half stand side by side, and are next to none
        waiting = waiting[at[waiting] < len(entries)]
        waiting = waiting[firsts[at[waiting]] == keys[waiting, 0]]
        is_found = entries["key"][at[waiting], 1] == keys[waiting, 1]
        found = waiting[is_found]
        logps[found] = entries["logp"][at[found]]
        waiting = waiting[~is_found]
        at[waiting] += 1
    return logps


def _digest(entries: np.ndarray) -> str:
    return hashlib.blake2b(np.ascontiguousarray(entries).tobytes(), digest_size=16).hexdigest()
