"""Which examples a step has, and how they fill packs: pure functions of token ids, a seed and a step.

Contract: the batch of step i depends on (seed, i) alone; a rank decides only who computes which pack.
`batches` is the one way from example numbers to forests on a device: plan, this rank's share, pack, move.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

import forest
from forest import ForestBatch, Pack, TokenTree, Trees
from ranks import World
from settings import TrainSettings
from utils import UserError

GPU_TOKENS, CPU_TOKENS = 8192, 1024  # of one forward pass, where the config does not say
DENSE_ROW_TOKENS = 256  # of a row under a dense mask, which costs the square of its length
BLOCK = 128  # tokens of a block of flex_attention's masks
MOST_ROWS = 64  # of a pack that are tried as a way to spread its trees evenly
WIDTH_SLACK = 16  # tokens that a row of evenly spread trees may be longer
LIMIT_SLACK = (1.0, 1.1, 1.25, 1.5)  # of a rank's equal part, as sizes of packs worth trying
DENSE_WIDTH = 4096  # tokens of a row at which dense attention costs as much as everything else


class Data(NamedTuple):
    """Trees of one split, in memory or on the disk; where the loss asks for it, every tree's prompt with an
    answer to another one.
    """

    trees: Sequence[TokenTree]
    mismatched: Sequence[TokenTree] | None = None


class Packing(NamedTuple):
    """How examples become packs: forward passes of at most `max_tokens` rows of tokens."""

    max_tokens: int
    row_tokens: int  # trees fill rows up to this length, or that of the longest tree; 0: a tree a row
    share: bool = True  # examples of one prompt share its tokens
    multiple: int = 1  # rows are padded to a multiple of this: few widths, few compilations
    pad_id: int = 0


def packing_of(
    settings: TrainSettings, views: Mapping[str, Data], attention: str, device_type: str, pad_id: int
) -> Packing:
    """How a run packs. Small passes keep a CPU's caches and memory; a GPU wants large ones.

    Raises UserError where max_tokens is given and one example alone is larger.
    """
    share = settings.share_prefixes
    size = "tokens_shared" if share else "tokens_apart"
    largest = int(max(forest.column(trees, size).max() for trees in all_trees(views)))
    max_tokens = settings.max_tokens
    if max_tokens is None:
        max_tokens = max(largest, GPU_TOKENS if device_type == "cuda" else CPU_TOKENS)
    if largest > max_tokens:
        raise UserError(
            f"config key max_tokens={max_tokens}: the largest example has {largest} tokens; "
            "raise max_tokens or lower max_length"
        )
    row_tokens = settings.row_tokens or (DENSE_ROW_TOKENS if attention == "sdpa" else max_tokens)
    blocks = max(1, row_tokens // 1024)
    multiple = BLOCK * blocks if attention == "flex_attention" else 1
    return Packing(max_tokens, row_tokens, share, multiple, pad_id)


def all_trees(views: Mapping[str, Data]) -> list[Sequence[TokenTree]]:
    """The trees of every split, and then the mismatched ones."""
    mismatched = [view.mismatched for view in views.values() if view.mismatched is not None]
    return [view.trees for view in views.values()] + mismatched


def weight_of(trees: Sequence[TokenTree], examples: Sequence[int]) -> float:
    """How many examples these count as."""
    return float(forest.column(trees, "weight")[np.asarray(examples)].sum())


class Order:
    """The order in which examples are seen; every epoch sees each once, and its last step may be smaller.

    `prompt_of[i]` numbers the prompt of example i, whose trees are starts[i] ... starts[i + 1] (None: tree
    i). `shuffle="prompts"` permutes prompts and keeps the examples of one prompt together, so that they share
    its tree; "examples" permutes examples. A function of (seed, step): it remembers an epoch's permutation.
    """

    def __init__(
        self,
        prompt_of: Sequence[int] | np.ndarray,
        batch_size: int,
        seed: int,
        shuffle: str = "examples",
        starts: np.ndarray | None = None,
    ):
        self.prompt_of, self.starts = np.asarray(prompt_of), starts
        self.batch_size, self.seed, self.shuffle = batch_size, seed, shuffle
        self._last: tuple[int, np.ndarray] | None = None

    def examples(self, step: int) -> list[int]:
        """The examples of optimizer step `step` (from 0), by the numbers of their trees."""
        epoch, within = divmod(step, self.steps_per_epoch)
        order = self._of_epoch(epoch)
        return self._trees(order[within * self.batch_size : (within + 1) * self.batch_size]).tolist()

    def _trees(self, examples: np.ndarray) -> np.ndarray:
        if self.starts is None:
            return examples
        return np.concatenate([np.arange(self.starts[i], self.starts[i + 1]) for i in examples])

    def _of_epoch(self, epoch: int) -> np.ndarray:
        last = self._last
        if last is None or last[0] != epoch:
            last = self._last = (epoch, self._permutation(epoch))
        return last[1]

    def _permutation(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng([self.seed, epoch])
        order = rng.permutation(len(self.prompt_of))
        if self.shuffle != "prompts":
            return order
        place = rng.permutation(self.prompt_of.max() + 1)
        return order[np.argsort(place[self.prompt_of[order]], kind="stable")]

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.prompt_of) / self.batch_size)

    def num_steps(self, num_examples: int) -> int:
        """Optimizer steps until `num_examples` are seen."""
        epochs, rest = divmod(num_examples, len(self.prompt_of))
        return epochs * self.steps_per_epoch + math.ceil(rest / self.batch_size)

    def seen(self, num_examples: int) -> np.ndarray | None:
        """The trees that a run of `num_examples` sees; None: all. A short run on large data needs no
        reference of the rest.
        """
        steps = math.ceil(num_examples / self.batch_size)
        if steps * self.batch_size >= len(self.prompt_of):
            return None
        return self._trees(self._of_epoch(0)[: steps * self.batch_size])


def order_of(trees: Sequence[TokenTree], batch_size: int, seed: int, shuffle: str) -> Order:
    """The order of these trees' examples."""
    starts = forest.example_starts(trees)
    prompt_of = forest.column(trees, "group")[starts[:-1]]
    return Order(prompt_of, batch_size, seed, shuffle, starts if len(starts) <= len(trees) else None)


