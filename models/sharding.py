"""What is applied to a policy from outside: FSDP2, recomputation, compilation.

Contract: none of these changes what a pass computes; only where, when and how fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)

from models.scorer import Scorer
from ranks import World
from utils import UserError


def shard(policy: Scorer, world: World, cpu_offload: bool = False, block_name: str | None = None) -> Scorer:
    """Shard with FSDP2 over the world's mesh: each transformer block, then the root. Without a mesh: as it
    is.

    Where the compute dtype is not the weights', blocks are gathered in it and gradients are reduced in fp32.
    """
    if world.mesh is None:
        return policy
    options: dict[str, Any] = {"mesh": world.mesh}
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
    for method in ("next_logits", "generate"):
        register_fsdp_forward_method(policy, method)
    return policy


def blocks(model: nn.Module, name: str | None = None) -> Sequence[nn.Module]:
    """The transformer blocks: modules of the class `name`, or else the ModuleList with the most parameters.

    Raises UserError where no module is of that class.
    """
    if name is None:
        lists = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m)]
        return max(lists, key=_num_parameters)
    named = [m for m in model.modules() if type(m).__name__ == name]
    if not named:
        problem = f"{type(model).__name__} has no module of this class"
        raise UserError(f"config key model.block_name={name}: {problem}; set it to null")
    return named


def _num_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def gradient_checkpointing(policy: Scorer, block_name: str | None = None) -> None:
    """Recompute each block in the backward pass: memory for one block's activations instead of all."""
    members = set(blocks(policy.model, block_name))
    apply_activation_checkpointing(policy.model, check_fn=lambda module: module in members)


def compile_blocks(policy: Scorer, backend: str = "inductor") -> None:
    """torch.compile every transformer block in place, once for all lengths; the head stays as it is."""
    for block in blocks(policy.model):
        block.compile(dynamic=True, backend=backend)
