"""Runs as training leaves them, without training: what export takes."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import torch
from helpers import CPU, byte_tokenizer, compose, run_of, save_tiny
from omegaconf import OmegaConf
from safetensors.torch import save_file
from yaml import safe_load

import export
import models
from runs import shards
from utils import write_json

HOSTILE = "a: b\n---\n# \"c\" | `d` \u2028 </script> ](javascript:x) 'e' {f} %g &h *i"
NUMBERS = {"js_distance_probability": {"value": 0.25, "low": 0.125, "high": 0.375, "n": 39}}
CODE = "0.2.0, commit 0123abc"  # what a run was begun by


def exported(*overrides: str) -> None:
    """Export in this process."""
    export.main(compose(*overrides, name="export"))


def run_with_audit(folder: Path, data_set: str = "opinions/republican") -> Path:
    """A run with a checkpoint, its training state, its start and its audit."""
    folder.mkdir(parents=True)
    model = save_tiny(folder.parent / "tiny")
    run = run_of(folder, model)
    state = run / "step-000001" / "trainer_state"
    state.mkdir()
    write_json(state / "state.json", {"step": 1, "examples": 64})
    sizes = {"prompts": 117, "responses": 363, "examples": 234}
    write_json(run / "data_audit.json", {data_set: {"train": sizes}})
    write_json(run / "start.json", {"name": model, "source": model, "fingerprint": "0", "code": CODE})
    return run


def run_with_adapters(folder: Path) -> Path:
    """A run whose checkpoint holds trained adapters, merged and apart."""
    run = run_with_audit(folder)
    base = str(folder.parent / "tiny")
    policy = models.make_policy(models.PolicySpec(base, lora=models.Lora(4, 16, "all-linear", 0)), CPU, False)
    torch.manual_seed(1)
    for parameter in filter(lambda p: p.requires_grad, policy.parameters()):
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    merged, factors = policy.export(shards.weights_of(policy, whole=True))
    step = run / "step-000001"
    policy.model.save_pretrained(step, state_dict=merged)
    policy.adapters.save_pretrained(step / "adapter")
    save_file(factors, step / "adapter" / "adapter_model.safetensors", metadata={"format": "pt"})
    byte_tokenizer().save_pretrained(step)
    return run


def evaluated(folder: Path, sources: dict[str, Path | str], value: float = 0.25, age: float = 0) -> None:
    """An evaluation's report.json, as many seconds old."""
    folder.mkdir(parents=True)
    row = {**NUMBERS["js_distance_probability"], "value": value}
    settings = {
        "datasets": ["opinions/republican"],
        "split": "test",
        "prompts": 39,
        "questions": 13,
        "n_samples": 8,
        "sources": {name: str(source) for name, source in sources.items()},
    }
    results = {name: {"js_distance_probability": row} for name in sources}
    path = folder / "report.json"
    path.write_text(json.dumps({"checkpoints": results, "differences": [], "settings": settings}))
    os.utime(path, (time.time() - age, time.time() - age))


def front_matter(folder: Path) -> dict:
    """What the hub reads of a card."""
    return safe_load(
        (folder / "README.md").read_text(encoding="utf-8").split("\n---\n")[0].removeprefix("---\n")
    )


def with_keys(run: Path, **changes) -> None:
    """Give a run's saved config other values."""
    config = OmegaConf.load(run / "config.yaml")
    OmegaConf.save(OmegaConf.merge(config, changes), run / "config.yaml")
