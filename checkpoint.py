"""Save and load a run's state: HF folders that anything can open, with what exact resume needs beside them.

Contract: `step-000640/` is an HF model folder plus `trainer_state/` (optimizer.pt, state.json). Folders appear by rename,
so one that is there is complete; `latest` and `best` are links to them. Files of tensors are read with weights_only.
"""
from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from utils import UserError, World, log, write_json

FULL = StateDictOptions(full_state_dict=True, cpu_offload=True)


def save(run: Path, step: int, policy: nn.Module, optimizer: torch.optim.Optimizer, tokenizer, state: dict[str, Any], world: World,
         best: bool) -> Path:
    """Write `run/step-NNNNNN` and point `latest` (and `best`) at it; steps that no link names are then removed."""
    weights = get_model_state_dict(policy, options=FULL)
    moments = get_optimizer_state_dict(policy, optimizer, options=FULL)
    folder = run / f"step-{step:06d}"
    if world.is_main:
        temporary = Path(tempfile.mkdtemp(prefix=".saving-", dir=run))
        try:
            merged, adapters = policy.export(weights)
            policy.model.save_pretrained(temporary, state_dict=merged)
            if adapters:
                policy.adapters.save_pretrained(temporary / "adapter")
                save_file(adapters, temporary / "adapter" / "adapter_model.safetensors", metadata={"format": "pt"})
            tokenizer.save_pretrained(temporary)
            (temporary / "trainer_state").mkdir()
            torch.save(moments, temporary / "trainer_state" / "optimizer.pt")
            write_json(temporary / "trainer_state" / "state.json", {**state, "step": step})
            temporary.chmod(0o755)
            shutil.rmtree(folder, ignore_errors=True)  # of an older run: `latest` does not name it
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        for name in ("latest", "best") if best else ("latest",):
            _link(run / name, folder.name)
        _prune(run)
    if world.size > 1:
        dist.barrier()
    return folder


def _link(link: Path, target: str) -> None:
    temporary = link.with_name(f".{link.name}.new")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    os.replace(temporary, link)


def _prune(run: Path) -> None:
    kept = {(run / name).resolve().name for name in ("latest", "best") if (run / name).exists()}
    for folder in run.glob("step-*"):
        if folder.name not in kept:
            shutil.rmtree(folder, ignore_errors=True)
    for folder in run.glob(".saving-*"):  # what a killed save left
        shutil.rmtree(folder, ignore_errors=True)


def load_latest(run: Path, policy: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any] | None:
    """Load the newest checkpoint of a run into policy and optimizer; return its state, or None where there is none."""
    folder = run / "latest"
    if not folder.exists():
        return None
    try:
        state = json.loads((folder / "trainer_state" / "state.json").read_text())
        weights, (trained, name_of) = {}, policy.exported(folder)
        for file in sorted(trained.glob("*.safetensors")):
            weights |= load_file(file)
        moments = torch.load(folder / "trainer_state" / "optimizer.pt", map_location="cpu", weights_only=True)
    except Exception as error:  # json, safetensors and torch each raise their own kinds for a damaged file
        first = str(error).splitlines()[0]
        raise UserError(f"{folder}: the checkpoint cannot be read ({first}); "
                        f"remove {folder.resolve()} or set resume=never with another exp_name") from error
    # tied weights are stored once: strict would miss their second name
    set_model_state_dict(policy, {name_of(k): v for k, v in weights.items()},
                         options=StateDictOptions(full_state_dict=True, strict=False))
    set_optimizer_state_dict(policy, optimizer, moments, options=StateDictOptions(full_state_dict=True))
    log.info("resumed from %s", folder.resolve().name)
    return state


def find_model(ckpt: str) -> str:
    """Turn what a user calls a checkpoint into something `load_policy` takes.

    A run folder gives its `best`, else `latest`; a step folder, an HF folder, a file (policy.pt), a hub name and `embedded:`
    names stay. Raises UserError for a local path that holds no model.
    """
    path = Path(ckpt)
    if not path.is_dir():
        if path.is_file() or ckpt.startswith("embedded:") or re.fullmatch(r"(?!outputs/)\w[\w.-]*(/[\w.-]+)?", ckpt):
            return ckpt  # what is no path is a hub name
        raise UserError(f"ckpt={ckpt}: no such folder or file; give a run folder, a step folder, an HF folder, a policy.pt or a hub name")
    for name in ("best", "latest", "."):
        if (path / name / "config.json").exists():
            return str((path / name).resolve())
    raise UserError(f"ckpt={ckpt}: holds no finished checkpoint (no best, latest or config.json); train first or give a step folder")


def find_run(ckpt: str) -> Path | None:
    """The run folder (with config.yaml) that a checkpoint belongs to, or None."""
    path = Path(ckpt)
    return next((p for p in (path, path.resolve().parent) if path.exists() and (p / "config.yaml").is_file()), None)
