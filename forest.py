"""Token trees, step planning, packing, and the one predicate that says who may look at whom.

Contract: the examples of one optimizer step that share text share its tokens. A tree is prompt -> (belief ->) answers;
trees of one prompt merge; rows of trees are laid out in depth-first preorder, so a token knows all it needs from the
row where its own subtree ends. Everything here is a pure function of token ids, a seed and a step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

Ids = tuple[int, ...]
Pack = list[list[int]]  # rows of one forward pass; each row lists example indices


class Segment(NamedTuple):
    """A run of `length` tokens of one row, each attending to those before it in the run and to the `past`: the first n tokens of
    earlier segments of the row, as (segment, n). A tree is one segment for the prompt with its first branch, and one for
    every other branch, so attention over segments computes what the predicate allows and nothing else.
    """

    length: int
    past: tuple[tuple[int, int], ...]


class TokenTree(NamedTuple):
    """One example as token ids. Column 0 of `answers` is the preferred response; an empty one stands where there is none.

    `belief` holds the tokens that all answers stand under (scored as a span of their own), or is empty. `class_ids` and
    `class_probs` are the C belief classes' token ids and the group's p*; `is_majority` says whether the accepted belief
    is the most common one of p* (None: no beliefs). `reference` is filled by `reference.reference_logps`: nats per answer.
    `group` numbers the prompt that the example belongs to; `truncated` says which answers lost their end.
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


class ForestBatch(NamedTuple):
    """A packed forest: B rows of L tokens, M reads of log-probs at R positions, and N examples of at most K answers.

    `source` indexes `positions` (the flat places whose hidden states the head reads) and is sorted; `target` is the token
    read there; `owner` is the span that the read belongs to (the last one, S, collects the class reads).
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
    reward: torch.Tensor  # (N, K)
    valid: torch.Tensor  # (N, K) bool
    class_probs: torch.Tensor  # (N, C)
    is_majority: torch.Tensor  # (N,) 1, 0, or -1 for no beliefs
    segments: tuple[tuple[Segment, ...], ...]  # of each row, in order; together they cover its tokens
    read_starts: tuple[
        int, ...
    ]  # R + 1 host integers: reads of position r are read_starts[r] .. read_starts[r + 1]
    num_spans: int
    num_tokens: int  # real tokens in the rows, shared ones counted once
    num_tokens_unshared: int  # what the same examples cost one response at a time
    num_attended: int  # (query, key) pairs of the real tokens: what attention must compute

    def to(self, device: torch.device) -> ForestBatch:
        """The batch on a device; from pinned memory to a GPU, so that the copy runs while the GPU works on the last pack."""
        pin = torch.device(device).type == "cuda"
        return self._replace(
            **{
                k: (v.pin_memory() if pin else v).to(device, non_blocking=True)
                for k, v in self._asdict().items()
                if torch.is_tensor(v)
            }
        )


def visible(q, kv, end):
    """May the token at row index `q` look at the one at `kv`, whose subtree ends at row `end`? Causality, branches, packing."""
    return (kv <= q) & (q < end)


def dense_mask(end: torch.Tensor) -> torch.Tensor:
    """The predicate as a boolean mask (B, 1, L, L), True where attention is allowed."""
    row = torch.arange(end.shape[1], device=end.device)
    return visible(row[None, :, None], row[None, None, :], end[:, None, :])[:, None]


class _Grove:
    """Merged trees of one prompt: nodes of token ids, each reachable from its parent once, kept in insertion order."""

    def __init__(self) -> None:
        self.ids: list[Ids] = []
        self.children: list[list[int]] = []
        self.scored: list[bool] = []
        self.roots: list[int] = []
        self._known: dict[tuple, int] = {}

    def add(self, parent: int, ids: Ids, scored: bool, kind: object) -> int:
        """The node `ids` under `parent` (-1: a root); nodes of equal ids and `kind` under one parent are one node."""
        key = (parent, kind, ids)
        if key not in self._known:
            self._known[key] = len(self.ids)
            (self.roots if parent < 0 else self.children[parent]).append(len(self.ids))
            self.ids.append(ids)
            self.children.append([])
            self.scored.append(scored)
        return self._known[key]

    def rows(self, node: int) -> int:
        """Rows that a node takes: nothing is ever predicted from the last token of a scored leaf, so it has none."""
        return len(self.ids[node]) - (self.scored[node] and not self.children[node])

    @property
    def size(self) -> int:
        return sum(map(self.rows, range(len(self.ids))))


class _Placed(NamedTuple):
    """Where one example's parts stand in its grove: node numbers."""

    prompt: int
    belief: int  # -1: none
    answers: list[int]  # -1: none


