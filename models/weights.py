"""The weights of a policy, tensor by tensor: in safetensors files, in memory, and as one hash.

Contract: a rank touches its own rows alone, so no rank ever holds the whole of a sharded model.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.distributed.tensor import DTensor
from transformers.core_model_loading import revert_weight_conversion

from models.errors import first_line
from models.quantized import whole
from models.scorer import Scorer
from utils import UserError

OLD_BUFFERS = re.compile(r"(rotary_emb\.inv_freq|attn\.bias|attention\.bias|masked_bias|position_ids)$")


class StoredTensor(NamedTuple):
    """A tensor in a safetensors file."""

    path: Path
    shape: tuple[int, ...]


def weight_files(source: str) -> dict[str, StoredTensor]:
    """The tensors of an HF folder or hub name by their names; empty where it has no safetensors files.

    Raises UserError where a file cannot be fetched or read.
    """
    folder = Path(source)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        try:
            folder = Path(snapshot_download(source, allow_patterns=["*.safetensors", "*.json"]))
        except (OSError, ValueError) as error:
            raise UserError(
                f"model {source}: its weights cannot be fetched ({first_line(error)}); give an HF folder"
            ) from error
    stored = {}
    for path in sorted(folder.glob("model*.safetensors")):
        with open_safetensors(path) as file:
            for name in file.keys():
                stored[name] = StoredTensor(path, tuple(file.get_slice(name).get_shape()))
    return stored


def refuse_strangers(source: str, missing: Collection[str], unexpected: Collection[str]) -> None:
    """Raises UserError where files lack tensors of the model, or hold others: they are of another one.

    Buffers that older versions of transformers saved are no weights.
    """
    foreign = sorted(name for name in unexpected if not OLD_BUFFERS.search(name))
    for what, names in (("lacks", sorted(missing)), ("also holds", foreign)):
        if names:
            others = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise UserError(
                f"model {source}: {what} tensor {names[0]}{others}, so its weights are not those of its "
                "config's architecture; fetch or save the model again, or correct config.json"
            )


def keeps_names(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> bool:
    """Do a model's files hold its weights as they stand in the module, under the same names?

    transformers renames those of some families, and splits what it keeps fused, as it saves them. weights: by
    their names in the module.
    """
    empty = {}
    for name, weight in weights.items():
        empty[name] = torch.empty(weight.shape, dtype=weight.dtype, device="meta")
    written = revert_weight_conversion(model, dict(empty))
    return written.keys() == empty.keys() and all(written[name] is empty[name] for name in empty)


def open_safetensors(path: Path) -> safe_open:
    """The file, open to read from. Raises UserError where it is damaged."""
    try:
        return safe_open(path, "pt")
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path}: cannot be read ({first_line(error)}); fetch or save the model again"
        ) from error


def local_part(parameter: torch.Tensor) -> tuple[torch.Tensor, int]:
    """This rank's rows of a parameter, as a view of them, and the number of its first row."""
    parameter = parameter.detach()
    if not isinstance(parameter, DTensor):
        return parameter, 0
    mesh = parameter.device_mesh  # its last dimension shards
    rows = -(-parameter.shape[0] // mesh.size(-1))
    return parameter.to_local(), min(mesh.get_local_rank(mesh.ndim - 1) * rows, parameter.shape[0])


def materialise(policy: Scorer, device: torch.device) -> None:
    """Give meta parameters memory, for the local part alone; buffers keep values, tied ones stay tied."""
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


def fingerprint(policy: Scorer) -> str:
    """A hash of all weights (names, shapes, dtypes, bytes) but adapters, the same on any number of ranks.

    Every row of a tensor is hashed and the hashes are added up, so each rank hashes what it holds. A call for
    all ranks.
    """
    of_parts, of_wholes, mesh = 0, 0, None
    for name, weight in policy.named_weights().items():
        if isinstance(weight, DTensor):
            mesh = weight.device_mesh
            of_parts += _hash_of_rows(name, weight)
        else:
            of_wholes += _hash_of_rows(name, whole(weight))
    if mesh is not None:  # buffers are whole on every rank
        counts = mesh.ndim == 1 or mesh.get_local_rank(0) == 0  # replicas count once
        parts = [0] * dist.get_world_size()
        dist.all_gather_object(parts, of_parts if counts else 0)
        of_parts = sum(parts)
    return ((of_parts + of_wholes) % 2**128).to_bytes(16, "little").hex()


def _hash_of_rows(name: str, parameter: torch.Tensor) -> int:
    """The sum of the hashes of this rank's rows; 0 where there are more ranks than rows."""
    local, first = local_part(parameter)
    if not local.numel():
        return 0
    start = hashlib.blake2b(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode(), digest_size=16)
    table = local.cpu().reshape(len(local) if local.dim() else 1, -1).contiguous()
    total = 0
    for number, row in enumerate(table.view(torch.uint8).numpy(), first):
        digest = start.copy()
        digest.update(number.to_bytes(8, "little"))
        digest.update(row.data)
        total += int.from_bytes(digest.digest(), "little")
    return total
