"""Token trees, and how they are merged and laid out in rows.

Contract: examples that share text share its tokens. A tree is prompt -> (belief ->) answers; trees of one
prompt merge into a grove; groves are laid out in rows in depth-first preorder, so a token knows all it needs
from the row index where its own subtree ends. Everything here is a pure function of token ids, and at the end
of rewards: which of an example's are equal, and which lie above their mean.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

Ids = tuple[int, ...]


class Segment(NamedTuple):
    """A run of `length` tokens of one row, which attend to those before them in the run and to the `past`.

    The past is the first n tokens of earlier segments of the row, as (segment, n). A tree is one segment for
    the prompt with its first branch, and one for every other branch, so attention over segments computes what
    the predicate allows and nothing else.
    """

    length: int
    past: tuple[tuple[int, int], ...]


class TokenTree(NamedTuple):
    """One example as token ids. Column 0 of `answers` is the preferred response; an empty one stands where
    there is none.

    `belief` holds the tokens that all answers stand under (scored as a span of their own), or is empty.
    `class_ids` and `class_probs` are the C belief classes' token ids and the group's p*; `is_majority` says
    whether the accepted belief is the most common one of p* (None: no beliefs). `reference` is filled by
    `reference.reference_logps`: nats per answer. `group` numbers the prompt that the example belongs to;
    `truncated` says which answers lost their end. An example of weight 2 counts as two in a step's mean.
    An example that is a whole group is several trees, one behind the other: `row` counts them from 0, and
    their weights sum to that of the example.
    """

    prompt: Ids
    belief: Ids
    answers: tuple[Ids, ...]
    rewards: tuple[float, ...] = ()
    class_ids: Ids = ()
    class_probs: tuple[float, ...] = ()
    is_majority: bool | None = None
    reference: tuple[float, ...] = ()
    group: int = 0
    truncated: tuple[bool, ...] = ()
    weight: float = 1.0
    row: int = 0

    @property
    def path_tokens(self) -> int:
        """Tokens of the longest path from the prompt's first to a response's last token."""
        return len(self.prompt) + len(self.belief) + max(map(len, self.answers))

    @property
    def largest_id(self) -> int:
        """The largest token id anywhere in the example."""
        return max(map(max, filter(None, (self.prompt, self.belief, self.class_ids, *self.answers))))


# --- numbers of many trees ----------------------------------------------------------------------------------


def column(trees: Sequence[TokenTree], name: str) -> np.ndarray:
    """One number of every tree, by its name in COLUMNS; trees on the disk have these at hand."""
    of_store = getattr(trees, "column", None)
    if of_store is not None:
        return of_store(name)
    kind, number_of = COLUMNS[name]
    return np.fromiter((number_of(tree) for tree in trees), kind, len(trees))


def example_starts(trees: Sequence[TokenTree]) -> np.ndarray:
    """(E + 1,) where each example's trees begin, and where the last one's end."""
    return np.append(np.flatnonzero(column(trees, "row") == 0), len(trees))


def path_keys(tree: TokenTree) -> list[bytes | None]:
    """The key of every answer's path; None where an example has no such answer."""
    return [path_key(tree.prompt, tree.belief, answer) if answer else None for answer in tree.answers]


def path_key(prompt: Ids, belief: Ids, answer: Ids) -> bytes:
    """16 bytes that name one scored path; parts are length-prefixed, so no two splits of the same ids
    collide.
    """
    numbers = np.asarray([len(prompt), len(belief), *prompt, *belief, *answer], np.int64)
    return hashlib.blake2b(numbers.tobytes(), digest_size=16).digest()


# --- growing: equal text of one prompt becomes one node -----------------------------------------------------

NOWHERE = -1  # the parent of a root; the node of a part that an example does not have


