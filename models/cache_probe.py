"""May a model's keys and values be kept in our tables? A probe of its numbers, once for each model.

Contract: a model for which the answer is no is sampled in another way, never wrongly.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch.distributed.fsdp import FSDPModule

import forest
from models.attention import SEGMENTS, register_attention
from models.checks import ROUNDING, own_attention, windows_of
from models.errors import first_line
from models.key_values import PromptPass, StepPass, Table, Widths, group_rows
from models.scorer import CacheProbe, Scorer, device_of
from utils import UserError

TOKENS = 12  # of the probe's text
ENDS = (4, 9)  # of two prompts that begin it; STEPS tokens more are read one by one
STEPS = 3
# the part of the logits' spread by which two passes in bf16 may differ: each is off by about 0.1 of it
ROUNDING_OF_BF16 = 0.25
# positions whose scale depends on the longest row of a pass: a row's logits then depend on the others'
CHANGING_POSITIONS = ("dynamic", "longrope")


def obstacle(policy: Scorer, prompt: forest.Ids, pad_id: int, longest: int) -> str:
    """Why the policy's keys and values cannot be kept in our tables; empty where they can.

    prompt: what the probe reads, any text; longest: tokens of a prompt with its response. A call for all
    ranks where the policy is sharded.
    """
    if policy.cache_probe is None:
        text = [*prompt, pad_id] * TOKENS
        policy.cache_probe = _agreed(_probe(policy, text[:TOKENS]), policy)
    problem, limit = policy.cache_probe
    if not problem and limit is not None and longest > limit:
        return f"its layers or positions change beyond {limit} tokens, and its longest row may have {longest}"
    return problem


def _agreed(probe: CacheProbe, policy: Scorer) -> CacheProbe:
    """One answer for all ranks that share the model: the first problem that any of them has."""
    if not isinstance(policy, FSDPModule):
        return probe
    probes: list[CacheProbe] = [probe] * dist.get_world_size()
    dist.all_gather_object(probes, probe)
    return next((each for each in probes if each.problem), probe)


def _probe(policy: Scorer, text: Sequence[int]) -> CacheProbe:
    """Read two beginnings of a text into the tables, then some tokens one by one; compare the logits with
    those of a plain pass, by the model's own attention.
    """
    ids = torch.tensor([text], device=device_of(policy))
    try:
        with _no_casts(policy):
            with own_attention(policy):
                plain = policy(ids)[0].float()  # (TOKENS, V)
            with segments_attention(policy):
                kept, windows = _by_tables(policy, ids[0])
    except UserError as error:
        return CacheProbe(str(error), None)
    except Exception as error:  # a model's code fails in its own ways on what it cannot take
        return CacheProbe(f"it cannot read with kept keys and values ({first_line(error)})", None)
    places = torch.tensor([[end + step - 1 for end in ENDS] for step in range(STEPS + 1)])
    difference = (kept - plain[places.to(plain.device)]).square().mean(-1).sqrt()
    spread = plain.var(-1).mean().sqrt()
    is_exact = next(policy.parameters()).dtype == torch.float32 and not isinstance(policy, FSDPModule)
    tolerance = ROUNDING if is_exact else ROUNDING_OF_BF16
    if not (difference <= tolerance * spread).all():  # not a number fails too
        worst = (difference.max() / spread).item()
        return CacheProbe(
            f"its logits differ where keys and values are kept ({worst:.1e} of their spread)", None
        )
    return CacheProbe("", _limit(policy, windows))


@contextmanager
def _no_casts(policy: Scorer) -> Iterator[None]:
    """Passes in the weights' own precision, in which rounding hides less."""
    casts, policy.casts = policy.casts, policy.casts and isinstance(policy, FSDPModule)
    try:
        yield
    finally:
        policy.casts = casts


def _by_tables(policy: Scorer, text: torch.Tensor) -> tuple[torch.Tensor, list[int | None]]:
    """The logits (STEPS + 1, 2, V) behind both beginnings and behind each further token; the window of every
    layer.
    """
    device = text.device
    prompts, new = Table(), Table()
    prompts.reserve(2, max(ENDS), 2, max(ENDS))
    new.reserve(2, STEPS, 2, STEPS)
    lengths = torch.tensor(ENDS, device=device)
    width = torch.arange(max(ENDS), device=device)
    both = text[None, : max(ENDS)].expand(2, -1)
    reading = PromptPass(prompts, torch.arange(2, device=device))
    logits = [policy.next_logits(both, width.expand(2, -1), lengths - 1, reading)]
    groups = group_rows([0, 1], 2, device)
    for step in range(STEPS):
        counts = torch.full_like(lengths, step)
        here = (lengths + step)[:, None]
        of_step = StepPass(prompts, new, groups, lengths, counts, Widths(max(ENDS), step + 1))
        logits.append(policy.next_logits(text[here], here, counts * 0, of_step))
    return torch.stack(logits), reading.windows


def _limit(policy: Scorer, windows: Sequence[int | None]) -> int | None:
    """Up to how many tokens a row layers see, and positions mean, what they do in a plain pass."""
    config = policy.model.config.get_text_config()
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"] * len(windows)
    limits = []
    for does, limit in windows_of(policy).items():
        layers = kinds.count("sliding_attention") if "sliding" in does else -1
        if limit and len(windows) - windows.count(None) != layers:  # not asked of our attention
            limits.append(limit)
    scaling = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    if scaling.get("rope_type") in CHANGING_POSITIONS:
        limits.append(scaling.get("original_max_position_embeddings") or config.max_position_embeddings)
    return min(limits, default=None)


@contextmanager
def segments_attention(policy: Scorer) -> Iterator[None]:
    """The policy with attention over segments, which the tables of `models.key_values` are for."""
    register_attention()
    model = policy.model
    before = model.config._attn_implementation
    changes = before != SEGMENTS and model._can_set_attn_implementation()
    if changes:
        model.set_attn_implementation(SEGMENTS)
    try:
        yield
    finally:
        if changes:
            model.set_attn_implementation(before)
