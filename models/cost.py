"""What a pass costs, in FLOPs and bytes, and how fast this device multiplies.

Contract: FLOPs are those of useful work, so that utilisation cannot be raised by padding. Bytes are counted
from the sizes of all tensors that a pass makes, and nothing is computed or allocated for that.
"""

from __future__ import annotations

import copy
import time
import weakref
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PretrainedConfig

import forest
from models.head import LogProbs, Reads, positions_at_once
from models.quantized import numbers_in
from models.scorer import Scorer
from models.sharding import blocks
from models.weights import materialise

# what configs call the experts of a mixture, and how many of them a token passes
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
CHOSEN_EXPERTS = (
    "num_experts_per_tok",
    "num_experts_per_token",
    "top_k_experts",
    "moe_top_k",
    "moe_topk",
    "moe_k",
)
PRODUCT_SECONDS = 0.5  # that a product should not take longer than, to know a device's rate


def forward_flops(policy: Scorer, batch: forest.ForestBatch) -> int:
    """Model FLOPs of the useful work of one forward pass; forward and backward together cost three times
    this.

    Blocks count on real tokens, the head on scored positions, attention on the pairs that the predicate
    allows.
    """
    config = policy.model.config.get_text_config()
    body = active_parameters(policy)
    head = config.vocab_size * config.hidden_size
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    attention = 2 * config.num_hidden_layers * config.num_attention_heads * width
    return 2 * (body * batch.num_tokens + head * len(batch.positions) + attention * batch.num_attended)


def active_parameters(policy: Scorer) -> int:
    """Parameters of the blocks that a token passes; of a mixture of experts, the chosen ones."""
    if policy.active_parameters is None:
        policy.active_parameters = _count_active(policy)
    return policy.active_parameters


def _count_active(policy: Scorer) -> int:
    config = policy.model.config.get_text_config()
    chosen, experts = _first_of(config, CHOSEN_EXPERTS), _first_of(config, EXPERTS)
    total = 0
    for name, module in blocks(policy.model).named_modules():
        count = sum(numbers_in(p) for p in module.parameters(recurse=False))
        of_experts = "experts" in name.split(".")
        total += count * chosen // experts if of_experts and chosen and experts else count
    return total


def _first_of(config: PretrainedConfig, names: Sequence[str]) -> int:
    """The config's first of these numbers; 0 where it has none."""
    numbers = [getattr(config, name, None) for name in names]
    return next((number for number in numbers if number), 0)


def matmul_rate(device: torch.device, dtype: torch.dtype, size: int = 2048) -> float:
    """FLOP/s of a large square matrix product on this device, measured: what utilisation is relative to.

    size: rows and columns, fewer where the device is slow in this dtype. The best of several, since what else
    is at work on a machine only takes away from it.
    """
    side = 256
    while side < size and _product_seconds(device, dtype, side) < PRODUCT_SECONDS / 8:
        side *= 2
    side = min(side, size)
    return 2 * side**3 / min(_product_seconds(device, dtype, side) for _ in range(5))


def _product_seconds(device: torch.device, dtype: torch.dtype, side: int) -> float:
    """How long one product takes."""
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    (a @ b).sum().item()  # warms up; item waits for the device
    start = time.perf_counter()
    (a @ b).sum().item()
    return time.perf_counter() - start


class PassBytes(NamedTuple):
    """Bytes that a forward and backward pass holds beyond weights."""

    peak: int  # with the gradients that are there at that moment
    gradients: int  # of all weights, after the pass
    head: int  # at the head's own peak


def pass_bytes(policy: Scorer, batch: forest.ForestBatch, attention: str, accumulates: bool) -> PassBytes:
    """What a pass over `batch` would hold, from the sizes of all tensors that it makes.

    policy: an empty one. attention: what computes it; flex_attention counts as causal. accumulates: gradients
    of an earlier pack are there already.
    """
    policy = copy.deepcopy(policy)
    policy.attention = "none" if attention == "flex_attention" else attention
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        materialise(policy, torch.device("cpu"))
        trained = [p for p in policy.parameters() if p.requires_grad]
        gradients = sum(p.numel() * p.element_size() for p in trained)
        if accumulates:
            for parameter in trained:
                parameter.grad = torch.empty_like(parameter)
        rows = (batch.input_ids, batch.position_ids, batch.end)
        ids, position_ids, end = (fake.from_tensor(tensor) for tensor in rows)
        positions = fake.from_tensor(batch.positions)
        reads = Reads(fake.from_tensor(batch.source), fake.from_tensor(batch.target), batch.read_starts)
        before = [*policy.parameters(), *policy.buffers(), *(p.grad for p in trained if accumulates)]
        with _PeakBytes(before) as whole:
            if policy.attention == "none":
                position_ids = None  # transformers would look for documents in them
            policy(ids, position_ids, end, positions, reads, batch.segments).sum().backward()
        head = _head_bytes(policy, reads, len(positions))
    return PassBytes(whole.peak + (gradients if accumulates else 0), gradients, head)


def _head_bytes(policy: Scorer, reads: Reads, num_positions: int) -> int:
    """The peak of the head's part of a pass alone, forward and backward. Runs under a FakeTensorMode."""
    weight: nn.Parameter = policy.model.get_output_embeddings().weight
    hidden = torch.empty(num_positions, weight.shape[1], dtype=policy.compute_dtype, requires_grad=True)
    chunk = positions_at_once(weight)
    with _PeakBytes([weight, hidden]) as head:
        LogProbs.apply(hidden, weight, None, reads, policy.logit_shape, chunk).sum().backward()
    return head.peak


class _PeakBytes(TorchDispatchMode):
    """Counts the bytes of tensors made under it that are alive, and remembers the most there were.

    before: tensors that were there and do not count.
    """

    def __init__(self, before: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self.alive = self.peak = 0
        self.before = [tensor.untyped_storage() for tensor in before]  # an operation may give a view of them
        self.known = weakref.WeakKeyDictionary(dict.fromkeys(self.before))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided:
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        """Count a storage that is new, until nothing refers to it."""
        if storage in self.known:
            return
        self.known[storage] = None
        self._change(storage.nbytes())
        weakref.finalize(storage, self._change, -storage.nbytes())

    def _change(self, size: int) -> None:
        self.alive += size
        self.peak = max(self.peak, self.alive)
