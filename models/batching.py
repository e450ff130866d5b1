"""Continuous batching: rows that end leave at once, and the next samples take their places.

Contract: a prompt is read once for all of its samples, and a step costs one token a row that is at work. All
ranks of a sharded model make the same number of passes: those that are done make idle ones.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.fsdp import FSDPModule

import forest
from models.draws import NOT_FINITE, OnEnd, Request, Sampling, choose, longest_first, uniforms
from models.key_values import PromptPass, StepPass, Table, Widths, group_rows
from models.scorer import Scorer, device_of
from utils import UserError

PROMPT_TOKENS = 2048  # of prompts that are read in one pass, padding included


class Placed(Protocol):
    """What has a place in a table."""

    place: int


P = TypeVar("P", bound=Placed)


@dataclass
class Prompt:
    """A prompt that was read, at a place of the table of prompts."""

    ids: forest.Ids
    place: int
    logits: torch.Tensor  # (V,) of the token behind it


@dataclass
class Row:
    """A sample at work, at a place of the table of new tokens."""

    request: Request
    prompt: Prompt
    place: int
    numbers: np.ndarray  # (max_new_tokens,) what its tokens are drawn with
    ids: list[int]  # that were drawn


class Batching:
    """Up to `batch_size` samples at work. sampling.stop_ids: all tokens that end a response."""

    def __init__(
        self,
        policy: Scorer,
        requests: Sequence[Request],
        sampling: Sampling,
        seed: int,
        batch_size: int,
        on_end: OnEnd,
    ):
        self.policy, self.sampling, self.seed = policy, sampling, seed
        self.batch_size, self.on_end = batch_size, on_end
        self.device = device_of(policy)
        self.waiting = deque(longest_first(requests))
        self.longest = max((len(request.prompt) for request in requests), default=0)
        self.to_end = Counter(request.prompt for request in requests)  # samples of a prompt that are not done
        self.most_prompts = min(batch_size, len(self.to_end))
        self.read: dict[forest.Ids, Prompt] = {}
        self.prompts: list[Prompt | None] = []  # by place
        self.rows: list[Row | None] = []  # by place
        self.prompt_table, self.new_table = Table(), Table()

    def run(self) -> None:
        """Draw all samples. Raises UserError where logits are not finite."""
        while self._goes_on():
            if self.waiting and self._free_rows() and self.waiting[0].prompt not in self.read:
                self._read_prompts()
            elif self.rows:
                self._step()
            else:
                self._idle()
            self._admit()
            close_gaps(self.rows, self.new_table)
            close_gaps(self.prompts, self.prompt_table)

    def _goes_on(self) -> bool:
        """Is there work, on this rank or, where the model is sharded, on any?"""
        at_work = bool(self.waiting or self.rows)
        if not isinstance(self.policy, FSDPModule):
            return at_work
        of_any = torch.tensor(int(at_work), device=self.device)
        dist.all_reduce(of_any, dist.ReduceOp.MAX)
        return bool(of_any)

    def _free_rows(self) -> int:
        return self.batch_size - sum(row is not None for row in self.rows)

    # --- passes -------------------------------------------------------------------------------------------

    def _read_prompts(self) -> None:
        """Read the prompts that the free rows wait for, as many as one pass takes."""
        several = self._next_prompts()
        places = _free_places(self.prompts, len(several))
        self.prompt_table.reserve(len(self.prompts), self.longest, self.most_prompts, self.longest)
        width = max(map(len, several))
        padded = [[*ids, *[self.sampling.pad_id] * (width - len(ids))] for ids in several]
        logits = self.policy.next_logits(
            torch.tensor(padded, device=self.device),
            torch.arange(width, device=self.device).expand(len(several), -1),
            torch.tensor([len(ids) - 1 for ids in several], device=self.device),
            PromptPass(self.prompt_table, torch.tensor(places, device=self.device)),
        )
        for ids, place, of_prompt in zip(several, places, logits):
            self.read[ids] = self.prompts[place] = Prompt(ids, place, of_prompt)

    def _next_prompts(self) -> list[forest.Ids]:
        """Those that wait and were not read: longest first, so the first one's length is the pass's."""
        several: dict[forest.Ids, None] = {}
        first = len(self.waiting[0].prompt)
        for request, _ in zip(self.waiting, range(self._free_rows())):
            if request.prompt in self.read or request.prompt in several:
                continue
            if several and first * (len(several) + 1) > PROMPT_TOKENS:
                break
            several[request.prompt] = None
        return list(several)

    def _step(self) -> None:
        """Draw one token more of every row."""
        rows = [row for row in self.rows if row is not None]
        width = max(len(row.ids) for row in rows)
        self.new_table.reserve(len(rows), width, self.batch_size, self.sampling.max_new_tokens)
        numbers = [[row.ids[-1], len(row.prompt.ids), len(row.ids) - 1] for row in rows]
        last, lengths, counts = torch.tensor(numbers, device=self.device).unbind(1)
        groups = group_rows([row.prompt.place for row in rows], len(self.prompts), self.device)
        widths = Widths(max(len(row.prompt.ids) for row in rows), width)
        step = StepPass(self.prompt_table, self.new_table, groups, lengths, counts, widths)
        only = torch.zeros_like(last)
        logits = self.policy.next_logits(last[:, None], (lengths + counts)[:, None], only, step)
        for row, token in zip(rows, self._choose(logits, rows)):
            if not self._take(row, token):
                self.rows[row.place] = None

    def _idle(self) -> None:
        """A pass that no one needs: the collectives of a sharded model must match."""
        one = torch.full((1, 1), self.sampling.pad_id, device=self.device)
        zero = torch.zeros_like(one)
        scratch = Table()
        scratch.reserve(1, 1, 1, 1)
        self.policy.next_logits(one, zero, zero[0], PromptPass(scratch, zero[0]))

    # --- rows ---------------------------------------------------------------------------------------------

    def _admit(self) -> None:
        """Let samples whose prompts were read take the free rows; their first token needs no pass."""
        while joining := self._next_rows():
            logits = torch.stack([row.prompt.logits for row in joining])
            for row, token in zip(joining, self._choose(logits, joining)):
                if self._take(row, token):
                    (row.place,) = _free_places(self.rows, 1)
                    self.rows[row.place] = row

    def _next_rows(self) -> list[Row]:
        rows = []
        for _ in range(self._free_rows()):
            if not self.waiting or self.waiting[0].prompt not in self.read:
                break
            request = self.waiting.popleft()
            numbers = uniforms(self.seed, request.prompt, request.number, self.sampling.max_new_tokens)
            rows.append(Row(request, self.read[request.prompt], -1, numbers, []))
        return rows

    def _choose(self, logits: torch.Tensor, rows: Sequence[Row]) -> list[int]:
        """The next token of every row: the one transfer from the device of a step."""
        numbers = np.array([row.numbers[len(row.ids)] for row in rows])
        return choose(logits, torch.from_numpy(numbers), self.sampling.temperature).tolist()

    def _take(self, row: Row, token: int) -> bool:
        """Add a token to a row; False where the row has ended by it."""
        if token == NOT_FINITE:
            name = type(self.policy.model).__name__
            raise UserError(
                f"model {name}: its logits are not finite, so nothing can be sampled; use another "
                "checkpoint, or a policy_dtype of more range (float32, bfloat16)"
            )
        is_end = token in self.sampling.stop_ids
        if not is_end:
            row.ids.append(token)
            if len(row.ids) < self.sampling.max_new_tokens:
                return True
        self.on_end(row.request.index, row.ids, "stop" if is_end else "length")
        self.to_end[row.prompt.ids] -= 1
        if not self.to_end[row.prompt.ids]:
            self.prompts[row.prompt.place] = None
            del self.read[row.prompt.ids]
        return False


def _free_places(places: list[P | None], count: int) -> list[int]:
    """The first places that are free, and new ones, `count` in all: to be filled at once."""
    free = [place for place, holder in enumerate(places) if holder is None][:count]
    free += range(len(places), len(places) + count - len(free))
    places += [None] * (max(free) + 1 - len(places))
    return free


def close_gaps(places: list[P | None], table: Table) -> None:
    """Let the last ones take the places that are free, so that those at work stand side by side."""
    _drop_free_ends(places)
    for place in range(len(places)):
        if place < len(places) and places[place] is None:
            last = places.pop()
            assert last is not None
            table.move(len(places), place)
            last.place = place
            places[place] = last
            _drop_free_ends(places)


def _drop_free_ends(places: list[P | None]) -> None:
    while places and places[-1] is None:
        places.pop()