def _plant(trees: Sequence[TokenTree], share: bool) -> tuple[list[_Grove], list[tuple[int, _Placed]]]:
    """Merge trees into groves by prompt (or keep every path apart), and say where each example ended up."""
    groves: dict[object, int] = {}
    grown: list[_Grove] = []
    placed = []
    for number, tree in enumerate(trees):
        key = tree.prompt if share else number
        if key not in groves:
            groves[key] = len(grown)
            grown.append(_Grove())
        grove = grown[groves[key]]
        prompts, beliefs, answers = [], [], []
        first = next(k for k, answer in enumerate(tree.answers) if answer)
        for k, answer in enumerate(tree.answers):
            if not answer:
                answers.append(-1)
                continue
            branch = 0 if share else k
            prompts.append(grove.add(-1, tree.prompt, False, ("prompt", branch)))
            under = prompts[-1]
            if tree.belief:
                beliefs.append(grove.add(under, tree.belief, share or k == first, "belief"))
                under = beliefs[-1]
            answers.append(grove.add(under, answer, True, "answer"))
        placed.append((groves[key], _Placed(prompts[0], beliefs[0] if beliefs else -1, answers)))
    return grown, placed


def step_examples(
    prompt_of: Sequence[int], batch_size: int, seed: int, step: int, shuffle: str = "examples"
) -> list[int]:
    """The examples of optimizer step `step` (from 0): a pure function of (seed, step); every epoch sees each example once.

    `prompt_of[i]` numbers the prompt of example i. `shuffle="prompts"` permutes prompts and keeps the examples of one
    prompt together, so that they share its tree; "examples" permutes examples. An epoch's last step may be smaller.
    """
    per_epoch = steps_per_epoch(len(prompt_of), batch_size)
    epoch, within = divmod(step, per_epoch)
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(prompt_of))
    if shuffle == "prompts":
        place = rng.permutation(max(prompt_of) + 1)
        order = order[np.argsort(place[np.asarray(prompt_of)[order]], kind="stable")]
    return order[within * batch_size : (within + 1) * batch_size].tolist()


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    return math.ceil(num_examples / batch_size)


def plan_step(
    trees: Sequence[TokenTree],
    examples: Sequence[int],
    max_tokens: int,
    row_tokens: int,
    world: int,
    share: bool = True,
) -> list[Pack]:
    """Split a step's examples into packs of at most `max_tokens` rows of tokens, a multiple of `world` packs in all.

    Examples of one prompt stay together; trees fill rows of `row_tokens` (or of the longest tree) best-fit, longest first,
    and rows fill packs, so padding is small. Rank r computes packs r, r + world, ...; surplus packs are empty. Pure.

    Raises ValueError where one example alone is larger than `max_tokens`.
    """
    bundles = sorted(_bundle(trees, examples, max_tokens, share), key=lambda b: (-b[0], b[1]))
    sizes = [size for size, _ in bundles]
    tried = (
        _fill(bundles, width, limit)
        for limit in _limits(sizes, max_tokens, world)
        for width in _widths(sizes, row_tokens if row_tokens < max_tokens else limit, limit)
    )
    packs = min(tried, key=lambda packs: (_turns_cost(packs, world), len(packs)), default=[])
    members = _at_least([[ids for _, ids in rows] for rows in packs], world)
    return members + [[] for _ in range(-len(members) % world)]


