"""Ask the policy: score a packed forest, read class probabilities, the next token's logits.

Contract: `score(policy, batch)` gives the tables that losses see. The policy is a `Scorer`, whose forward
takes a packed forest and returns one log-prob a read, so full logits never exist and FSDP2 sees one call of
the root module.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

import forest
from losses import Scores
from models.attention import SEGMENTS, CachedPass, attention_mask, segment_masks
from models.head import Reads, logit_shape, read_log_probs

if TYPE_CHECKING:
    from peft import LoraConfig

PROMPTS_AT_ONCE = 16  # whose class probabilities are read in one pass

Tensors = dict[str, torch.Tensor]


class CacheProbe(NamedTuple):
    """May a model's keys and values be kept in the tables of `models.key_values`?"""

    problem: str  # why not; empty: they may
    limit: int | None  # up to how many tokens a row; None: any number


class Scorer(nn.Module):
    """A causal language model whose forward reads log-probs off a packed forest.

    `forward(input_ids, position_ids, end, positions, reads, segments)` returns (M,) log-probs in nats, fp32;
    `forward(input_ids)` the logits (B, L, V) of a plain causal pass.
    Under FSDP2 only this module's own methods may be called.
    """

    # where passes run; None: where the weights are. Offloaded weights rest on the CPU
    device: torch.device | None = None
    active_parameters: int | None = None  # of the blocks, that a token passes; counted once
    cache_probe: CacheProbe | None = None  # None: not probed yet
    adapters: LoraConfig | None = None  # where only adapters are trained
    merge: Callable[[Tensors], Tensors] | None = None  # a full state dict's weights, adapters added to them

    def __init__(self, model: nn.Module, attention: str, compute_dtype: torch.dtype = torch.float32):
        super().__init__()
        self.model = model
        self.attention = attention
        self.compute_dtype = compute_dtype
        self.logit_shape = logit_shape(model.config.get_text_config())
        self.casts = compute_dtype != torch.float32  # False where FSDP2 hands out weights in compute_dtype

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor | None = None,
        end: torch.Tensor | None = None,
        positions: torch.Tensor | None = None,
        reads: Reads | None = None,
        segments: Sequence[Sequence[forest.Segment]] | None = None,
    ) -> torch.Tensor:
        """Log-probs of the reads, or plain logits where nothing is to be read."""
        with torch.autocast(input_ids.device.type, self.compute_dtype, enabled=self.casts):
            if reads is None:
                return self.model(input_ids=input_ids, use_cache=False).logits
            extra = {}
            if self.attention == SEGMENTS:
                extra["forest_segments"] = segment_masks(segments, input_ids.device)
            hidden = self.model.base_model(
                input_ids=input_ids,
                position_ids=position_ids,
                attention_mask=attention_mask(end, self.attention),
                use_cache=False,
                **extra,
            ).last_hidden_state
            hidden = hidden.flatten(0, 1)[positions]  # (R, d)
            return read_log_probs(self.model.get_output_embeddings(), hidden, reads, self.logit_shape)

    def next_logits(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        last: torch.Tensor,
        cached_pass: CachedPass,
    ) -> torch.Tensor:
        """The logits (n, V), fp32, of the token after place `last` (n,) of every row (n, L).

        The pass keeps keys and values, and says what rows see; attention must be SEGMENTS.
        """
        with torch.autocast(input_ids.device.type, self.compute_dtype, enabled=self.casts):
            hidden = self.model.base_model(
                input_ids=input_ids,
                position_ids=position_ids,
                attention_mask=attention_mask(input_ids, SEGMENTS),
                use_cache=False,
                cached_pass=cached_pass,
            ).last_hidden_state
            hidden = hidden[torch.arange(len(hidden), device=hidden.device), last]
            return self.logit_shape.of(self.model.get_output_embeddings()(hidden))

    def casting_once(self) -> torch.autocast:
        """Around several passes with the same weights: they are cast to compute_dtype once for all of them.

        An outermost autocast, even one that is off, holds what those inside have cast of parameters that ask
        for gradients. It also holds whether gradients flow through that: passes with and without them must
        not share one.
        """
        return torch.autocast(device_of(self).type, enabled=False)

    def generate(self, **settings: Any) -> torch.Tensor:
        """transformers' `generate` of the model."""
        return self.model.generate(**settings)

    def named_weights(self) -> Tensors:
        """Parameters and persistent buffers by their names in the module, without those of adapters."""
        named = [*self.named_parameters(), *self.persistent_buffers()]
        return {plain_name(name): tensor for name, tensor in named if "lora_" not in name}

    def persistent_buffers(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Buffers that are weights: a state dict holds them."""
        for prefix, module in self.named_modules():
            for name, buffer in module._buffers.items():
                if buffer is not None and name not in module._non_persistent_buffers_set:
                    yield f"{prefix}.{name}", buffer

    def export(self, state: Tensors) -> tuple[Tensors, Tensors]:
        """A full state dict as two: the model's own, adapters merged into it; and the adapters in peft's
        names.
        """
        adapters = {_peft_name(name): value for name, value in state.items() if "lora_" in name}
        merged = {plain_name(name): value for name, value in state.items() if "lora_" not in name}
        if self.merge is not None and merged:
            merged |= self.merge(state)
        return merged, adapters

    def exported(self, folder: Path) -> tuple[Path, Callable[[str], str]]:
        """Where a checkpoint folder keeps what is trained, and the name here of a tensor in its files."""
        if self.adapters is None:
            return folder, "model.{}".format
        return folder / "adapter", _adapter_name


def _peft_name(name: str) -> str:
    """The name in peft's files of an adapter's tensor that has this name in a `Scorer`."""
    return "base_model." + re.sub(r"\.default(?=\.|$)", "", name)


def _adapter_name(name: str) -> str:
    """The name in a `Scorer` of an adapter's tensor that has this name in peft's files."""
    return re.sub(r"(lora_[A-Za-z_]+)", r"\1.default", name.removeprefix("base_model."))


def plain_name(name: str) -> str:
    """A parameter's name in the model's files: without those of wrappers around the model or its modules."""
    for wrapper in ("_checkpoint_wrapped_module.", "_orig_mod.", "base_layer."):
        name = name.replace(wrapper, "")
    return name.removeprefix("model.")


def device_of(policy: Scorer) -> torch.device:
    """Where the policy's passes run."""
    return policy.device or next(policy.parameters()).device


def score(policy: Callable[..., torch.Tensor], batch: forest.ForestBatch) -> Scores:
    """Score a packed forest: log-probs of answers (N, K), classes (N, C) and beliefs (N,), as sums in nats.

    policy: a `Scorer`, or what has its forward.
    """
    logps = token_logps(policy, batch)
    spans = logps.new_zeros(batch.num_spans + 1).index_add(0, batch.owner, logps)  # the last: class reads
    has_classes = batch.class_probs.shape[1] > 0
    return Scores(
        policy=spans[batch.span].masked_fill(~batch.valid, 0.0),
        reference=batch.reference,
        length=batch.length,
        reward=batch.reward,
        deviation=batch.deviation,
        valid=batch.valid,
        class_logps=logps[batch.class_read] if has_classes else None,
        class_probs=batch.class_probs if has_classes else None,
        belief_logp=spans[batch.belief_span].masked_fill(batch.belief_length == 0, 0.0),
        belief_length=batch.belief_length,
    )


def token_logps(policy: Callable[..., torch.Tensor], batch: forest.ForestBatch) -> torch.Tensor:
    """The log-probs (M,) of all that is read off a packed forest, in nats; `batch.owner` has their spans."""
    reads = Reads(batch.source, batch.target, batch.read_starts)
    rows = (batch.input_ids, batch.position_ids, batch.end)
    return policy(*rows, batch.positions, reads, batch.segments)


@torch.no_grad()
def class_distributions(
    policy: Scorer, prompts: Sequence[forest.Ids], class_ids: forest.Ids, pad_id: int
) -> torch.Tensor:
    """q (prompts, C): the belief classes' probabilities over the full vocabulary at the last prompt token."""
    device = device_of(policy)
    classes = {"class_ids": class_ids, "class_probs": (0.0,) * len(class_ids)}
    trees = [forest.TokenTree(prompt, (), ((class_ids[0],),), **classes) for prompt in prompts]
    probabilities = []
    for first in range(0, len(trees), PROMPTS_AT_ONCE):
        rows = [[i] for i in range(first, min(first + PROMPTS_AT_ONCE, len(trees)))]
        scores = score(policy, forest.pack(trees, rows, pad_id).to(device))
        probabilities.append(scores.class_logps.exp().cpu())
    return torch.cat(probabilities)


def versions() -> dict[str, str]:
    """Versions of what computes, for a report's settings."""
    return {name: importlib.metadata.version(name) for name in ("torch", "transformers")}