def num_examples(trees: Sequence[TokenTree]) -> int:
    """How many examples these trees are; a whole group is one."""
    return len(forest.example_starts(trees)) - 1


def batches(
    trees: Sequence[TokenTree], examples: Sequence[int], packing: Packing, world: World
) -> Iterator[ForestBatch]:
    """This rank's packs of the given examples, laid out and on its device. Every rank gets as many as the
    others.
    """
    for batch in packed(trees, examples, packing, world):
        yield batch.to(world.device)


def packed(
    trees: Sequence[TokenTree], examples: Sequence[int], packing: Packing, world: World
) -> Iterator[ForestBatch]:
    """As `batches`, in the CPU's memory."""
    needed = {i: trees[i] for i in examples}  # each is made once, where trees stand on the disk
    for rows in share_of(plan_step(needed, examples, packing, world.size), world):
        yield batch_of(needed, rows, packing)


# --- steps ahead --------------------------------------------------------------------------------------------


class Step(NamedTuple):
    """What a rank computes in one optimizer step, in the CPU's memory."""

    number: int  # from 0; -1: of no step
    examples: Sequence[int]  # of all ranks, by the numbers of their trees
    weight: float  # how many examples they count as
    packs: list[ForestBatch]
    mismatched: list[ForestBatch] | None  # packs of the mismatched pairs, where the loss asks for them
    num_examples: int = 0  # of all ranks; a whole group is one


def step_of(data: Data, order: Order, packing: Packing, world: World, number: int) -> Step:
    """Step `number` (from 0)."""
    return packs_of(data, order.examples(number), packing, world)._replace(number=number)


