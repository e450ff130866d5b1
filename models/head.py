"""Log-probs off hidden states, chunk by chunk through the head, so that full logits never exist.

Contract: `read_log_probs(head, hidden, reads, shape)` gives one fp32 log-prob (nats) a read, through any
head. A plain linear one has a backward pass of its own, `LogProbs`; others are computed again in the backward
pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PretrainedConfig

CHUNK_BYTES = 64 * 2**20  # fp32 logits that are computed at once
SLICE_BYTES = 4 * 2**20  # of them that stay in a CPU's cache
KEPT_BYTES = 256 * 2**20  # fp32 logits that wait for the backward pass; beyond them they are computed again


# what configs call it: models multiply their head's output by the first, divide it by the second
FACTORS = ("logit_scale", "lm_head_multiplier")
DIVISORS = ("logits_scaling",)
CAPS = ("final_logit_softcapping", "logits_soft_cap")


class LogitShape(NamedTuple):
    """What a model does to its head's output: logits = softcap * tanh(scale * output / softcap)."""

    scale: float = 1.0
    softcap: float = 0.0  # 0: none

    def of(self, output: torch.Tensor) -> torch.Tensor:
        """The logits of a head's output, in fp32."""
        logits = output.float()
        if self.scale != 1.0:
            logits = self.scale * logits
        return self.softcap * torch.tanh(logits / self.softcap) if self.softcap else logits

    def slope(self, logits: torch.Tensor) -> torch.Tensor | float:
        """The derivative of `of`, given its logits."""
        if self.softcap:
            return self.scale * (1 - (logits / self.softcap) ** 2)
        return self.scale


def logit_shape(config: PretrainedConfig) -> LogitShape:
    """The shape that a model's config tells of; the parity probe notices one that it does not."""
    scale = 1.0
    for name in FACTORS:
        scale *= getattr(config, name, None) or 1.0
    for name in DIVISORS:
        scale /= getattr(config, name, None) or 1.0
    caps = [getattr(config, name, None) for name in CAPS]
    return LogitShape(scale, next(filter(None, caps), 0.0))


class Reads(NamedTuple):
    """M log-probs to read at R positions: that of token `target[m]` at position `source[m]`."""

    source: torch.Tensor  # (M,) numbers of positions, ascending
    target: torch.Tensor  # (M,) token ids
    starts: Sequence[int]  # R + 1 host integers: the reads of position r are starts[r] .. starts[r + 1]


def read_log_probs(head: nn.Module, hidden: torch.Tensor, reads: Reads, shape: LogitShape) -> torch.Tensor:
    """Log-probs (M,) of the reads off hidden states (R, d), fp32, in nats."""
    chunk = positions_at_once(head.weight)
    if type(head) is nn.Linear:
        return LogProbs.apply(hidden, head.weight, head.bias, reads, shape, chunk)
    logps = []
    for first in range(0, len(hidden), chunk):
        last = min(first + chunk, len(hidden))
        here = slice(reads.starts[first], reads.starts[last])
        inputs = (hidden[first:last], reads.source[here] - first, reads.target[here])
        # recomputed in the backward pass, so that no chunk's fp32 logits are kept
        logps.append(checkpoint(_read, head, *inputs, shape, use_reentrant=False))
    return torch.cat(logps)


