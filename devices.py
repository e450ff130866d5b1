"""Which device computes, and what devices differ in.

Contract: the one place that turns a config's `device` into torch's, and that knows what MPS, Apple's GPU,
lacks. On the CPU and on CUDA nothing here changes a number.
"""

from __future__ import annotations

import gc
from pathlib import Path

import torch

from machine import peak_resident
from utils import UserError


def choose(asked: str, number: int = 0) -> torch.device:
    """The device that a config asks for: auto, cpu, cuda or mps.

    auto is CUDA where there is a GPU, else the CPU; MPS is asked for by name. number: of the GPU, where
    processes have one each. Raises UserError where there is no such device.
    """
    if asked == "mps" and not torch.backends.mps.is_available():
        raise UserError("config key device=mps: torch finds no Apple GPU on this machine; set device=auto")
    if asked == "cuda" and not torch.cuda.is_available():
        raise UserError("config key device=cuda: torch finds no CUDA GPU on this machine; set device=auto")
    if asked == "mps":
        return torch.device("mps")
    if asked == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", number)


def num_gpus(asked: str) -> int:
    """How many CUDA GPUs a command may use whose config asks for this device."""
    return torch.cuda.device_count() if asked in ("auto", "cuda") else 0


def passes_dtype(asked: str) -> str:
    """The dtype in which forward and backward passes are fast here: bfloat16 on a GPU that has it and on CPUs
    with AMX (twice as fast as float32), else float32, and on MPS.
    """
    if asked == "mps":
        return "float32"
    if asked != "cpu" and torch.cuda.is_available():
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    try:
        flags = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:  # not Linux
        return "float32"
    return "bfloat16" if "amx_bf16" in flags else "float32"


# --- float64 ------------------------------------------------------------------------------------------------


def widest(device: torch.device) -> torch.dtype:
    """float64, or float32 on MPS, which has nothing wider: for sums that stay on the device."""
    return torch.float32 if device.type == "mps" else torch.float64


def with_float64(device: torch.device) -> torch.device:
    """Where float64 is computed of what is on a device: there, or on the CPU for MPS."""
    return torch.device("cpu") if device.type == "mps" else device


def wide(tensor: torch.Tensor) -> torch.Tensor:
    """The numbers in float64, `with_float64` of their device."""
    return tensor.to(with_float64(tensor.device)).double()


# --- memory -------------------------------------------------------------------------------------------------


def free_memory() -> None:
    """Give back what nobody holds any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()


def peak_memory(device: torch.device) -> float:
    """The most memory (10^9 bytes) held so far: allocated on a CUDA GPU, or resident in the process.

    On MPS what its driver holds now, which torch seldom gives back.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    if device.type == "mps":
        return torch.mps.driver_allocated_memory() / 1e9
    return peak_resident() / 1e9
