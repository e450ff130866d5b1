"""Tensors of a policy and its optimizer, from the memory of all ranks to files and back.

Contract: no rank gathers a sharded model. Every one writes the part that it holds, and reads its part into
the place where it stands; the number of ranks may differ between the two. All files are safetensors. All
ranks call these functions in the same order, but for `take_weights`, which is for the main rank alone.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file
from torch import nn
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import FSDPModule

import models

FULL = StateDictOptions(full_state_dict=True, cpu_offload=True)
FLAT = StateDictOptions(flatten_optimizer_state_dict=True)
# of a shard's files: safetensors makes the bytes of a whole file before it writes them
FILE_BYTES = 256 * 2**20
# one process needs none
warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")

# bitsandbytes keeps an 8-bit optimizer's state below this name, and in it codes, the same for all parameters
EIGHT_BIT, CODES = ".__bnb_optimizer_quant_state__", (".qmap1", ".qmap2")

Tensors = dict[str, torch.Tensor]


# --- in memory ----------------------------------------------------------------------------------------------


def weights_of(policy: nn.Module, whole: bool) -> Tensors:
    """The policy's weights by their names in a state dict, each once.

    whole: all of them on the CPU of the main rank, and none elsewhere; else what this rank holds.
    """
    if models.is_quantized(policy):
        named = [*policy.named_parameters(), *policy.persistent_buffers()]
        return _once(policy, {_state_name(n): models.whole(t).detach().cpu() for n, t in named})
    reshard(policy)
    return _once(policy, get_model_state_dict(policy, options=FULL if whole else None))


def _once(policy: nn.Module, weights: Tensors) -> Tensors:
    """The weights without the further names of tied parameters, which files hold once."""
    first: dict[int, str] = {}
    again: set[str] = set()
    for name, parameter in policy.named_parameters(remove_duplicate=False):
        name = _state_name(name)
        if first.setdefault(id(parameter), name) != name:
            again.add(name)
    return {name: value for name, value in weights.items() if name not in again}


def moments_of(policy: nn.Module, optimizer: torch.optim.Optimizer) -> Tensors:
    """What the optimizer keeps of each parameter, as this rank holds it."""
    if not optimizer.state:
        return {}  # torch would make a step of zeros to see the state of an optimizer that has none
    return _tensors(get_optimizer_state_dict(policy, optimizer, options=FLAT))


def copied(tensors: Tensors) -> Tensors:
    """The tensors as they are now, in the CPU's memory."""
    stager = DefaultStager(StagingOptions(False, False, False, False))
    try:
        return stager.stage(tensors)
    finally:
        stager.close()


def reshard(policy: nn.Module) -> None:
    """Bring FSDP2's root back to shards, as state dicts expect it.

    A forward without a backward (reference, validation) leaves it unsharded.
    """
    if isinstance(policy, FSDPModule):
        policy.reshard()


def _trained(policy: models.Scorer) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters under all their names in a state dict, without those of the frozen model below adapters; and
    the buffers that are weights.
    """
    for name, parameter in policy.named_parameters(remove_duplicate=False):
        if parameter.requires_grad:
            yield _state_name(name), parameter
    if policy.adapters is None:
        for name, buffer in policy.persistent_buffers():
            yield _state_name(name), buffer


def _state_name(name: str) -> str:
    """A parameter's name in a state dict: without those of wrappers."""
    return name.replace("_checkpoint_wrapped_module.", "").replace("_orig_mod.", "")


def _tensors(state: Mapping[str, Any]) -> Tensors:
    """What an optimizer keeps of each parameter, as this rank holds it; its settings are the config's."""
    return {n: value for n, value in state.items() if torch.is_tensor(value) and not n.endswith(CODES)}


# --- write --------------------------------------------------------------------------------------------------


