"""LoRA: low-rank adapters beside the layers of a frozen model.

Contract: a policy with adapters is a `Scorer` as before; only parameters with `lora_` in their names are
trained, in fp32. peft merges them into the weights, in a twin of the model that holds no memory of its own.
What could not be merged at a checkpoint is refused before training.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from models.errors import first_line
from models.quantized import evaluate
from models.scorer import Scorer, Tensors, plain_name
from models.spec import Lora
from models.weights import local_part
from utils import UserError

ALL_LINEAR = "all-linear"


def add_adapters(policy: Scorer, lora: Lora) -> None:
    """Freeze the model and add adapters beside the layers that `lora.targets` names.

    Their values are set by `reset_adapters`. Raises UserError where the model has no such layers.
    """
    from peft import LoraConfig, inject_adapter_in_model

    policy.adapters = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        target_modules=_layers(lora.targets),
        lora_dropout=lora.dropout,
        task_type="CAUSAL_LM",
    )
    is_empty = next(policy.parameters()).is_meta
    try:
        inject_adapter_in_model(policy.adapters, policy.model, low_cpu_mem_usage=is_empty)
    except Exception as error:  # peft raises many kinds for layers that it cannot adapt
        raise _refusal(lora, first_line(error)) from error
    for name, parameter in policy.named_parameters():
        parameter.requires_grad_("lora_" in name)
        if "lora_" in name:
            parameter.data = parameter.data.float()
    evaluate(policy)  # new modules are in training mode, and would drop inputs


def _layers(targets: str | list[str]) -> str | list[str]:
    """As peft reads them: to it, a lone text that is not `all-linear` is a regular expression."""
    return [targets] if isinstance(targets, str) and targets != ALL_LINEAR else targets


def merging(twin: Scorer, lora: Lora) -> Merging:
    """How a policy's adapters are merged. twin: the same policy, adapters included, on the meta device.

    Tries it. Raises UserError for layers whose adapters cannot be merged or saved.
    """
    merge = Merging(twin)
    tied = _tied_layers(twin)
    if tied:
        problem = f"{tied[0]} is tied to another layer, which merging would change too"
        raise _refusal(lora, f"{problem}; leave it out")
    state = dict(twin.named_parameters())
    names = {plain_name(name) for name in state if "lora_" not in name}
    try:
        merged = merge(state)
    except Exception as error:  # as above
        raise _refusal(lora, f"these adapters cannot be merged ({first_line(error)})") from error
    if not merged or not names.issuperset(merged):
        raise _refusal(lora, "these adapters cannot be merged into the model's weights")
    return merge


class Merging:
    """Merges adapters into the weights of a full state dict; `merging(state)` gives those that change."""

    def __init__(self, twin: Scorer) -> None:
        self.twin = twin

    def __call__(self, state: Tensors) -> Tensors:
        """state: by the policy's names, never changed. Gives new weights, by their names in the module."""
        twin = copy.deepcopy(self.twin)
        for prefix, module in twin.named_modules():
            for name in module._parameters:
                if f"{prefix}.{name}" in state:
                    held = state[f"{prefix}.{name}"].detach()
                    module._parameters[name] = nn.Parameter(held, requires_grad=False)
        merged: Tensors = {}
        for prefix, layer in _adapted(twin):
            layer.merge(safe_merge=not next(layer.parameters()).is_meta)
            base = layer.get_base_layer()
            changed = base.named_parameters(recurse=False)
            merged |= {plain_name(f"{prefix}.{name}"): weight.data for name, weight in changed}
        return merged


def _adapted(policy: Scorer) -> list[tuple[str, nn.Module]]:
    """The layers that peft wrapped, innermost first, by their names."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    wrapped = [(name, m) for name, m in policy.named_modules() if isinstance(m, BaseTunerLayer)]
    return wrapped[::-1]


def _tied_layers(policy: Scorer) -> list[str]:
    """The adapted layers whose weight stands in the model under another name too."""
    tied = getattr(policy.model, "all_tied_weights_keys", None) or {}
    names = {*tied, *tied.values()}
    layers = []
    for prefix, layer in _adapted(policy):
        base = layer.get_base_layer()
        if any(plain_name(f"{prefix}.{name}") in names for name, _ in base.named_parameters(recurse=False)):
            layers.append(plain_name(prefix))
    return layers


def _refusal(lora: Lora, problem: str) -> UserError:
    return UserError(f"config key lora.targets={lora.targets}: {problem}")


@contextmanager
def adapter_dropout(policy: Scorer, seed: int | None) -> Iterator[None]:
    """Within it, adapters leave out a share of their inputs, drawn by the seed; None: they leave out none.

    The rest of the model keeps every input, as everywhere.
    """
    if seed is None:
        yield
        return
    dropped = [
        m for name, m in policy.named_modules() if "lora_dropout" in name and isinstance(m, nn.Dropout)
    ]
    torch.manual_seed(seed)
    for module in dropped:
        module.train()
    try:
        yield
    finally:
        for module in dropped:
            module.eval()


@torch.no_grad()
def reset_adapters(policy: Scorer, seed: int) -> None:
    """Start adapters as the identity: one factor by the seed, alike on any number of ranks, the other zero.

    A of a layer and B of an embedding are drawn, as peft does it.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in policy.named_parameters():
        if "lora_" not in name:
            continue
        local, first = local_part(parameter)
        whole = torch.zeros(parameter.shape)
        if "lora_A" in name:
            nn.init.kaiming_uniform_(whole, a=5**0.5, generator=generator)
        elif "lora_embedding_B" in name:
            nn.init.normal_(whole, generator=generator)
        local.copy_(whole[first : first + len(local)])
