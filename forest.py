"""The forest: packed token trees as tensors, and the one predicate that says who may look at whom.

Contract: `pack` lays out examples so that text which they share stands in a row once, and says by index which
log-probs are to be read; `visible` is the whole truth about attention, for every backend. What a tree is and
how it is laid out stands in `trees.py`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from trees import (
    Ids,
    Layout,
    Placed,
    Row,
    Segment,
    TokenTree,
    column,
    deviations,
    example_starts,
    plant,
    tree_tokens,
)

__all__ = [
    "ForestBatch",
    "Ids",
    "Pack",
    "Segment",
    "TokenTree",
    "Trees",
    "column",
    "dense_mask",
    "deviations",
    "example_starts",
    "pack",
    "tree_tokens",
    "visible",
]

Trees = Sequence[TokenTree] | Mapping[int, TokenTree]  # by the examples' numbers
Pack = list[list[int]]  # rows of one forward pass; each row lists example indices
ROUNDING = 2.0**-14  # of an example's largest deviation: what single precision may be off by


def visible(q, kv, end):
    """May the token at row index `q` look at the one at `kv`, whose subtree ends at row `end`?
    This is causality, the separation of branches and that of packed trees, all at once."""
    return (kv <= q) & (q < end)


def dense_mask(end: torch.Tensor) -> torch.Tensor:
    """The predicate as a boolean mask (B, 1, L, L), True where attention is allowed."""
    row = torch.arange(end.shape[1], device=end.device)
    return visible(row[None, :, None], row[None, None, :], end[:, None, :])[:, None]


class ForestBatch(NamedTuple):
    """A packed forest: B rows of L tokens, M reads of log-probs at R positions, and N examples of at most K
    answers.

    `source` indexes `positions` (the flat places whose hidden states the head reads) and is sorted; `target`
    is the token read there; `owner` is the span that the read belongs to (the last one, S, collects the class
    reads).
    """

    input_ids: torch.Tensor  # (B, L)
    position_ids: torch.Tensor  # (B, L) depth in the tree
    end: torch.Tensor  # (B, L) row index where the token's subtree ends
    positions: torch.Tensor  # (R,) flat indices into B * L
    source: torch.Tensor  # (M,) indices into positions, ascending
    target: torch.Tensor  # (M,) token ids
    owner: torch.Tensor  # (M,) span indices
    span: torch.Tensor  # (N, K) answer spans; S where there is none
    belief_span: torch.Tensor  # (N,) belief spans; S where there is none
    class_read: torch.Tensor  # (N, C) indices into the M reads
    length: torch.Tensor  # (N, K) tokens of each answer
    belief_length: torch.Tensor  # (N,)
    reference: torch.Tensor  # (N, K) nats, NaN where not yet known
    reward: torch.Tensor  # (N, K); deviations where single precision would lose them in large rewards
    deviation: torch.Tensor | None  # (N, K) of each reward from the mean, see `deviations`; None: no rewards
    valid: torch.Tensor  # (N, K) bool
    class_probs: torch.Tensor  # (N, C)
    is_majority: torch.Tensor  # (N,) 1, 0, or -1 for no beliefs
    weight: torch.Tensor  # (N,) how many examples each counts as; less than one where it is a row of one
    num_examples: int  # a whole group is one, in the pack of its first row
    segments: tuple[tuple[Segment, ...], ...]  # of each row, in order; together they cover its tokens
    read_starts: tuple[int, ...]  # R + 1 host integers: position r has the reads read_starts[r] .. [r + 1]
    num_spans: int
    num_tokens: int  # real tokens in the rows, shared ones counted once
    num_tokens_unshared: int  # what the same examples cost one response at a time
    num_attended: int  # (query, key) pairs of the real tokens: what attention must compute

    def to(self, device: torch.device) -> ForestBatch:
        """The batch on a device; from pinned memory to a CUDA GPU, so that the copy runs while the GPU works
        on the last pack. Elsewhere the copy is waited for: MPS may read memory that is not pinned too late.
        """
        pin = torch.device(device).type == "cuda"
        moved = {}
        for name, value in self._asdict().items():
            if torch.is_tensor(value):
                value = value.pin_memory() if pin else value
                moved[name] = value.to(device, non_blocking=pin)
        return self._replace(**moved)


# --- packing: rows become tensors ---------------------------------------------------------------------------


def pack(trees: Trees, rows: Pack, pad_id: int, share: bool = True, multiple: int = 1) -> ForestBatch:
    """Lay out `trees[i]` for the example indices in `rows` as one ForestBatch; N follows the order in `rows`.

    Rows are padded to the longest of them, up to a `multiple`. An empty pack gives one padding token and N =
    0: a rank without work still runs the same collectives.
    """
    layout, placed, members = Layout(), [], []
    groves_so_far = 0
    for row in rows:
        layout.start_row()
        of_row = [trees[i] for i in row]
        groves, places = plant(of_row, share, groves_so_far)
        groves_so_far += len(groves)
        for grove in groves:
            layout.lay(grove)
        placed += places
        members += of_row
    # an empty pack has the tables of a full one
    like = members or list(itertools.islice(_values(trees), 1))
    return _to_batch(layout, placed, members, _Shape.of(like), pad_id, multiple)


def _values(trees: Trees) -> Iterable[TokenTree]:
    return trees.values() if isinstance(trees, Mapping) else trees


class _Shape(NamedTuple):
    """The widths of the tables: K answers and C belief classes an example."""

    answers: int
    classes: int

    @classmethod
    def of(cls, trees: Sequence[TokenTree]) -> _Shape:
        answers = max((len(tree.answers) for tree in trees), default=1)
        classes = max((len(tree.class_ids) for tree in trees), default=0)
        return cls(answers, classes)


def _to_batch(
    layout: Layout,
    placed: list[Placed],
    members: list[TokenTree],
    shape: _Shape,
    pad_id: int,
    multiple: int,
) -> ForestBatch:
    """The batch of a finished layout."""
    first_class_reads = _read_classes(layout, placed, members, shape.classes)
    tokens = _token_tables(layout.rows, pad_id, multiple)
    width = tokens["input_ids"].shape[1]
    reads, rank = _read_tables(layout, width)
    class_read = rank[np.asarray(first_class_reads, np.int64)[:, None] + np.arange(shape.classes)]
    return ForestBatch(
        **tokens,
        **reads,
        **_span_tables(layout, placed, shape.answers),
        class_read=torch.from_numpy(class_read),
        **_answer_tables(members, shape.answers),
        **_belief_tables(members, shape.classes),
        weight=torch.tensor([tree.weight for tree in members], dtype=torch.float32),
        num_examples=sum(tree.row == 0 for tree in members),
        segments=tuple(tuple(row.segments) for row in layout.rows) or ((),),
        num_spans=layout.num_spans,
        num_tokens=sum(len(row.ids) for row in layout.rows),
        num_tokens_unshared=sum(map(_unshared_tokens, members)),
        num_attended=sum(sum(row.depths) + len(row.depths) for row in layout.rows),
    )


def _read_classes(
    layout: Layout, placed: list[Placed], members: list[TokenTree], num_classes: int
) -> list[int]:
    """Read every class token at each prompt's end; return the number of the first of these C reads."""
    collected = layout.num_spans  # the span of no answer
    firsts = []
    for place, tree in zip(placed, members):
        row, at = layout.last_token[place.grove, place.prompt]
        firsts.append(len(layout.reads.token))
        class_ids = tree.class_ids or (0,) * num_classes
        layout.reads.add(row, [at] * len(class_ids), class_ids, collected)
    if not layout.reads.token:
        layout.reads.add(0, [0], [0], collected)  # an empty pack reads its padding
    return firsts


