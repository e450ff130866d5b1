"""The forest's predicate for each attention backend, and our own attention over segments.

Contract: a token sees what `forest.visible` allows and nothing else, whichever backend computes. Attention
over segments is for devices where flex_attention cannot train: it needs no dense mask and computes no
padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

import forest
from utils import UserError

SEGMENTS = "segments"  # our own attention, for devices where flex_attention cannot train


class MaskedSegment(NamedTuple):
    """A `forest.Segment` with its mask (length, past + length), which is None where plain causality does."""

    length: int
    past: tuple[tuple[int, int], ...]
    mask: torch.Tensor | None


def choose_attention(attention: str, device: torch.device) -> str:
    """auto is flex_attention on CUDA and segments elsewhere; flex_attention has no backward on a CPU.

    Raises UserError for a backend that is unknown or does not run on this device.
    """
    if attention == "auto":
        return "flex_attention" if device.type == "cuda" else SEGMENTS
    if attention not in ("sdpa", SEGMENTS, "flex_attention"):
        choices = "auto, sdpa, segments or flex_attention (eager treats boolean masks wrongly)"
        raise UserError(f"attention={attention}: choose {choices}")
    if attention == "flex_attention" and device.type != "cuda":
        raise UserError("attention=flex_attention: needs a CUDA device; set attention=sdpa")
    return attention


def attention_mask(end: torch.Tensor, attention: str) -> torch.Tensor | BlockMask | None:
    """The predicate for a backend: a boolean mask (B, 1, L, L) for sdpa, a BlockMask for flex_attention.

    Attention over segments needs none: it gets a mask that says nothing, so that transformers makes none of
    its own. "none" leaves the model causal, where only sizes matter.
    """
    if attention == "sdpa":
        return forest.dense_mask(end)
    if attention == "none":
        return None
    if attention == SEGMENTS:
        return torch.ones(1, 1, 1, 1, dtype=torch.bool, device=end.device)

    def allowed(b, h, q, kv):
        return forest.visible(q, kv, end[b, kv])

    rows, length = end.shape
    return create_block_mask(allowed, rows, None, length, length, device=end.device)


def segment_masks(
    segments: Sequence[Sequence[forest.Segment]], device: torch.device
) -> list[list[MaskedSegment]]:
    """Every row's segments with their masks, on the device."""
    return [[_masked(length, past, device) for length, past in row] for row in segments]


def _masked(length: int, past: tuple[tuple[int, int], ...], device: torch.device) -> MaskedSegment:
    if not past:
        return MaskedSegment(length, past, None)
    before = sum(n for _, n in past)
    mask = torch.ones(length, before + length, dtype=torch.bool, device=device).tril(before)
    return MaskedSegment(length, past, mask)


def register_attention() -> None:
    """Make attention over segments known to transformers; plain passes of such a model use masks as sdpa
    does.
    """
    AttentionInterface.register(SEGMENTS, segment_attention)
    AttentionMaskInterface.register(SEGMENTS, sdpa_mask)


def segment_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    forest_segments: Sequence[Sequence[MaskedSegment]] | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention (B, H, L, D) -> (B, L, H, D) over the segments of a packed forest, without padding or a dense
    mask.

    What transformers calls for the attention named SEGMENTS, with the keywords of the model's call; without
    `forest_segments` (generation, plain passes) it is transformers' sdpa. Raises UserError for a model that
    caps its scores.
    """
    if forest_segments is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    if kwargs.get("softcap") is not None:
        raise UserError(
            "this model caps its attention scores, which attention over segments cannot; use a CUDA device"
        )
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    rows = []
    for b, segments in enumerate(forest_segments):
        rows.append(_attend_row(query, key, value, b, segments, dropout, scaling))
    return torch.cat(rows).transpose(1, 2).contiguous(), None


def _attend_row(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    b: int,
    segments: Sequence[MaskedSegment],
    dropout: float,
    scaling: float | None,
) -> torch.Tensor:
    """Row b of the batch, (1, H, L, D), a segment at a time; padding gets its own values."""
    attend = nn.functional.scaled_dot_product_attention
    sizes = [segment.length for segment in segments]
    sizes.append(query.shape[2] - sum(sizes))  # padding
    queries, keys, values = (x[b : b + 1].split(sizes, dim=2) for x in (query, key, value))
    parts = []
    for i, (_, past, mask) in enumerate(segments):
        seen_keys = _seen(keys, i, past)
        seen_values = _seen(values, i, past)
        options = {"attn_mask": mask, "dropout_p": dropout, "scale": scaling, "is_causal": mask is None}
        parts.append(attend(queries[i], seen_keys, seen_values, **options))
    padding = values[-1]
    if not segments:
        # an empty pack: queries and keys need gradients too, or FSDP2's ranks would reduce other parameters
        parts = [attend(queries[0], keys[0], values[0], scale=scaling, is_causal=True)]
        padding = values[0][:, :, :0]
    return torch.cat([*parts, padding], dim=2)


def _seen(parts: Sequence[torch.Tensor], i: int, past: tuple[tuple[int, int], ...]) -> torch.Tensor:
    """Keys or values that segment i attends to: those of its past, then its own."""
    if not past:
        return parts[i]
    return torch.cat([*(parts[j][:, :, :n] for j, n in past), parts[i]], dim=2)
