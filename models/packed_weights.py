"""Linear layers on a CPU whose weights lie as MKL multiplies with them, for products of one number of rows.

Contract: the same fp32 product, faster where many steps have the same number of rows: a step of sampling
otherwise arranges every weight anew. Takes as much memory as the weights, for the time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from models.scorer import Scorer, device_of

LEAST_ROWS = 16  # for fewer, reading the weights is most of the work, however they lie
LEAST_STEPS = 32  # packing costs about as much as two steps


def can_pack(policy: Scorer, rows: int, steps: int) -> bool:
    """Is it of use, and can MKL do it? steps: about how many will have this number of rows."""
    if device_of(policy).type != "cpu" or policy.casts or not torch.backends.mkl.is_available():
        return False
    return rows >= LEAST_ROWS and steps >= LEAST_STEPS


@contextmanager
def packed_weights(policy: Scorer, rows: int) -> Iterator[None]:
    """The policy's plain fp32 linear layers with packed weights, which serve inputs of `rows` rows in all;
    others take the usual way.
    """
    layers = [module for module in policy.model.modules() if _is_plain(module)]
    for layer in layers:
        layer.forward = _forward(layer, rows)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward  # the class's own is seen again


def _is_plain(module: nn.Module) -> bool:
    return type(module) is nn.Linear and module.weight.dtype == torch.float32


def _forward(layer: nn.Linear, rows: int) -> Callable[[torch.Tensor], torch.Tensor]:
    weight, bias = layer.weight, layer.bias
    packed = torch.ops.mkl._mkl_reorder_linear_weight(weight.detach().contiguous(), rows)

    def forward(x: torch.Tensor) -> torch.Tensor:
        if x.numel() != rows * weight.shape[1] or x.dtype != torch.float32:
            return nn.functional.linear(x, weight, bias)
        return torch.ops.mkl._mkl_linear(x, packed, weight, bias, rows)

    return forward
