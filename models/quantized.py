"""QLoRA, arXiv 2305.14314: the frozen model below adapters in 4 bits, by bitsandbytes.

Contract: a 4-bit weight is a parameter of bytes, two numbers in each; nothing else here is. `whole` gives the
numbers that it stands for, which are what passes compute with, what is hashed, and what checkpoints hold.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel

from models.spec import PolicySpec
from utils import UserError


def quantization_of(spec: PolicySpec) -> BitsAndBytesConfig:
    """How a spec's model is read in 4 bits: blocks of weights as nf4 or fp4, their scales in 8 bits.

    Raises UserError where bitsandbytes cannot be used, and for weights that it cannot read.
    """
    try:
        import bitsandbytes  # noqa: F401  transformers would fail at it in many words
    except Exception as error:  # no package, or one that does not work on this machine
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"config key lora.quantize={spec.lora.quantize}: bitsandbytes cannot be used ({reason}); "
            "pip install bitsandbytes, or set lora.quantize=null"
        ) from error
    if spec.archive_file:
        raise UserError(
            f"config key lora.quantize={spec.lora.quantize}: {spec.archive_file} is a file of whole weights; "
            "give a HF folder as model.archive, or set lora.quantize=null"
        )
    compute = spec.dtype if spec.dtype != "float32" else spec.compute_dtype
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=spec.lora.quantize,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, compute),
    )


def forget_quantization(model: PreTrainedModel) -> None:
    """Let a model save itself as one that was never quantized: its checkpoints hold whole weights."""
    model.hf_quantizer = None
    del model.config.quantization_config


def evaluate(model: nn.Module) -> nn.Module:
    """Bring a model into eval mode, but for its 4-bit layers: for inference, bitsandbytes would lay their
    weights out anew on some CPUs, and round their scales. They have nothing that training changes.
    """
    model.eval()
    for module in model.modules():
        if any(_is_packed(parameter) for parameter in module.parameters(recurse=False)):
            module.training = True
    return model


def is_quantized(module: nn.Module) -> bool:
    """Does a module hold 4-bit weights?"""
    return any(_is_packed(parameter) for parameter in module.parameters())


def numbers_in(parameter: torch.Tensor) -> int:
    """How many numbers a parameter stands for."""
    return parameter.numel() * (2 if _is_packed(parameter) else 1)


def whole(parameter: torch.Tensor) -> torch.Tensor:
    """The numbers that a parameter stands for; a parameter of numbers as it is."""
    if not _is_packed(parameter):
        return parameter
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(parameter.data, parameter.quant_state)


def _is_packed(parameter: torch.Tensor) -> bool:
    return parameter.dtype == torch.uint8