def _limits(sizes: Sequence[int], max_tokens: int, world: int) -> list[int]:
    """Pack sizes worth trying: the largest, and where several ranks share a step those that give each an equal part, or more."""
    if world == 1 or not sizes:
        return [max_tokens]
    turns = math.ceil(sum(sizes) / (world * max_tokens))
    fair = sum(sizes) / (world * turns)
    return sorted(
        {min(max_tokens, max(sizes[0], math.ceil(slack * fair))) for slack in (1.0, 1.1, 1.25, 1.5)}
        | {max_tokens}
    )


def _turns_cost(packs: Sequence[Sequence[tuple[int, list[int]]]], world: int) -> float:
    """What the packs cost where ranks take them in turn and wait for the slowest of each turn."""
    return sum(
        max(_padded_cost([pack]) for pack in packs[i : i + world]) for i in range(0, len(packs), world)
    )


def _widths(sizes: Sequence[int], row_tokens: int, max_tokens: int) -> list[int]:
    """Row lengths worth trying: those that spread the trees evenly over 1, 2, ... rows, within `row_tokens`; 0: a tree a row;
    max_tokens: one row a pack, which needs no padding."""
    if not sizes:
        return []
    if not row_tokens:
        return [0]
    if row_tokens >= max_tokens:
        return [max_tokens]
    limit = min(max_tokens, max(row_tokens, sizes[0]))
    even = {
        math.ceil(sum(sizes) / rows) + slack
        for rows in range(1, min(len(sizes), 64) + 1)
        for slack in (0, 16)
    }
    return sorted({limit, sizes[0], *(w for w in even if sizes[0] <= w <= limit)})


def _fill(
    bundles: Sequence[tuple[int, list[int]]], width: int, max_tokens: int
) -> list[list[tuple[int, list[int]]]]:
    """Packs of rows (tokens used, examples): bundles best-fit into rows of `width`, longest first, rows into packs."""
    rows: list[tuple[int, list[int]]] = []
    for size, members in bundles:
        fitting = [i for i, (used, _) in enumerate(rows) if used + size <= width]
        if fitting:
            best = max(fitting, key=lambda i: rows[i][0])
            rows[best] = (rows[best][0] + size, rows[best][1] + members)
        else:
            rows.append((size, list(members)))
    packs: list[list[tuple[int, list[int]]]] = []
    for row in sorted(
        rows, key=lambda row: (-row[0], row[1])
    ):  # descending, so a pack's first row is its width
        if packs and (len(packs[-1]) + 1) * packs[-1][0][0] <= max_tokens:
            packs[-1].append(row)
        else:
            packs.append([row])
    return packs


def _padded_cost(packs: Sequence[Sequence[tuple[int, list[int]]]]) -> float:
    """What the packs cost in tokens: padded rows, with dense attention's share growing with the width."""
    return sum(len(rows) * rows[0][0] * (1 + rows[0][0] / 4096) for rows in packs)


def _at_least(packs: list[Pack], world: int) -> list[Pack]:
    """Split packs of several rows until every rank has work, where there are rows enough."""
    packs = list(packs)
    while 0 < len(packs) < world and len(widest := max(packs, key=len)) > 1:
        half = len(widest) // 2
        packs[packs.index(widest)] = widest[:half]
        packs.append(widest[half:])
    return packs


def _bundle(
    trees: Sequence[TokenTree], examples: Sequence[int], max_tokens: int, share: bool
) -> list[tuple[int, list[int]]]:
    """(rows, examples) of each group of examples that must share a row: those of one prompt, while they fit a pack."""
    by_prompt: dict[object, list[int]] = {}
    for i in examples:
        by_prompt.setdefault(trees[i].prompt if share else i, []).append(i)
    bundles = []
    for members in by_prompt.values():
        while members:
            keep = len(members)
            while (size := tree_tokens([trees[i] for i in members[:keep]], share)) > max_tokens and keep > 1:
                keep = (keep + 1) // 2
            if size > max_tokens:
                raise ValueError(
                    f"an example of {size} tokens exceeds max_tokens={max_tokens}: raise max_tokens or lower max_length"
                )
            bundles.append((size, members[:keep]))
            members = members[keep:]
    return bundles