def write(path: Path, tensors: Tensors, group: dist.ProcessGroup | None, join: bool = False) -> None:
    """Write every rank's part of the tensors into a folder.

    group: of the ranks (None: one process). join: the main rank then makes files of them that need no shards.
    """
    if not tensors:
        return
    ranks = 1 if group is None else dist.get_world_size(group)
    sizes = torch.tensor([t.numel() * t.element_size() for t in tensors.values()])  # bytes
    file_numbers = (sizes.cumsum(0) // (FILE_BYTES * ranks) + 1).tolist()
    file_of = dict(zip(tensors, file_numbers))
    writer = HuggingFaceStorageWriter(str(path), file_of, save_distributed=True, enable_consolidation=join)
    writer.sync_files = False  # all files of a checkpoint are brought to the disk when it is sealed
    dcp.save(tensors, storage_writer=writer, process_group=group, no_dist=ranks == 1)


def joined(path: Path) -> Tensors:
    """The joined weights of `weights/`, read from the disk as they are needed."""
    tensors: Tensors = {}
    for file in sorted((path / "weights").glob("model*.safetensors")):
        tensors |= load_file(file)
    return tensors


def take_weights(path: Path) -> None:
    """Move the joined files of `weights/` to where an HF folder has them, under the names it gives them."""
    files = sorted((path / "weights").glob("model*.safetensors"))
    if len(files) == 1:
        files[0].rename(path / "model.safetensors")
    elif files:
        for file in [*files, path / "weights" / "model.safetensors.index.json"]:
            file.rename(path / file.name)
    shutil.rmtree(path / "weights")


# --- read ---------------------------------------------------------------------------------------------------


def read_moments(
    path: Path, policy: nn.Module, optimizer: torch.optim.Optimizer, is_alone: bool
) -> tuple[dict[str, Any], set[str]]:
    """The optimizer's state dict with the tensors of a folder, each rank reading what it holds of them; and
    the names of the parameters that the folder has none for, since they never had a gradient.
    """
    reshard(policy)
    held = get_optimizer_state_dict(policy, optimizer, options=FLAT)
    reader = HuggingFaceStorageReader(str(path))
    stored = reader.read_metadata().state_dict_metadata
    tensors = _tensors(held)
    of_parameters = {name: _parameter_of(name) for name in tensors}
    known = {of_parameters[name] for name in tensors if name in stored}
    without = set(of_parameters.values()) - known
    wanted = {name: tensor for name, tensor in tensors.items() if of_parameters[name] in known}
    dcp.load(wanted, storage_reader=reader, no_dist=is_alone)
    return held, without


def _parameter_of(name: str) -> str:
    """state.model.norm.weight.exp_avg -> model.norm.weight"""
    return name.removeprefix("state.").rpartition(".")[0].removesuffix(EIGHT_BIT)


def set_moments(
    policy: nn.Module,
    optimizer: torch.optim.Optimizer,
    moments: dict[str, Any],
    without: Collection[str],
    step: int,
) -> None:
    """Give the optimizer what `read_moments` read of a run's state after `step` steps."""
    set_optimizer_state_dict(policy, optimizer, moments, options=FLAT)
    for held in optimizer.state.values():
        if isinstance(held.get("step"), int):  # an 8-bit optimizer's is no tensor, and so in no file
            held["step"] = step
    for name, parameter in policy.named_parameters():
        if _state_name(name) in without:
            optimizer.state.pop(parameter, None)


def read_weights(
    policy: models.Scorer, reader: HuggingFaceStorageReader, stored_names: Mapping[str, str], is_alone: bool
) -> None:
    """Read what is trained, each rank its own part, in place.

    stored_names: the name in the files of each parameter that they hold.
    """
    reshard(policy)
    tensors = {stored_names[n]: p.detach() for n, p in _trained(policy) if n in stored_names}
    dcp.load(tensors, storage_reader=reader, no_dist=is_alone)


def misfit(policy: models.Scorer, sizes: Mapping[str, torch.Size]) -> str | None:
    """The first trained parameter that is not among those sizes, or in another shape; None where all fit.

    One that is tied needs one of its names alone.
    """
    is_stored: dict[int, bool] = {}
    names: dict[int, str] = {}
    for name, parameter in _trained(policy):
        if name in sizes and sizes[name] != parameter.shape:
            return f"{name}: {tuple(sizes[name])} instead of {tuple(parameter.shape)}"
        key = id(parameter)
        is_stored[key] = is_stored.get(key, False) or name in sizes
        names[key] = name
    for key, name in names.items():
        if not is_stored[key]:
            return f"{name} is missing"
    return None
