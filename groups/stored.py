"""Token trees on the disk: Arrow files that are written once, a part at a time, and read by memory map.

Contract: what is read equals what was written. Memory holds a few numbers an example at most; token ids stay
in the file, which all processes of a machine share. `pyarrow.ipc.open_stream` opens the same files, and
`datasets.Dataset.from_file` where that package knows binary values of a fixed size.
"""

from __future__ import annotations

import bisect
import hashlib
import json
import mmap
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from groups.spilled import place_of
from trees import COLUMNS, TokenTree, column, path_keys

PART_BYTES = 32 * 2**20  # that are written at once
# of a part: smaller ones take a reader more arrays, larger ones spread a tree over more pages
PART_TREES = 1000
READS_HELD = 256  # trees whose pages a process holds
NO_KEY = bytes(16)  # of an answer that is not there
MAJORITY = {None: -1, False: 0, True: 1}
MAJORITY_OF = {number: value for value, number in MAJORITY.items()}


# columns that follow from no others; `row` follows from the view, which a run cannot change
SEEN_BY_LOSS = (
    "prompt",
    "belief",
    "answers",
    "rewards",
    "class_ids",
    "class_probs",
    "is_majority",
    "truncated",
    "group",
    "weight",
)


class Written(NamedTuple):
    """What a file holds."""

    examples: int
    digest: str  # of all that the loss will see


# --- write --------------------------------------------------------------------------------------------------


class TreeWriter:
    """Writes a file of trees: `append` some, as often as needed, then `close`."""

    def __init__(self, path: Path):
        import pyarrow as pa

        self.file = path.open("wb")
        self.writer = pa.ipc.new_stream(self.file, _schema())
        self.digest = _Digest()
        self.examples = 0
        self._waiting: list[Any] = []  # tables that are not written yet

    def append(self, trees: Sequence[TokenTree]) -> None:
        """Write some trees behind the others."""
        if not trees:
            return
        table = _table(trees)
        self.digest.add(table)
        self.examples += len(trees)
        self._waiting.append(table)
        if sum(waiting.nbytes for waiting in self._waiting) >= PART_BYTES:
            self._write()

    def _write(self) -> None:
        """Write what waits, in parts of PART_TREES."""
        import pyarrow as pa

        if self._waiting:
            part = pa.concat_tables(self._waiting).combine_chunks()
            self.writer.write_table(part, PART_TREES)
            self._waiting = []

    def close(self) -> Written:
        """Finish the file."""
        self._write()
        self.writer.close()
        self.file.close()
        return Written(self.examples, self.digest.hexdigest())


def _schema() -> Any:
    import pyarrow as pa

    ids, numbers = pa.list_(pa.int32()), pa.list_(pa.float64())
    fields = {
        "prompt": ids,
        "belief": ids,
        "answers": pa.list_(ids),
        "rewards": numbers,
        "class_ids": ids,
        "class_probs": numbers,
        "is_majority": pa.int8(),
        "truncated": pa.list_(pa.int8()),
        "keys": pa.list_(pa.binary(16)),
    }
    numbers_of = {name: pa.from_numpy_dtype(kind) for name, (kind, _) in COLUMNS.items()}
    return pa.schema({**fields, **numbers_of})


def _table(trees: Sequence[TokenTree]) -> Any:
    """A part of the file."""
    import pyarrow as pa

    values: dict[str, Any] = {
        "prompt": [tree.prompt for tree in trees],
        "belief": [tree.belief for tree in trees],
        "answers": [tree.answers for tree in trees],
        "rewards": [tree.rewards for tree in trees],
        "class_ids": [tree.class_ids for tree in trees],
        "class_probs": [tree.class_probs for tree in trees],
        "is_majority": [MAJORITY[tree.is_majority] for tree in trees],
        "truncated": [[int(cut) for cut in tree.truncated] for tree in trees],
        "keys": [[key or NO_KEY for key in path_keys(tree)] for tree in trees],
    }
    values |= {name: column(trees, name) for name in COLUMNS}
    return pa.table(values, schema=_schema())


class _Digest:
    """A hash of trees, the same however many of them are added at once."""

    def __init__(self) -> None:
        # of every column: its values, and the sizes of its lists
        self.hashes: dict[tuple[str, int], Any] = defaultdict(lambda: hashlib.blake2b(digest_size=16))

    def add(self, table: Any) -> None:
        """Add a part of the file, but for what its other columns say already."""
        for name in table.column_names:
            if name in SEEN_BY_LOSS:
                for chunk in table.column(name).chunks:
                    for depth, content in enumerate(_contents(chunk)):
                        self.hashes[name, depth].update(content)

    def hexdigest(self) -> str:
        parts = {f"{name}, {depth}": part.hexdigest() for (name, depth), part in self.hashes.items()}
        return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()