def positions_at_once(weight: torch.Tensor) -> int:
    """How many positions' logits fit in CHUNK_BYTES, for a head's weight (V, d)."""
    return max(1, CHUNK_BYTES // (4 * weight.shape[0]))


def _read(
    head: nn.Module,
    hidden: torch.Tensor,
    source: torch.Tensor,
    target: torch.Tensor,
    shape: LogitShape,
) -> torch.Tensor:
    logits = shape.of(head(hidden))
    return logits[source, target] - logits.logsumexp(-1)[source]


class LogProbs(torch.autograd.Function):
    """Log-probs of M tokens read at R positions, through a linear head, whose logits never exist all at once.

    hidden (R, d), weight (V, d), bias (V,) or None; chunk: positions at once. Returns (M,)
    fp32. Chunks have an fp32 log-softmax. The first ones' logits are kept for the backward pass, up to
    KEPT_BYTES, the others' computed again. There softmax and gradient share the logits' memory and the
    weight's gradient is added up in place.
    """

    @staticmethod
    def forward(
        ctx,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        reads: Reads,
        shape: LogitShape,
        chunk: int,
    ) -> torch.Tensor:
        source, target, starts = reads
        compute = _compute_dtype(hidden, weight)
        logps = torch.empty(len(source), dtype=torch.float32, device=hidden.device)
        lse = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        ctx.kept = {}
        room = KEPT_BYTES
        with torch.autocast(hidden.device.type, enabled=False):
            w, b = _cast(weight, bias, compute)
            for first in range(0, len(hidden), chunk):
                last = min(first + chunk, len(hidden))
                here = slice(starts[first], starts[last])
                logits = _logits(hidden[first:last].to(compute), w, b, shape)
                for part in _slices(logits):
                    lse[first:last][part] = logits[part].logsumexp(-1)
                logps[here] = logits[source[here] - first, target[here]] - lse[source[here]]
                room -= 4 * logits.numel()
                if room >= 0 and any(ctx.needs_input_grad):
                    ctx.kept[first] = logits
        ctx.save_for_backward(hidden, w, b, source, target, lse)
        ctx.rest = starts, shape, chunk, weight.dtype
        return logps

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, w, b, source, target, lse = ctx.saved_tensors
        starts, shape, chunk, given = ctx.rest
        compute = w.dtype
        total = torch.zeros_like(lse).index_add_(0, source, grad)  # of the reads at each position
        d_hidden = torch.empty_like(hidden)
        d_weight = None  # made by the first chunk: zeros to start from are as large as the vocabulary
        d_bias = None
        if b is not None and ctx.needs_input_grad[2]:
            d_bias = torch.zeros_like(b, dtype=torch.float32)
        for first in range(0, len(hidden), chunk):
            last = min(first + chunk, len(hidden))
            here = slice(starts[first], starts[last])
            h = hidden[first:last].to(compute)
            logits = ctx.kept.pop(first) if first in ctx.kept else _logits(h, w, b, shape)
            slope = shape.slope(logits)
            for part in _slices(logits):
                logits[part].sub_(lse[first:last][part, None]).exp_().mul_(-total[first:last][part, None])
            d_logits = logits
            d_logits.index_put_((source[here] - first, target[here]), grad[here], accumulate=True)
            if shape != LogitShape():
                d_logits = d_logits.mul_(slope)
            d_logits = d_logits.to(compute)
            d_hidden[first:last] = d_logits @ w
            if ctx.needs_input_grad[1]:
                d_weight = _add_product(d_weight, d_logits, h)
            if d_bias is not None:
                d_bias += d_logits.float().sum(0)
        if d_weight is None and ctx.needs_input_grad[1]:
            d_weight = torch.zeros_like(w)  # nothing was read
        if d_weight is not None:
            d_weight = d_weight.to(given)
        if d_bias is not None:
            d_bias = d_bias.to(given)
        return d_hidden, d_weight, d_bias, None, None, None


def _compute_dtype(hidden: torch.Tensor, weight: torch.Tensor) -> torch.dtype:
    """The autocast's dtype where one is on, else the weight's."""
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype


def _cast(
    weight: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor | None]:
    return weight.to(dtype), None if bias is None else bias.to(dtype)


def _add_product(total: torch.Tensor | None, d_logits: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """`total` (V, d), fp32, plus d_logits^T hidden, in place; None counts as zero."""
    if total is None:
        return (d_logits.T @ hidden).float()
    if hidden.dtype == torch.float32:
        return total.addmm_(d_logits.T, hidden)
    total += d_logits.T @ hidden
    return total


def _slices(logits: torch.Tensor) -> list[slice]:
    """Rows to work on at a time, element by element: few enough for a CPU's cache; on a GPU all."""
    rows = len(logits) if logits.is_cuda else max(1, SLICE_BYTES // (4 * logits.shape[1]))
    return [slice(i, i + rows) for i in range(0, len(logits), rows or 1)]


def _logits(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, shape: LogitShape
) -> torch.Tensor:
    """fp32 logits, a tensor that the caller may overwrite."""
    return shape.of(nn.functional.linear(hidden, weight, bias))
