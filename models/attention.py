"""The forest's predicate for each attention backend, and our own attention over segments.

Contract: a token sees what `forest.visible` allows and nothing else, whichever backend computes. Attention
over segments is for devices where flex_attention cannot train: it needs no dense mask and computes no
padding.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

import forest
from utils import UserError

SEGMENTS = "segments"  # our own attention, for devices where flex_attention cannot train
# keywords that models hand to their attention and that change nothing here, or are used below. Windows and
# positions are checked against the longest path before any pass.
KNOWN = {
    "cache_position",
    "dropout",
    "output_attentions",
    "output_hidden_states",
    "position_ids",
    "s_aux",
    "sliding_window",
    "softcap",
    "use_cache",
}


class MaskedSegment(NamedTuple):
    """A `forest.Segment` with its mask (length, past + length), which is None where plain causality does."""

    length: int
    past: tuple[tuple[int, int], ...]
    mask: torch.Tensor | None


class Extra(NamedTuple):
    """How a model attends beside its mask."""

    dropout: float
    scaling: float | None  # of the scores; None: 1 / sqrt(D)
    softcap: float | None  # scores become softcap * tanh(scores / softcap)
    sinks: torch.Tensor | None  # (H,) a score of every head that takes part in the softmax alone

    @property
    def is_plain(self) -> bool:
        """Can torch's attention do it?"""
        return self.softcap is None and self.sinks is None


class CachedPass(Protocol):
    """A pass that keeps keys and values, and attends to those that it kept: of generation."""

    def attend(
        self,
        layer: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        extra: Extra,
        window: int | None,
    ) -> torch.Tensor:
        """Attention (B, H, L, D) -> (B, H, L, D) of a layer, which sees `window` tokens back."""
        ...