def _token_tables(rows: Sequence[Row], pad_id: int, multiple: int) -> dict[str, torch.Tensor]:
    """The (B, L) tables. Padding sees itself alone, so that no row of the mask is empty."""
    longest = max((len(row.ids) for row in rows), default=1)
    width = multiple * math.ceil(longest / multiple)
    shape = (max(1, len(rows)), width)
    input_ids = np.full(shape, pad_id, np.int64)
    depth = np.zeros(shape, np.int64)
    end = np.empty(shape, np.int64)
    end[:] = np.arange(1, width + 1)
    for b, row in enumerate(rows):
        used = len(row.ids)
        input_ids[b, :used] = row.ids
        depth[b, :used] = row.depths
        end[b, :used] = row.ends
    tables = {"input_ids": input_ids, "position_ids": depth, "end": end}
    return {name: torch.from_numpy(table) for name, table in tables.items()}


def _read_tables(layout: Layout, width: int) -> tuple[dict[str, Any], np.ndarray]:
    """The reads sorted by the place that they are read from, and where each went."""
    row, at, token, owner = (np.asarray(column, np.int64) for column in layout.reads)
    places = row * width + at
    order = np.argsort(places, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    positions, source, counts = np.unique(places[order], return_inverse=True, return_counts=True)
    starts = np.concatenate([[0], np.cumsum(counts)])
    reads = {
        "positions": torch.from_numpy(positions),
        "source": torch.from_numpy(source.reshape(-1)),
        "target": torch.from_numpy(token[order]),
        "owner": torch.from_numpy(owner[order]),
        "read_starts": tuple(starts.tolist()),
    }
    return reads, rank


def _span_tables(layout: Layout, placed: list[Placed], num_answers: int) -> dict[str, torch.Tensor]:
    """Which span holds each answer (N, K) and belief (N,)."""
    none = layout.num_spans
    answers = [[layout.span_of.get((p.grove, node), none) for node in p.answers] for p in placed]
    beliefs = [layout.span_of.get((p.grove, p.belief), none) for p in placed]
    return {
        "span": _table(answers, num_answers, none, torch.int64),
        "belief_span": torch.tensor(beliefs, dtype=torch.int64),
    }


def _answer_tables(members: list[TokenTree], num_answers: int) -> dict[str, torch.Tensor]:
    """The (N, K) tables of what is known of each answer."""
    unknown = [(math.nan,) * len(tree.answers) for tree in members]
    lengths = [list(map(len, tree.answers)) for tree in members]
    present = [list(map(bool, tree.answers)) for tree in members]
    references = [tree.reference or none for tree, none in zip(members, unknown)]
    valid = _table(present, num_answers, False, torch.bool)
    return {
        "length": _table(lengths, num_answers, 0, torch.float32),
        "reference": _table(references, num_answers, 0.0, torch.float32),
        **_reward_tables(members, valid),
        "valid": valid,
    }


def _reward_tables(members: list[TokenTree], valid: torch.Tensor) -> dict[str, torch.Tensor | None]:
    """Rewards (N, K) and their deviations; the data's decision in float64, in single precision.

    Where plain arithmetic in single precision is as good, its bits stand: runs go on as they began.
    """
    num_answers = valid.shape[1]
    rewards = [tree.rewards or (0.0,) * len(tree.answers) for tree in members]
    reward = _table(rewards, num_answers, 0.0, torch.float32)
    if not any(tree.rewards for tree in members):
        return {"reward": reward, "deviation": None}
    exact = _table(list(map(_deviations_of, members)), num_answers, 0.0, torch.float64)
    mean = reward.sum(-1, keepdim=True) / valid.sum(-1, keepdim=True)
    plain = (reward - mean).masked_fill(~valid, 0.0)
    bound = ROUNDING * exact.abs().amax(-1, keepdim=True)
    is_good = ((plain - exact).abs() <= bound).all(-1, keepdim=True)
    deviation = torch.where(is_good, plain.masked_fill(exact == 0, 0.0), exact.float())
    return {"reward": torch.where(is_good, reward, deviation), "deviation": deviation}


def _deviations_of(tree: TokenTree) -> list[float]:
    """The deviations of a tree's rewards, 0 where it has no answer or no rewards."""
    present = [reward for reward, answer in zip(tree.rewards, tree.answers) if answer]
    remaining = iter(deviations(present))
    return [next(remaining, 0.0) if answer else 0.0 for answer in tree.answers]


def _belief_tables(members: list[TokenTree], num_classes: int) -> dict[str, torch.Tensor]:
    """The tables of what is known of each example's beliefs."""
    lengths = [len(tree.belief) for tree in members]
    probs = [tree.class_probs or (0.0,) * num_classes for tree in members]
    majority = [-1 if tree.is_majority is None else int(tree.is_majority) for tree in members]
    return {
        "belief_length": torch.tensor(lengths, dtype=torch.float32),
        "class_probs": _table(probs, num_classes, 0.0, torch.float32),
        "is_majority": torch.tensor(majority, dtype=torch.int64),
    }


def _table(rows: Sequence[Sequence], width: int, fill: float, dtype: torch.dtype) -> torch.Tensor:
    """Ragged rows as (len(rows), width), filled up on the right."""
    full = [[*row, *[fill] * (width - len(row))] for row in rows]
    return torch.from_numpy(np.asarray(full).reshape(len(rows), width)).to(dtype)


def _unshared_tokens(tree: TokenTree) -> int:
    """Rows of an example one response at a time."""
    above = len(tree.prompt) + len(tree.belief)
    return sum(above + len(answer) - 1 for answer in tree.answers if answer)