class Grove:
    """Merged trees of one prompt: nodes of token ids, each reachable from its parent once, in insertion
    order.
    """

    def __init__(self, number: int) -> None:
        self.number = number  # unique in its pack
        self.ids: list[Ids] = []
        self.children: list[list[int]] = []
        self.scored: list[bool] = []
        self.roots: list[int] = []
        self._known: dict[tuple, int] = {}

    def add(self, parent: int, ids: Ids, scored: bool, kind: object) -> int:
        """The node `ids` under `parent`; nodes of equal ids and `kind` under one parent are one node."""
        key = (parent, kind, ids)
        if key not in self._known:
            node = len(self.ids)
            self._known[key] = node
            siblings = self.roots if parent == NOWHERE else self.children[parent]
            siblings.append(node)
            self.ids.append(ids)
            self.children.append([])
            self.scored.append(scored)
        return self._known[key]

    def rows(self, node: int) -> int:
        """Rows that a node takes. Nothing is predicted from a scored leaf's last token: it has no row."""
        is_scored_leaf = self.scored[node] and not self.children[node]
        return len(self.ids[node]) - is_scored_leaf

    @property
    def size(self) -> int:
        return sum(map(self.rows, range(len(self.ids))))


class Placed(NamedTuple):
    """Where one example's parts stand: a grove's number and its nodes."""

    grove: int
    prompt: int
    belief: int  # NOWHERE: none
    answers: list[int]  # NOWHERE: none


def plant(trees: Sequence[TokenTree], share: bool, first: int = 0) -> tuple[list[Grove], list[Placed]]:
    """Merge trees into groves by prompt (or keep every path apart), and say where each example ended up.

    Groves are numbered from `first` on.
    """
    groves: dict[object, Grove] = {}
    placed = []
    for number, tree in enumerate(trees):
        key = tree.prompt if share else number
        if key not in groves:
            groves[key] = Grove(first + len(groves))
        placed.append(_add_tree(groves[key], tree, share))
    return list(groves.values()), placed


def _add_tree(grove: Grove, tree: TokenTree, share: bool) -> Placed:
    """Add a tree's paths to a grove. Without sharing every answer has a prompt and a belief of its own, and
    only the first of these beliefs is scored.
    """
    first_path: tuple[int, int] | None = None
    answers = []
    for k, answer in enumerate(tree.answers):
        if not answer:
            answers.append(NOWHERE)
            continue
        prompt = grove.add(NOWHERE, tree.prompt, False, ("prompt", 0 if share else k))
        belief = NOWHERE
        if tree.belief:
            belief = grove.add(prompt, tree.belief, share or first_path is None, "belief")
        under = belief if tree.belief else prompt
        answers.append(grove.add(under, answer, True, "answer"))
        first_path = first_path or (prompt, belief)
    return Placed(grove.number, *first_path, answers)


def tree_tokens(trees: Sequence[TokenTree], share: bool = True) -> int:
    """Rows that these trees take together."""
    groves, _ = plant(trees, share)
    return sum(grove.size for grove in groves)


# name: its kind, and the number of one tree
COLUMNS: dict[str, tuple[type, Callable[[TokenTree], float]]] = {
    "group": (np.int32, lambda tree: tree.group),
    "weight": (np.float64, lambda tree: tree.weight),
    "row": (np.int32, lambda tree: tree.row),
    "path_tokens": (np.int32, lambda tree: tree.path_tokens),
    "largest_id": (np.int32, lambda tree: tree.largest_id),
    "tokens_shared": (np.int32, lambda tree: tree_tokens([tree])),
    "tokens_apart": (np.int32, lambda tree: tree_tokens([tree], share=False)),
}


# --- laying out: groves become rows of tokens ---------------------------------------------------------------


class Row(NamedTuple):
    """One row while it grows: an entry a token, and its segments."""

    ids: list[int]
    depths: list[int]
    ends: list[int]
    segments: list[Segment]


class Reads(NamedTuple):
    """Log-probs to read: of `token`, predicted from the token at (row, at), for the span `owner`."""

    row: list[int]
    at: list[int]
    token: list[int]
    owner: list[int]

    def add(self, row: int, at: Sequence[int], tokens: Sequence[int], owner: int) -> None:
        """Read every one of `tokens`, each from its entry of `at`."""
        self.row.extend([row] * len(tokens))
        self.at.extend(at)
        self.token.extend(tokens)
        self.owner.extend([owner] * len(tokens))


