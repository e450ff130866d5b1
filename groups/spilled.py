"""Records on the disk while data is prepared: appended in order, read back by number.

Contract: memory holds 8 bytes a record; what is read equals what was appended. The file has no name and goes
with its object, so nothing but this process can ever have written it.
"""

from __future__ import annotations

import bisect
import itertools
import os
import pickle
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from utils import UserError

Record = TypeVar("Record")

BUFFER = 2**20  # bytes


class Spilled(Sequence, Generic[Record]):
    """Records on the disk. Raises UserError where it is full."""

    def __init__(self, records: Iterable[Record] = ()):
        self._file = _on_disk(lambda: tempfile.TemporaryFile(buffering=BUFFER))
        self._starts = array("q", [0])
        self._is_flushed = True
        for record in records:
            self.append(record)

    def append(self, record: Record) -> None:
        content = pickle.dumps(record, pickle.HIGHEST_PROTOCOL)
        _on_disk(lambda: self._file.write(content))
        self._is_flushed = False
        self._starts.append(self._starts[-1] + len(content))

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [self[i] for i in range(*number.indices(len(self)))]
        number = place_of(number, len(self))
        if not self._is_flushed:
            _on_disk(self._file.flush)
            self._is_flushed = True
        start, end = self._starts[number], self._starts[number + 1]
        return pickle.loads(os.pread(self._file.fileno(), end - start, start))


def place_of(number: Any, count: int) -> int:
    """A number among `count`, where negative ones count from the end. Raises IndexError for one outside."""
    if not -count <= number < count:
        raise IndexError(f"number {number} of {count}")
    return int(number) % count


def _on_disk(action: Callable[[], Any]) -> Any:
    """What an action on a temporary file returns. Raises UserError where the disk refuses."""
    try:
        return action()
    except OSError as error:
        folder = (
            tempfile.tempdir or "for this user"
        )  # where there is none, the error names those that it tried
        raise UserError(
            f"temporary folder {folder}: cannot be written ({error.strerror or error}); "
            "make room, or set TMPDIR to a folder with room"
        ) from error


class Chosen(Sequence, Generic[Record]):
    """Some records of a sequence, by their numbers."""

    def __init__(self, records: Sequence[Record], numbers: Sequence[int]):
        self.records, self.numbers = records, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [self.records[i] for i in self.numbers[number]]
        return self.records[self.numbers[number]]


def chunks(records: Sequence[Record], size: int) -> Iterator[list[Record]]:
    """The records, some at a time."""
    for first in range(0, len(records), size):
        yield records[first : first + size]


class Joined(Sequence, Generic[Record]):
    """Several sequences, one behind the other."""

    def __init__(self, parts: Sequence[Sequence[Record]]):
        self.parts = parts
        self._ends = list(itertools.accumulate(map(len, parts)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [self[i] for i in range(*number.indices(len(self)))]
        number = place_of(number, len(self))
        at = bisect.bisect_right(self._ends, number)
        before = self._ends[at - 1] if at else 0
        return self.parts[at][number - before]