def choose_attention(attention: str, device: torch.device) -> str:
    """auto is flex_attention on CUDA, sdpa on MPS, and segments on a CPU.

    Raises UserError for a backend that is unknown or does not run on this device.
    """
    if attention == "auto":
        return {"cuda": "flex_attention", "mps": "sdpa"}.get(device.type, SEGMENTS)
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
    scaling: float | None = None,
    forest_segments: Sequence[Sequence[MaskedSegment]] | None = None,
    cached_pass: CachedPass | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention (B, H, L, D) -> (B, L, H, D) over the segments of a packed forest, without padding or a dense
    mask.

    What transformers calls for the attention named SEGMENTS, with the keywords of the model's call; without
    `forest_segments` (plain passes) rows attend through `attention_mask` (None: causally), with a
    `cached_pass` to what it keeps. Raises UserError for a model that asks for something else than a scale, a
    cap of its scores and sinks.
    """
    _refuse_unknown(module, kwargs)
    extra = Extra(kwargs.get("dropout") or 0.0, scaling, kwargs.get("softcap"), kwargs.get("s_aux"))
    if cached_pass is not None:
        window = kwargs.get("sliding_window")
        compute = functools.partial(cached_pass.attend, module, extra=extra, window=window)
    elif forest_segments is not None:
        compute = functools.partial(_attend_rows, segments=forest_segments, extra=extra)
    elif extra.is_plain and _has_torchs(query.device):
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    else:
        compute = functools.partial(_attend_whole, mask=attention_mask, extra=extra)
    return _wide_on_cpu(compute, query, key, value).transpose(1, 2).contiguous(), None


def _wide_on_cpu(
    compute: Callable[..., torch.Tensor], query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> torch.Tensor:
    """What `compute` makes of query, key and value, on a CPU in fp32 whatever the passes' dtype is.

    There the backward pass of torch's attention takes several times as long in bf16, and small products gain
    less from bf16 than the casts cost.
    """
    if query.device.type != "cpu":
        return compute(query, key, value)
    with torch.autocast("cpu", enabled=False):
        return compute(query.float(), key.float(), value.float()).to(value.dtype)


def _refuse_unknown(module: nn.Module, kwargs: Mapping[str, Any]) -> None:
    """Raises UserError where the model hands its attention something that would be left out."""
    for name, value in kwargs.items():
        known = name in KNOWN or (name == "is_causal" and value)
        if not known and value is not None and value is not False:
            raise UserError(
                f"model {type(module).__name__}: its attention asks for {name}, which attention={SEGMENTS} "
                "does not know; set attention=sdpa, or flex_attention on a CUDA device, or use another model"
            )


def _has_torchs(device: torch.device) -> bool:
    """Is torch's attention used on this device? On MPS plain products are: its kernels for causal attention
    and for few queries were wrong in several versions, without an error.
    """
    return device.type != "mps"


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, extra: Extra
) -> torch.Tensor:
    """Attention (B, H, Q, D) of the last Q of K positions, through a mask or causally where there is none."""
    if extra.is_plain and _has_torchs(query.device):
        options = {"attn_mask": mask, "dropout_p": extra.dropout, "scale": extra.scaling}
        attend = nn.functional.scaled_dot_product_attention
        return attend(query, key, value, is_causal=mask is None, **options)
    scale = query.shape[-1] ** -0.5 if extra.scaling is None else extra.scaling
    scores = query @ key.transpose(2, 3) * scale
    if extra.softcap is not None:
        scores = extra.softcap * torch.tanh(scores / extra.softcap)
    if mask is None:
        q, k = scores.shape[2:]
        mask = torch.ones(q, k, dtype=torch.bool, device=query.device).tril(k - q)
    if mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    else:
        scores = scores + mask
    if extra.sinks is not None:  # a score more for every head, which no value answers to
        sinks = extra.sinks.view(1, -1, 1, 1).to(scores.dtype).expand(*scores.shape[:3], 1)
        scores = torch.cat([scores, sinks], dim=3)
    weights = scores.softmax(3, dtype=torch.float32).to(query.dtype)[..., : key.shape[2]]
    return nn.functional.dropout(weights, extra.dropout) @ value


def _attend_whole(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, extra: Extra
) -> torch.Tensor:
    """Every row over all of its positions, (B, H, L, D)."""
    key, value = _for_all_heads(query, key, value)
    return attend(query, key, value, mask, extra)


def _attend_rows(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    segments: Sequence[Sequence[MaskedSegment]],
    extra: Extra,
) -> torch.Tensor:
    """Every row over its own segments, (B, H, L, D)."""
    key, value = _for_all_heads(query, key, value)
    return torch.cat([_attend_row(query, key, value, b, row, extra) for b, row in enumerate(segments)])


def _for_all_heads(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values with as many heads as the query."""
    groups = query.shape[1] // key.shape[1]
    return (repeat_kv(key, groups), repeat_kv(value, groups)) if groups > 1 else (key, value)


def _attend_row(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    b: int,
    segments: Sequence[MaskedSegment],
    extra: Extra,
) -> torch.Tensor:
    """Row b of the batch, (1, H, L, D), a segment at a time; padding gets its own values."""
    sizes = [segment.length for segment in segments]
    sizes.append(query.shape[2] - sum(sizes))  # padding
    queries, keys, values = (x[b : b + 1].split(sizes, dim=2) for x in (query, key, value))
    parts = []
    for i, (_, past, mask) in enumerate(segments):
        seen_keys = _seen(keys, i, past)
        seen_values = _seen(values, i, past)
        parts.append(attend(queries[i], seen_keys, seen_values, mask, extra))
    padding = values[-1]
    if not segments:
        # an empty pack: queries and keys need gradients too, or FSDP2's ranks would reduce other parameters
        parts = [attend(queries[0], keys[0], values[0], None, extra)]
        padding = values[0][:, :, :0]
    return torch.cat([*parts, padding], dim=2)


def _seen(parts: Sequence[torch.Tensor], i: int, past: tuple[tuple[int, int], ...]) -> torch.Tensor:
    """Keys or values that segment i attends to: those of its past, then its own."""
    if not past:
        return parts[i]
    seen = [parts[j] if n == parts[j].shape[2] else parts[j][:, :, :n] for j, n in past]
    return torch.cat([*seen, parts[i]], dim=2)