def packs_of(data: Data, examples: Sequence[int], packing: Packing, world: World) -> Step:
    """What is computed of some examples."""
    mismatched = None
    if data.mismatched is not None:
        mismatched = list(packed(data.mismatched, examples, packing, world))
    packs = list(packed(data.trees, examples, packing, world))
    count = int((forest.column(data.trees, "row")[np.asarray(examples)] == 0).sum())
    return Step(-1, examples, weight_of(data.trees, examples), packs, mismatched, count)


class Ahead:
    """Steps in their order, each prepared in a thread while the one before is at work.

    A step is a function of its number alone, so who prepares it when changes nothing.
    """

    def __init__(self, make: Callable[[int], Step], steps: range):
        self.make, self.steps = make, steps
        self._seconds, self._taken = 0.0, 0
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="packing")
        self._next = self._begin(steps.start)

    def _begin(self, step: int) -> Future | None:
        return self._pool.submit(self.make, step) if step in self.steps else None

    def take(self, step: int) -> Step:
        """Step `step`, which follows the one that was taken before."""
        start = time.perf_counter()
        ready = self._next.result()
        self._seconds += time.perf_counter() - start
        self._taken += 1
        self._next = self._begin(step + 1)
        return ready

    def read(self) -> float:
        """Mean seconds that a step was waited for, since this was asked before."""
        mean = self._seconds / max(self._taken, 1)
        self._seconds, self._taken = 0.0, 0
        return mean

    def close(self) -> None:
        """Let go of what was prepared and is not needed."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def ahead(data: Data, order: Order, packing: Packing, world: World, steps: range) -> Ahead:
    """These steps of a run."""
    return Ahead(lambda number: step_of(data, order, packing, world, number), steps)


# --- packs of some examples ---------------------------------------------------------------------------------


def share_of(packs: Sequence[Pack], world: World) -> Sequence[Pack]:
    """The packs that this rank computes: ranks take them in turn."""
    return packs[world.rank :: world.size]


def batch_of(trees: Trees, rows: Pack, packing: Packing) -> ForestBatch:
    """One pack as a forest, in the CPU's memory."""
    return forest.pack(trees, rows, packing.pad_id, packing.share, packing.multiple)


# --- planning -----------------------------------------------------------------------------------------------

# (tokens used, examples); a bundle of examples that must share a row looks the same
Row = tuple[int, list[int]]


def plan_step(trees: Trees, examples: Sequence[int], packing: Packing, world_size: int) -> list[Pack]:
    """Split a step's examples into packs, a multiple of `world_size` in all.

    Examples of one prompt stay together; trees fill rows best-fit, longest first, and rows fill packs, so
    padding is small. Rank r computes packs r, r + world_size, ...; surplus packs are empty. Pure.

    Raises ValueError where one example alone is larger than `max_tokens`.
    """
    bundles = sorted(_bundles(trees, examples, packing), key=lambda bundle: (-bundle[0], bundle[1]))
    sizes = [size for size, _ in bundles]
    best: list[list[Row]] = []
    least = None
    for limit in _limits(sizes, packing.max_tokens, world_size):
        row_tokens = packing.row_tokens if packing.row_tokens < packing.max_tokens else limit
        for width in _widths(sizes, row_tokens, limit):
            tried = _fill(bundles, width, limit)
            cost = (_turns_cost(tried, world_size), len(tried))
            if least is None or cost < least:
                best, least = tried, cost
    packs = [[members for _, members in rows] for rows in best]
    packs = _at_least(packs, world_size)
    surplus = -len(packs) % world_size
    return packs + [[] for _ in range(surplus)]


def _bundles(trees: Trees, examples: Sequence[int], packing: Packing) -> list[Row]:
    """Examples that must share a row, and their tokens: those of one prompt, while they fit a pack."""
    by_prompt: dict[object, list[int]] = {}
    for i in examples:
        by_prompt.setdefault(trees[i].prompt if packing.share else i, []).append(i)
    bundles = []
    for members in by_prompt.values():
        while members:
            size, count = _fitting(trees, members, packing)
            bundles.append((size, members[:count]))
            members = members[count:]
    return bundles


