"""Make a policy from its spec: the one place that knows the order of the parts.

Contract: adapters and recomputation come before sharding, which must see all modules; weights come after it,
so that no rank ever holds the whole model; adapters get their values last, since reading weights leaves them
without.
"""

from __future__ import annotations

import torch

from models.adapters import add_adapters, merging, reset_adapters
from models.attention import SEGMENTS
from models.loading import load_policy, load_weights
from models.scorer import Scorer
from models.sharding import gradient_checkpointing, shard
from models.spec import PolicySpec
from ranks import World
from utils import UserError


def make_policy(spec: PolicySpec, world: World, sharded: bool) -> Scorer:
    """A policy that is ready for passes: whole on every rank, or sharded over `world.mesh`, which must exist.

    Make the optimizer before the first pass: FSDP2 leaves the root's parameters gathered after one. A call
    for all ranks. Raises UserError for what cannot be loaded or applied.
    """
    if sharded and spec.lora is not None and spec.lora.quantize is not None:
        raise UserError(
            f"config key lora.quantize={spec.lora.quantize}: a 4-bit model is on one GPU, not sharded; set "
            "nproc=1 and cpu_offload=false, or lora.quantize=null"
        )
    policy = _apply(spec, load_policy(spec, world.device, empty=sharded))
    if spec.lora is not None:
        policy.merge = merging(_twin(spec), spec.lora)
    if sharded:
        shard(policy, world, spec.cpu_offload, spec.block_name)
        load_weights(policy, spec, world)
    if spec.lora is not None:
        reset_adapters(policy, spec.lora.seed)
    return policy


def empty_policy(spec: PolicySpec) -> Scorer:
    """The same policy without its weights, on one process: its sizes are real, and it takes no memory."""
    return _apply(spec, load_policy(spec, torch.device("cpu"), empty=True))


def _apply(spec: PolicySpec, policy: Scorer) -> Scorer:
    """The policy with its adapters and recomputed blocks."""
    if spec.lora is not None:
        add_adapters(policy, spec.lora)
    if spec.activation_checkpointing:
        gradient_checkpointing(policy, spec.block_name)
    return policy


def _twin(spec: PolicySpec) -> Scorer:
    """The policy without weights, in which adapters are merged. It runs no pass, so any attention will do."""
    return empty_policy(spec._replace(activation_checkpointing=False, attention=SEGMENTS))