def tree_tokens(trees: Sequence[TokenTree], share: bool = True) -> int:
    """Rows that these trees take together."""
    return sum(grove.size for grove in _plant(trees, share)[0])


class _Layout:
    """Accumulates rows and reads while groves are laid out one after another."""

    def __init__(self) -> None:
        self.rows: list[tuple[list[int], list[int], list[int]]] = []  # (ids, depths, ends) of each row
        self.segments: list[list[Segment]] = []  # of each row
        self.reads: list[tuple[int, int, int, int]] = []  # (row number, row index, token, owner)
        self.num_spans = 0
        self.span_of: dict[tuple[int, int], int] = {}  # (grove, node) -> span
        self.last_row: dict[
            tuple[int, int], tuple[int, int]
        ] = {}  # (grove, node) -> (row number, index of its last token)

    def lay(self, number: int, grove: _Grove) -> None:
        """Append a grove to the newest row, depth first."""
        for root in grove.roots:
            self._lay_node(number, grove, root, source=None, depth=0, past=())

    def _lay_node(
        self, number: int, grove: _Grove, node: int, source: int | None, depth: int, past: tuple | None
    ) -> None:
        """Append a node with all below it; `past` None: it goes on with the newest segment, being its parent's first child."""
        ids, depths, ends = self.rows[-1]
        row, start, tokens, count = len(self.rows) - 1, len(ids), grove.ids[node], grove.rows(node)
        ids.extend(tokens[:count])
        depths.extend(range(depth, depth + count))
        if grove.scored[node]:
            self.span_of[number, node] = self.num_spans
            before = [source, *range(start, start + len(tokens) - 1)]
            self.reads.extend((row, at, token, self.num_spans) for at, token in zip(before, tokens))
            self.num_spans += 1
        segments = self.segments[-1]
        if past is not None and count:
            segments.append(Segment(count, past))
        elif count:
            segments[-1] = segments[-1]._replace(length=segments[-1].length + count)
        here, below = len(segments) - 1, ()
        if grove.children[node]:
            below = (*segments[here].past, (here, segments[here].length))
        last = start + count - 1 if count else source
        self.last_row[number, node] = (row, last)
        ends.extend([0] * count)
        for nth, child in enumerate(grove.children[node]):
            self._lay_node(number, grove, child, last, depth + count, below if nth else None)
        ends[start : start + count] = [len(ids)] * count


def pack(
    trees: Sequence[TokenTree], rows: Pack, pad_id: int, share: bool = True, multiple: int = 1
) -> ForestBatch:
    """Lay out `trees[i]` for the example indices in `rows` as one ForestBatch; N follows the order in `rows`. Rows are padded
    to the longest of them, up to a `multiple`.

    An empty pack gives one padding token and N = 0: a rank without work still runs the same collectives.
    """
    layout, placed, members = _Layout(), [], []
    for row in rows:
        layout.rows.append(([], [], []))
        layout.segments.append([])
        groves, where = _plant([trees[i] for i in row], share)
        base = len(placed) + 1_000_000 * len(layout.rows)  # grove numbers unique over rows
        for number, grove in enumerate(groves):
            layout.lay(base + number, grove)
        placed.extend((base + number, node) for number, node in where)
        members.extend(trees[i] for i in row)
    return _tensors(layout, placed, members, pad_id, members or list(trees[:1]), multiple)


