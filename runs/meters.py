"""Meters of a run: means of metrics and what the work took, the first bad step, memory.

Contract: everything is summed on the device; only `Meter.read` and whoever looks at `Watch.first` wait for
it.
"""

from __future__ import annotations

import functools
import time
from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

import devices
import models
from forest import ForestBatch
from ranks import World, gathered
from utils import give_back_freed_memory

MEMORY_SECONDS = 60.0  # between two times that a CPU's freed memory is given back

Measured = Mapping[
    str, tuple[torch.Tensor, torch.Tensor]
]  # metric -> (N,) values, (N,) examples they hold for


class Work(NamedTuple):
    """What passes did, in forward passes."""

    tokens: float = 0.0
    padded_tokens: float = 0.0  # with padding
    unshared_tokens: float = 0.0  # one response at a time
    flops: float = 0.0
    examples: float = 0.0

    def plus(self, other: Work) -> Work:
        return Work(*(a + b for a, b in zip(self, other)))


class Meter:
    """Sums of metrics and of work since the last read, and the clock that goes with them."""

    def __init__(self, policy: models.Scorer, world: World):
        self.policy, self.world = policy, world
        self.rate: float | None = None  # FLOP/s of a large matrix product here
        self.restart()

    def restart(self) -> None:
        self.sums: dict[str, torch.Tensor] = defaultdict(lambda: torch.zeros(2, device=self.world.device))
        self.work = Work()
        self.start = time.perf_counter()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.start

    def add(self, batch: ForestBatch, measured: Measured) -> None:
        """Count one pack and its examples' metrics."""
        for name, (values, holds) in measured.items():
            total = (torch.where(holds, values.float(), 0.0) * batch.weight).sum()
            self.sums[name] += torch.stack([total, (holds * batch.weight).sum()])
        flops = models.forward_flops(self.policy, batch)
        padded = batch.input_ids.numel()
        done = Work(batch.num_tokens, padded, batch.num_tokens_unshared, flops, batch.num_examples)
        self.work = self.work.plus(done)

    def read(self, split: str) -> dict[str, float]:
        """Means over all ranks under the log's names, then start again. One host sync."""
        self._measure_rate()
        seconds = self.seconds
        names = sorted(self.sums)
        device = self.world.device
        numbers = torch.tensor(self.work, dtype=devices.widest(device), device=device)
        peak = torch.tensor(devices.peak_memory(device), dtype=devices.widest(device), device=device)
        table = torch.stack([self.sums[name] for name in names])
        if self.world.size > 1:
            names, table = _sum_over_ranks(self.sums, self.world)
            dist.all_reduce(numbers)
            dist.all_reduce(peak, dist.ReduceOp.MAX)
        values = {}
        for name, (total, count) in zip(names, table.tolist()):
            if count:
                values[name.format(split)] = total / count
        values |= self._rates(Work(*numbers.tolist()), seconds)
        values["peak_memory_gb"] = peak.item()
        self.restart()
        return values

    def _measure_rate(self) -> None:
        """Measure once what utilisation is relative to; its time is not the work's."""
        if self.rate is None:
            start = time.perf_counter()
            self.rate = matmul_rate(self.world.device, self.policy.compute_dtype)
            self.start += time.perf_counter() - start

    def _rates(self, work: Work, seconds: float) -> dict[str, float]:
        achieved = 3 * work.flops / seconds / self.world.size  # forward and backward
        # the rate may have been measured beside other work; what was achieved is possible
        self.rate = max(self.rate, achieved)
        return {
            "examples_per_second": work.examples / seconds,
            "tokens_per_second": work.tokens / seconds,
            "padding_fraction": 1 - work.tokens / max(work.padded_tokens, 1),
            "saved_by_sharing": 1 - work.tokens / max(work.unshared_tokens, 1),
            "mfu": achieved / self.rate,
        }


def _sum_over_ranks(sums: dict[str, torch.Tensor], world: World) -> tuple[list[str], torch.Tensor]:
    """Add up metrics over ranks, which may know different names: one without examples knows none."""
    parts = gathered({name: total.tolist() for name, total in sums.items()}, world)
    names = sorted({name for part in parts for name in part})
    rows = []
    for name in names:
        of_ranks = [part.get(name, (0, 0)) for part in parts]
        rows.append([sum(total for total, _ in of_ranks), sum(count for _, count in of_ranks)])
    return names, torch.tensor(rows)


class Watch:
    """The first step whose loss or gradient norm is not finite, remembered on the device: to note a step
    needs no host sync.
    """

    def __init__(self, world: World):
        self.world = world
        # step (0: none yet), loss, gradient norm
        self.first = torch.zeros(3, dtype=devices.widest(world.device), device=world.device)

    def note(self, step: int, loss: torch.Tensor, grad_norm: torch.Tensor) -> None:
        """`loss` is this rank's share of the step's mean loss, `grad_norm` the norm over all ranks."""
        if isinstance(grad_norm, DTensor):  # of a sharded model
            grad_norm = grad_norm.full_tensor()
        loss = loss.to(self.first.dtype)
        if self.world.size > 1:
            dist.all_reduce(loss)
        now = torch.stack([torch.full_like(loss, step), loss, grad_norm.to(loss.dtype)])
        is_first = (self.first[0] == 0) & ~now.isfinite().all()
        self.first = torch.where(is_first, now, self.first)


@functools.cache
def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """`models.matmul_rate`, measured once a process: every validation has a meter of its own."""
    return models.matmul_rate(device, dtype)


class FreedMemory:
    """What the allocator of a CPU keeps, given back once a minute, so that it does not grow without end."""

    def __init__(self, world: World):
        self._keeps = world.device.type == "cpu"
        self._given = time.monotonic()

    def give_back(self) -> None:
        now = time.monotonic()
        if self._keeps and now - self._given > MEMORY_SECONDS:
            give_back_freed_memory()
            self._given = now