def _fitting(trees: Trees, members: Sequence[int], packing: Packing) -> tuple[int, int]:
    """(tokens, number) of the first members that fit a pack together: all, or half of them, ..."""
    count = len(members)
    while True:
        size = forest.tree_tokens([trees[i] for i in members[:count]], packing.share)
        if size <= packing.max_tokens:
            return size, count
        if count == 1:
            raise ValueError(
                f"an example of {size} tokens exceeds max_tokens={packing.max_tokens}: "
                "raise max_tokens or lower max_length"
            )
        count = (count + 1) // 2


def _limits(sizes: Sequence[int], max_tokens: int, world_size: int) -> list[int]:
    """Pack sizes worth trying: the largest, and where several ranks share a step those that give each an
    equal part, or a little more.
    """
    if world_size == 1 or not sizes:
        return [max_tokens]
    turns = math.ceil(sum(sizes) / (world_size * max_tokens))
    fair = sum(sizes) / (world_size * turns)
    limits = {max_tokens}
    for slack in LIMIT_SLACK:
        wanted = max(sizes[0], math.ceil(slack * fair))
        limits.add(min(max_tokens, wanted))
    return sorted(limits)


def _widths(sizes: Sequence[int], row_tokens: int, max_tokens: int) -> list[int]:
    """Row lengths worth trying: those that spread the trees evenly over 1, 2, ... rows, within `row_tokens`.

    0: a tree a row; max_tokens: one row a pack, which needs no padding.
    """
    if not sizes:
        return []
    if not row_tokens:
        return [0]
    if row_tokens >= max_tokens:
        return [max_tokens]
    longest = sizes[0]
    limit = min(max_tokens, max(row_tokens, longest))
    widths = {limit, longest}
    for rows in range(1, min(len(sizes), MOST_ROWS) + 1):
        even = math.ceil(sum(sizes) / rows)
        widths.update(width for width in (even, even + WIDTH_SLACK) if longest <= width <= limit)
    return sorted(widths)


def _fill(bundles: Sequence[Row], width: int, max_tokens: int) -> list[list[Row]]:
    """Packs of rows: bundles best-fit into rows of `width`, longest first, rows into packs."""
    rows: list[Row] = []
    for size, members in bundles:
        fitting = [i for i, (used, _) in enumerate(rows) if used + size <= width]
        if fitting:
            fullest = max(fitting, key=lambda i: rows[i][0])
            used, others = rows[fullest]
            rows[fullest] = (used + size, others + members)
        else:
            rows.append((size, list(members)))
    packs: list[list[Row]] = []
    for row in sorted(rows, key=lambda row: (-row[0], row[1])):  # descending: a pack's first row is its width
        if packs and (len(packs[-1]) + 1) * packs[-1][0][0] <= max_tokens:
            packs[-1].append(row)
        else:
            packs.append([row])
    return packs


def _turns_cost(packs: Sequence[Sequence[Row]], world_size: int) -> float:
    """What the packs cost where ranks take them in turn and wait for the slowest of each turn."""
    turns = range(0, len(packs), world_size)
    return sum(max(map(_padded_cost, packs[i : i + world_size])) for i in turns)


def _padded_cost(rows: Sequence[Row]) -> float:
    """What a pack costs in tokens: padded rows, with dense attention's share growing with the width."""
    width = rows[0][0]
    return len(rows) * width * (1 + width / DENSE_WIDTH)


def _at_least(packs: list[Pack], world_size: int) -> list[Pack]:
    """Split packs of several rows until every rank has work, where there are rows enough."""
    packs = list(packs)
    while 0 < len(packs) < world_size:
        widest = max(packs, key=len)
        if len(widest) == 1:
            break
        half = len(widest) // 2
        packs[packs.index(widest)] = widest[:half]
        packs.append(widest[half:])
    return packs
