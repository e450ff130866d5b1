"""Sampling by transformers' own `generate`, for models whose keys and values are not kept in our tables.

Contract: the same sample as by our own batches, since a logits processor makes the same draws; only slower.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.fsdp import FSDPModule
from transformers import GenerationConfig, LogitsProcessor

from models.attention import SEGMENTS
from models.draws import NOT_FINITE, OnEnd, Request, Sampling, choose, longest_first, uniforms
from models.scorer import Scorer, device_of
from utils import UserError


class Draws(LogitsProcessor):
    """Leaves one token a row, the one that its number picks: greedy search then takes it."""

    def __init__(self, numbers: torch.Tensor, temperature: float):
        self.numbers = numbers  # (n, max_new_tokens), on the CPU
        self.temperature = temperature
        self.step = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        step = min(self.step, self.numbers.shape[1] - 1)  # further steps are made for other ranks
        token = choose(scores.float(), self.numbers[:, step], self.temperature)
        if (token == NOT_FINITE).any():
            raise UserError("model: its logits are not finite, so nothing can be sampled; use another one")
        self.step += 1
        chosen = token[:, None].to(scores.device)
        return torch.full_like(scores, -torch.inf).scatter(1, chosen, 0.0)


def sample_by_transformers(
    policy: Scorer,
    requests: Sequence[Request],
    sampling: Sampling,
    seed: int,
    batch_size: int,
    on_end: OnEnd,
) -> None:
    """As `Batching(...).run()`. Ranks of a sharded model call it alike."""
    ordered = longest_first(requests)
    batches = [ordered[first : first + batch_size] for first in range(0, len(ordered), batch_size)]
    idle = [Request(-1, (sampling.pad_id,), 0)]
    with _generating(policy, sampling):
        for turn in range(_num_turns(policy, len(batches))):
            batch = batches[turn] if turn < len(batches) else idle
            responses = _continue(policy, batch, sampling, seed)
            for request, ids in zip(batch, responses):
                if request.index >= 0:
                    kept = _until_end(ids, sampling.stop_ids)
                    on_end(request.index, kept, "stop" if len(kept) < len(ids) else "length")


def _num_turns(policy: Scorer, batches: int) -> int:
    """The most batches of any rank that shares the model."""
    if not isinstance(policy, FSDPModule):
        return batches
    most = torch.tensor(batches, device=device_of(policy))
    dist.all_reduce(most, dist.ReduceOp.MAX)
    return int(most)


def _continue(policy: Scorer, batch: Sequence[Request], sampling: Sampling, seed: int) -> list[list[int]]:
    """The new ids of every request, padding behind their ends included."""
    device = device_of(policy)
    width = max(len(request.prompt) for request in batch)
    gaps = [width - len(request.prompt) for request in batch]
    ids = [[sampling.pad_id] * gap + list(request.prompt) for gap, request in zip(gaps, batch)]
    mask = [[0] * gap + [1] * (width - gap) for gap in gaps]
    numbers = [uniforms(seed, r.prompt, r.number, sampling.max_new_tokens) for r in batch]
    draws = Draws(torch.from_numpy(np.stack(numbers)), sampling.temperature)
    out = policy.generate(
        input_ids=torch.tensor(ids, device=device),
        attention_mask=torch.tensor(mask, device=device),
        logits_processor=[draws],
        use_cache=True,
        synced_gpus=isinstance(policy, FSDPModule),
    )
    return out[:, width : width + sampling.max_new_tokens].tolist()


def _until_end(ids: list[int], ends: Sequence[int]) -> list[int]:
    """The ids before the first that ends a response."""
    first = next((i for i, token in enumerate(ids) if token in ends), len(ids))
    return ids[:first]


@contextmanager
def _generating(policy: Scorer, sampling: Sampling) -> Iterator[None]:
    """The model with settings that leave its distribution as it is, and none of its own. Attention over
    segments takes the place of flex_attention: a step of one token has no use for block masks.
    """
    model = policy.model
    own = model.generation_config
    model.generation_config = GenerationConfig(
        max_new_tokens=sampling.max_new_tokens,
        pad_token_id=sampling.pad_id,
        eos_token_id=list(sampling.stop_ids),
        do_sample=False,
    )
    if policy.attention == "flex_attention":
        model.set_attn_implementation(SEGMENTS)
    try:
        yield
    finally:
        model.generation_config = own
        if policy.attention == "flex_attention":
            model.set_attn_implementation(policy.attention)