def _tensors(
    layout: _Layout,
    placed: list[tuple[int, _Placed]],
    members: list[TokenTree],
    pad_id: int,
    shaped_by: list[TokenTree],
    multiple: int,
) -> ForestBatch:
    """The batch of a finished layout; `shaped_by` sets K and C, so that an empty pack has the tables of a full one."""
    width = multiple * math.ceil(max((len(ids) for ids, _, _ in layout.rows), default=1) / multiple)
    rows = layout.rows or [([], [], [])]
    input_ids, depth, end = (np.zeros((len(rows), width), np.int64) for _ in range(3))
    input_ids[:], end[:] = (
        pad_id,
        np.arange(1, width + 1),
    )  # padding sees itself alone: no row of the mask is empty
    for b, (ids, depths, ends) in enumerate(rows):
        input_ids[b, : len(ids)], depth[b, : len(ids)], end[b, : len(ids)] = ids, depths, ends

    dump, num_answers = layout.num_spans, max((len(t.answers) for t in shaped_by), default=1)
    num_classes = max((len(t.class_ids) for t in shaped_by), default=0)
    reads, first_class_read = list(layout.reads), []
    for (number, node), tree in zip(placed, members):
        row, at = layout.last_row[number, node.prompt]
        first_class_read.append(len(reads))
        reads.extend((row, at, token, dump) for token in (tree.class_ids or (0,) * num_classes))
    if not reads:
        reads.append((0, 0, 0, dump))
    table = np.asarray(reads, np.int64)
    flat = table[:, 0] * width + table[:, 1]
    order = np.argsort(flat, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    positions, source, counts = np.unique(flat[order], return_inverse=True, return_counts=True)

    def per_answer(fill, value):
        out = [[*values, *[fill] * (num_answers - len(values))] for values in value]
        return np.asarray(out).reshape(len(members), num_answers)

    tensor = torch.from_numpy
    return ForestBatch(
        input_ids=tensor(input_ids),
        position_ids=tensor(depth),
        end=tensor(end),
        positions=tensor(positions),
        source=tensor(source.reshape(-1)),
        target=tensor(table[order, 2]),
        owner=tensor(table[order, 3]),
        span=tensor(
            per_answer(
                dump, [[layout.span_of[g, a] if a >= 0 else dump for a in p.answers] for g, p in placed]
            ).astype(np.int64)
        ),
        belief_span=tensor(
            np.asarray([layout.span_of[g, p.belief] if p.belief >= 0 else dump for g, p in placed], np.int64)
        ),
        class_read=tensor(rank[np.asarray(first_class_read, np.int64)[:, None] + np.arange(num_classes)]),
        length=tensor(per_answer(0, [[len(a) for a in t.answers] for t in members]).astype(np.float32)),
        belief_length=tensor(np.asarray([len(t.belief) for t in members], np.float32)),
        reference=tensor(
            per_answer(0.0, [t.reference or (math.nan,) * len(t.answers) for t in members]).astype(np.float32)
        ),
        reward=tensor(
            per_answer(0.0, [t.rewards or (0.0,) * len(t.answers) for t in members]).astype(np.float32)
        ),
        valid=tensor(per_answer(False, [[bool(a) for a in t.answers] for t in members]).astype(bool)),
        class_probs=tensor(
            np.asarray([t.class_probs or (0.0,) * num_classes for t in members], np.float32).reshape(
                len(members), num_classes
            )
        ),
        is_majority=tensor(
            np.asarray([-1 if t.is_majority is None else int(t.is_majority) for t in members], np.int64)
        ),
        segments=tuple(map(tuple, layout.segments)) or ((),),
        read_starts=tuple(np.concatenate([[0], np.cumsum(counts)]).tolist()),
        num_spans=dump,
        num_tokens=sum(len(ids) for ids, _, _ in layout.rows),
        num_tokens_unshared=sum(
            len(t.prompt) + len(t.belief) + len(a) - 1 for t in members for a in t.answers if a
        ),
        num_attended=sum(sum(depths) + len(depths) for _, depths, _ in layout.rows),
    )
