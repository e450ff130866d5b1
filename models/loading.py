"""Read models and tokenizers: from HF folders, the hub, embedded packages and `policy.pt` files.

Contract: what cannot be loaded is a UserError of one line with its remedy; nothing in a file is executed,
unless trust_remote_code says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
import transformers
from torch import nn
from torch.distributed.fsdp import FSDPModule
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from models.attention import SEGMENTS, choose_attention, register_attention
from models.checks import check_layers
from models.embedded import EMBEDDED, resolve_name
from models.errors import first_line
from models.quantized import evaluate, forget_quantization, quantization_of
from models.scorer import Scorer, Tensors
from models.spec import PolicySpec
from models.weights import (
    StoredTensor,
    keeps_names,
    local_part,
    materialise,
    open_safetensors,
    refuse_strangers,
    weight_files,
)
from network import prepare_for_hub
from ranks import World, on_main
from utils import UserError

ATTENTIONS = (SEGMENTS, "sdpa", "flex_attention")  # by the names that transformers gets for them


def load_policy(spec: PolicySpec, device: torch.device, empty: bool = False) -> Scorer:
    """Load a causal language model as a `Scorer` in eval mode (dropout off, as in both papers).

    empty: read no weights; parameters take no memory until `shard` places them and `load_weights` fills them.
    What a spec applies from outside is not applied here: `making.make_policy` does. Raises UserError for what
    cannot be loaded.
    """
    transformers_logging.disable_progress_bar()  # ours is the one that moves
    attention = choose_attention(spec.attention, device)
    register_attention()
    source = resolve_name(spec.model_name)
    prepare_for_hub(source)
    with _loading(source):
        model = (
            _empty_model(source, spec, attention) if empty else _whole_model(source, spec, attention, device)
        )
    if spec.archive_file and not empty:
        load_archive(model, spec.archive_file)
    check_layers(model, source)
    compute = getattr(torch, spec.dtype if spec.dtype != "float32" else spec.compute_dtype)
    policy = Scorer(evaluate(model), attention, compute)
    if empty:
        return policy
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if device.type == "cpu" and type(embedding) is nn.Embedding and embedding.weight is head.weight:
        # its gradient is added to the head's row by row, without a matrix of zeros of its own
        embedding.sparse = True
    return policy.to(device)


@contextmanager
def _loading(source: str) -> Iterator[None]:
    """Raises UserError for whatever goes wrong: what a folder holds can be damaged in any way."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, KeyError) and error.args[0] in ATTENTIONS:
            raise UserError(
                f"model {source}: transformers {transformers.__version__} has one fixed attention for it; "
                "install a newer transformers, or take another model"
            ) from error
        remedy = f"give an HF folder, a hub name or {EMBEDDED}smollm2-135m-instruct"
        raise UserError(f"model {source}: cannot be loaded ({first_line(error)}); {remedy}") from error


def _whole_model(source: str, spec: PolicySpec, attention: str, device: torch.device) -> nn.Module:
    """The model with its weights. Raises UserError where some are not there: they would be made up."""
    in_4_bits = spec.lora is not None and spec.lora.quantize is not None
    extra = {"quantization_config": quantization_of(spec), "device_map": {"": device}} if in_4_bits else {}
    model, info = AutoModelForCausalLM.from_pretrained(
        source,
        dtype=getattr(torch, spec.dtype),
        attn_implementation=attention,
        trust_remote_code=spec.trust_remote_code,
        output_loading_info=True,
        **extra,
    )
    refuse_strangers(source, info["missing_keys"], info["unexpected_keys"])
    if in_4_bits:
        forget_quantization(model)
    return model


def _empty_model(source: str, spec: PolicySpec, attention: str) -> nn.Module:
    """The model of a config, parameters on the meta device; buffers (rotary frequencies, masks) are real."""
    from accelerate import init_empty_weights

    config = AutoConfig.from_pretrained(source, trust_remote_code=spec.trust_remote_code)
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(
            config,
            dtype=getattr(torch, spec.dtype),
            attn_implementation=attention,
            trust_remote_code=spec.trust_remote_code,
        )
    model.tie_weights()
    try:
        model.generation_config = GenerationConfig.from_pretrained(source)
    except OSError:
        pass  # most models have none of their own
    return model


def load_weights(policy: Scorer, spec: PolicySpec, world: World) -> None:
    """Fill an empty, sharded policy: every rank reads its own rows of each tensor from the safetensors files.

    No rank ever holds the whole model. Where there are no such files, or their names are not the module's,
    rank 0 loads the model as `load_policy` does and sends it tensor by tensor. Raises UserError for what
    cannot be loaded.
    """
    materialise(policy, world.device)
    source = resolve_name(spec.model_name)
    wanted = policy.named_weights()
    stored = {} if spec.archive_file or not keeps_names(policy.model, wanted) else weight_files(source)
    with torch.no_grad():
        if all(name in stored and stored[name].shape == tuple(w.shape) for name, w in wanted.items()):
            tied = set(policy.model.state_dict()) - set(wanted)
            refuse_strangers(source, (), set(stored) - set(wanted) - tied)
            _read_own_rows(wanted, stored)
        else:
            _receive_from_main(wanted, spec, world)