def _contents(chunk: Any) -> Iterator[bytes]:
    """The sizes of a column's lists, of the lists in them, and its values."""
    while hasattr(chunk, "offsets"):
        yield np.diff(chunk.offsets.to_numpy()).tobytes()
        chunk = chunk.values
    yield chunk.to_numpy(zero_copy_only=False).tobytes()


# --- read ---------------------------------------------------------------------------------------------------


class StoredTrees(Sequence[TokenTree]):
    """The trees of a file, by number; a tree is made when it is asked for.

    The process lets go of the file's pages again and again, so that a pass over all trees does not make them
    its own; the system keeps them in its cache while it has room.
    """

    def __init__(self, path: Path):
        import pyarrow as pa

        self.path = path
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        batches = pa.ipc.open_stream(pa.BufferReader(pa.py_buffer(self._map)))
        self._parts = [_Part(batch) for batch in batches if batch.num_rows]
        self._firsts = [0, *np.cumsum([part.size for part in self._parts]).tolist()]
        self._columns: dict[str, np.ndarray] = {}
        self._reads = 0
        self._let_go()

    def _let_go(self) -> None:
        """Let the system have the pages that were read."""
        self._reads = 0
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)

    def __len__(self) -> int:
        return self._firsts[-1]

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [self[i] for i in range(*number.indices(len(self)))]
        number = place_of(number, len(self))
        self._reads += 1
        if self._reads >= READS_HELD:
            self._let_go()
        at = bisect.bisect_right(self._firsts, number) - 1
        return self._parts[at].tree(number - self._firsts[at])

    def __iter__(self) -> Iterator[TokenTree]:
        for part in self._parts:
            for i in range(part.size):
                yield part.tree(i)

    def column(self, name: str) -> np.ndarray:
        """One number of every tree, see `trees.column`."""
        if name not in self._columns:
            parts = [part.numbers[name] for part in self._parts]
            kind, _ = COLUMNS[name]
            self._columns[name] = np.concatenate(parts) if parts else np.empty(0, kind)
            self._let_go()
        return self._columns[name]

    def answer_keys(self) -> Iterator[np.ndarray]:
        """(A, 2) numbers, part by part: the key of every answer of all trees, in order; 0, 0 for none."""
        for part in self._parts:
            yield part.keys
            self._let_go()

    def answer_starts(self) -> np.ndarray:
        """(N + 1,) where each tree's answers begin among those of all trees."""
        counts = [np.diff(part.answers.starts) for part in self._parts]
        return np.concatenate([[0], np.cumsum(np.concatenate(counts))]) if counts else np.zeros(1, np.int64)


class _Lists(NamedTuple):
    """A column of lists."""

    starts: np.ndarray  # of each list among the values, and the last one's end
    values: np.ndarray

    def __getitem__(self, i: int) -> tuple:
        return tuple(self.values[self.starts[i] : self.starts[i + 1]].tolist())


class _Part:
    """A record batch as numpy sees it, in the file's own memory."""

    def __init__(self, batch: Any):
        self.size = batch.num_rows
        columns = dict(zip(batch.schema.names, batch.columns))
        self.prompt, self.belief = _lists(columns["prompt"]), _lists(columns["belief"])
        answers = columns["answers"]
        self.answers = _Lists(answers.offsets.to_numpy(), np.empty(0))
        self.answer_ids = _lists(answers.values)
        self.rewards = _lists(columns["rewards"])
        self.class_ids, self.class_probs = _lists(columns["class_ids"]), _lists(columns["class_probs"])
        self.is_majority = columns["is_majority"].to_numpy()
        self.truncated = _lists(columns["truncated"])
        self.keys = _keys(columns["keys"])
        self.numbers = {name: columns[name].to_numpy() for name in COLUMNS}

    def tree(self, i: int) -> TokenTree:
        answers = range(self.answers.starts[i], self.answers.starts[i + 1])
        return TokenTree(
            prompt=self.prompt[i],
            belief=self.belief[i],
            answers=tuple(self.answer_ids[k] for k in answers),
            rewards=self.rewards[i],
            class_ids=self.class_ids[i],
            class_probs=self.class_probs[i],
            is_majority=MAJORITY_OF[int(self.is_majority[i])],
            group=int(self.numbers["group"][i]),
            truncated=tuple(map(bool, self.truncated[i])),
            weight=float(self.numbers["weight"][i]),
            row=int(self.numbers["row"][i]),
        )


def _lists(column_of_lists: Any) -> _Lists:
    return _Lists(column_of_lists.offsets.to_numpy(), column_of_lists.values.to_numpy())


def _keys(column_of_lists: Any) -> np.ndarray:
    """(A, 2) numbers: 16 bytes each."""
    values = column_of_lists.values
    _, content = values.buffers()
    start, count = values.offset, len(values)
    return np.frombuffer(content, np.uint64).reshape(-1, 2)[start : start + count]