class Layout:
    """Rows and reads of groves that are laid out one after another. Nodes are named (grove, node)."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.reads = Reads([], [], [], [])
        self.span_of: dict[tuple[int, int], int] = {}
        self.last_token: dict[tuple[int, int], tuple[int, int]] = {}  # (row, index) of a node's last one

    @property
    def num_spans(self) -> int:
        return len(self.span_of)

    def start_row(self) -> None:
        self.rows.append(Row([], [], [], []))

    def lay(self, grove: Grove) -> None:
        """Append a grove to the newest row, depth first."""
        for root in grove.roots:
            self._lay_node(grove, root, source=None, depth=0, past=())

    def _lay_node(self, grove: Grove, node: int, source: int | None, depth: int, past: tuple | None) -> None:
        """Append a node with all below it.

        source: index of the token that predicts its first one. past: what a segment of its own would attend
        to; None: it goes on with the newest segment, being its parent's first child.
        """
        row, number = self.rows[-1], len(self.rows) - 1
        tokens, count, start = grove.ids[node], grove.rows(node), len(row.ids)
        row.ids.extend(tokens[:count])
        row.depths.extend(range(depth, depth + count))
        row.ends.extend([0] * count)  # known when all below it is laid out
        if grove.scored[node]:
            predictors = [source, *range(start, start + len(tokens) - 1)]
            self._read_span(grove, node, predictors)
        self._extend_segments(row.segments, count, past)
        last = start + count - 1 if count else source
        self.last_token[grove.number, node] = (number, last)
        if grove.children[node]:
            here = len(row.segments) - 1
            of_others = (*row.segments[here].past, (here, row.segments[here].length))
            for nth, child in enumerate(grove.children[node]):
                self._lay_node(grove, child, last, depth + count, of_others if nth else None)
        row.ends[start : start + count] = [len(row.ids)] * count

    def _read_span(self, grove: Grove, node: int, predictors: Sequence[int]) -> None:
        """Read every token of a scored node, as a span of its own."""
        span = self.num_spans
        self.span_of[grove.number, node] = span
        self.reads.add(len(self.rows) - 1, predictors, grove.ids[node], span)

    @staticmethod
    def _extend_segments(segments: list[Segment], count: int, past: tuple | None) -> None:
        """Give `count` tokens a segment of their own, or the newest one."""
        if not count:
            return
        if past is not None:
            segments.append(Segment(count, past))
        else:
            segments[-1] = segments[-1]._replace(length=segments[-1].length + count)


# --- rewards: which of them count as equal, and which lie above the mean ------------------------------------

# of a prompt's largest reward, or of 1 where all are smaller: single precision tells nothing closer apart
REWARD_TOLERANCE = 2.0**-23


def reward_levels(rewards: Sequence[float]) -> tuple[float, ...]:
    """A prompt's rewards, where those that count as equal have one value: the largest of them.

    Rewards count as equal where no two neighbours of their order are further apart than REWARD_TOLERANCE.
    """
    tolerance = _tolerance(rewards)
    levels = list(rewards)
    above = None
    for i in sorted(range(len(levels)), key=lambda i: -rewards[i]):
        if above is not None and rewards[above] - rewards[i] <= tolerance:
            levels[i] = levels[above]
        above = i
    return tuple(levels)


def deviations(rewards: Sequence[float]) -> tuple[float, ...]:
    """How far each of a prompt's rewards lies from their mean: exactly 0 where it lies at the mean.

    In float64, and the one place that decides who is above the mean: Y+ = {> 0}. A reward counts as at the
    mean where it is no further from it than REWARD_TOLERANCE; all are 0 where there is no preference.
    """
    if not rewards:
        return ()
    tolerance = _tolerance(rewards)
    levels = reward_levels(rewards)
    mean = math.fsum(levels) / len(levels)
    return tuple(0.0 if abs(level - mean) <= tolerance else level - mean for level in levels)


def _tolerance(rewards: Sequence[float]) -> float:
    """In the unit of the rewards."""
    return REWARD_TOLERANCE * max([1.0, *map(abs, rewards)])