def _read_own_rows(wanted: Tensors, stored: dict[str, StoredTensor]) -> None:
    for name, weight in wanted.items():
        local, first = local_part(weight)
        # opened for each tensor: what a mapping has read counts as memory in use
        with open_safetensors(stored[name].path) as file:
            if local.dim():
                local.copy_(file.get_slice(name)[first : first + len(local)])
            else:
                local.copy_(file.get_tensor(name))


def load_folder(policy: Scorer, folder: Path, world: World) -> None:
    """Fill a policy with what transformers saved of such a model, in the names that it gave the tensors.

    The main rank reads the whole model. Raises UserError, on all ranks, where it is another one.
    """
    if isinstance(policy, FSDPModule):
        policy.reshard()  # a pass leaves the root's weights gathered, and those are not kept
    wanted = policy.named_weights()
    state: Tensors = {}
    on_main(world, lambda: state.update(_weights_in(policy, folder, wanted)))
    with torch.no_grad():
        _send(wanted, state, world)


def _weights_in(policy: Scorer, folder: Path, wanted: Tensors) -> Tensors:
    """The wanted weights of a folder on the CPU, by their names in the module."""
    dtype = next(iter(wanted.values())).dtype
    with _loading(str(folder)):
        kind = type(policy.model)
        model, info = kind.from_pretrained(folder, dtype=dtype, output_loading_info=True)
        refuse_strangers(str(folder), info["missing_keys"], info["unexpected_keys"])
    return _these(wanted, Scorer(model, SEGMENTS), str(folder))


def _receive_from_main(wanted: Tensors, spec: PolicySpec, world: World) -> None:
    """The main rank loads the whole model on its CPU and sends every tensor to all; each keeps its rows."""
    state: Tensors = {}
    on_main(world, lambda: state.update(_whole_weights(wanted, spec)))
    _send(wanted, state, world)


def _whole_weights(wanted: Tensors, spec: PolicySpec) -> Tensors:
    """The wanted weights of a spec's model on the CPU, by their names in the module."""
    dtype = str(next(iter(wanted.values())).dtype).removeprefix("torch.")
    whole_spec = spec._replace(dtype=dtype, compute_dtype="float32", attention=SEGMENTS)
    return _these(wanted, load_policy(whole_spec, torch.device("cpu")), spec.model_name)


def _these(wanted: Tensors, whole: Scorer, source: str) -> Tensors:
    """The wanted weights of a whole model. Raises UserError where it is another one."""
    held = whole.named_weights()
    for name, weight in wanted.items():
        if name not in held or held[name].shape != weight.shape:
            raise UserError(
                f"model {source}: holds the weights of another model ({name} of shape {tuple(weight.shape)} "
                "is not there); give the model that they belong to"
            )
    return held


def _send(wanted: Tensors, state: Tensors, world: World) -> None:
    """Every tensor of the main rank's state to all ranks, into what each of them holds of it."""
    for name, weight in wanted.items():
        if world.is_main:
            whole = state[name].detach().to(world.device, weight.dtype)
        else:
            whole = torch.empty(weight.shape, dtype=weight.dtype, device=world.device)
        if world.size > 1:
            dist.broadcast(whole, src=0)
        local, first = local_part(weight)
        local.copy_(whole[first : first + len(local)] if local.dim() else whole)


def load_archive(model: nn.Module, path: Path) -> None:
    """Load the weights of a `policy.pt` into `model`; tensors only, nothing in the file is executed.

    Raises UserError where the file holds anything else or the tensors are not the model's.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types here, all of which mean: not a file of plain tensors
        reason = first_line(error).split(". ")[0]  # what follows tells how to read it without this guard
        problem = f"not a checkpoint of plain tensors ({reason})"
        raise UserError(f"{path}: {problem}; give a policy.pt or an HF folder") from error
    state = state.get("state", state) if isinstance(state, dict) else {}
    own = model.state_dict()
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    for name, tensor in own.items():
        if name in tied and name not in state:
            continue
        if name not in state or state[name].shape != tensor.shape:
            raise UserError(
                f"{path}: tensor {name} is missing or has another shape; "
                "set model.name_or_path to the model it was trained from"
            )
    refuse_strangers(str(path), (), set(state) - set(own))
    model.load_state_dict(state, strict=False)


def load_tokenizer(name_or_path: str, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Load a tokenizer; where it has no padding token, the end-of-sequence token pads: padding is never read.

    Raises UserError for one that cannot be loaded or has no end-of-sequence token.
    """
    source = resolve_name(name_or_path)
    prepare_for_hub(source)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, ImportError, KeyError) as error:
        problem = f"cannot be loaded ({first_line(error)})"
        remedy = "set model.tokenizer_name_or_path"
        if not Path(source).exists():
            remedy = f"no folder {source} is here; correct the name, or {remedy}"
        raise UserError(f"tokenizer {source}: {problem}; {remedy}") from error
    if tokenizer.eos_token_id is None:
        problem = "has no end-of-sequence token"
        raise UserError(f"tokenizer {source}: {problem}; set model.tokenizer_name_or_path to one that has")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
