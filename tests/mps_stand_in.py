"""A stand-in for Apple's GPU where there is none: tensors that say they are on `mps`, computed by the CPU.

Contract: within `on_a_mac`, what is put on `mps` is a tensor of its own kind, which does not mix with those
of the CPU, refuses float64 as MPS does, and refuses copies that do not wait for their source. Its numbers are
the CPU's, so it says where work runs and in which dtype, and nothing of how Metal rounds or fails.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map

MPS = torch.device("mps")
HIDDEN = torch.device("meta", 1)  # what torch itself takes the device for: this build of it knows no MPS
MOVES = (torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default)  # between devices


class OnMps(torch.Tensor):
    """A tensor on the stand-in; `inner` holds its numbers on the CPU."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> OnMps:
        if inner.dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        made = torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, inner.stride(), inner.storage_offset(), dtype=inner.dtype, device=HIDDEN
        )
        made.inner = inner
        return made

    @property
    def device(self) -> torch.device:
        return MPS

    def tolist(self) -> Any:
        return self.inner.tolist()

    def __repr__(self) -> str:
        return f"OnMps({self.inner!r})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


class _Names(TorchFunctionMode):
    """Where code says `mps`, torch hears the name that it knows."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is OnMps.device.fget or func is torch.device:
            return func(*args, **(kwargs or {}))
        args, kwargs = tree_map(_heard, (args, kwargs or {}))
        if any(value is HIDDEN for value in (*args[1:2], kwargs.get("device"))):
            # torch would read a source that is not pinned after it may be gone
            assert not kwargs.get("non_blocking"), "a copy to MPS that does not wait for its source"
            if func in (torch.tensor, torch.as_tensor):
                return func(*args, **{**kwargs, "device": None}).to(HIDDEN)
        return func(*args, **kwargs)


def _heard(value: Any) -> Any:
    if isinstance(value, torch.device | str) and str(value).split(":")[0] == "mps":
        return HIDDEN
    return value


class _Kernels(TorchDispatchMode):
    """Every operator goes the stand-in's way."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


def _run(func: Any, args: tuple, kwargs: dict) -> Any:
    """An operator on the numbers of its tensors; its results are where it ran."""
    tensors = [value for value in tree_iter((args, kwargs)) if isinstance(value, torch.Tensor)]
    theirs = [tensor for tensor in tensors if isinstance(tensor, OnMps)]
    device = kwargs.get("device")
    runs_there = bool(theirs) if device is None else device == HIDDEN
    if theirs and func not in MOVES:
        strangers = [t for t in tensors if not isinstance(t, OnMps) and t.dim()]
        assert not strangers, f"{func}: tensors on two devices"
    if device is not None and device == HIDDEN:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    out = func(*tree_map(_inner, args), **tree_map(_inner, kwargs))
    if func is torch.ops.aten.copy_.default:
        return args[0]
    if not runs_there:
        return out.clone() if theirs and isinstance(out, torch.Tensor) else out
    same = {id(tensor.inner): tensor for tensor in theirs}
    return tree_map(lambda value: same[id(value)] if id(value) in same else _outer(value), out)


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, OnMps) else value


def _outer(value: Any) -> Any:
    return OnMps(value) if isinstance(value, torch.Tensor) else value


@contextmanager
def on_a_mac(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Within it, torch has an MPS device."""
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 1)
    with _Names(), _Kernels():
        yield
