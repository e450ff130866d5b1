"""LoRA: low-rank adapters beside the layers of a frozen model.

Contract: a policy with adapters is a `Scorer` as before; only parameters with `lora_` in their names are
trained, in fp32.
"""

from __future__ import annotations

import torch
from torch import nn

from models.errors import first_line
from models.scorer import Scorer
from models.spec import Lora
from models.weights import local_part
from utils import UserError


def add_adapters(policy: Scorer, lora: Lora) -> None:
    """Freeze the model and add adapters beside the layers that `lora.targets` names.

    Their values are set by `reset_adapters`. Raises UserError where the model has no such layers.
    """
    from peft import LoraConfig, inject_adapter_in_model

    policy.adapters = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, target_modules=lora.targets, task_type="CAUSAL_LM"
    )
    is_empty = next(policy.parameters()).is_meta
    try:
        inject_adapter_in_model(policy.adapters, policy.model, low_cpu_mem_usage=is_empty)
    except ValueError as error:
        raise UserError(f"config key lora.targets={lora.targets}: {first_line(error)}") from error
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
