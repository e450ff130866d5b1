"""The files of a model, or of its adapters, in a new folder.

Contract: the weights are those of the checkpoint, or the same in another dtype; beside them stand what any
consumer reads (config, tokenizer, template), and nothing that only this machine or this run knows.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import models
from evaluation import Checkpoint
from handoff.place import CARD
from runs.folder import STATE
from runs.start import read_start
from utils import UserError, write_json

ADAPTER = "adapter"  # a folder of a checkpoint
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
TOKENIZER_CONFIG = "tokenizer_config.json"
# of the machine that saved it: a tokenizer with local_files_only would not be fetched elsewhere
OF_MACHINE = {
    TOKENIZER_CONFIG: ("is_local", "local_files_only", "name_or_path"),
    "config.json": ("_name_or_path",),
}
LEFT_OUT = {CARD, "training_args.bin", "optimizer.pt", "scheduler.pt", "trainer_state.json"}


def has_adapters(checkpoint: Checkpoint) -> bool:
    """Does a checkpoint hold adapters beside the model that they are merged into?"""
    return (Path(checkpoint.source) / ADAPTER / ADAPTER_CONFIG).is_file()


def write_model(checkpoint: Checkpoint, dtype: str | None, folder: Path) -> None:
    """Write the whole model, adapters merged. Raises UserError where it cannot be loaded."""
    source = Path(checkpoint.source)
    is_model = source.is_dir() and any(source.glob("model*.safetensors"))
    if is_model and dtype is None:
        _copy(source, folder)
    else:
        _save(checkpoint, dtype, folder)
    _forget_machine(folder)


def _copy(source: Path, folder: Path) -> None:
    """The files of a model's folder as they are. STATE and adapters are folders, and stay behind."""
    for path in sorted(source.iterdir()):
        if path.is_file() and not path.name.startswith(".") and path.name not in LEFT_OUT:
            shutil.copyfile(path, folder / path.name)


def _save(checkpoint: Checkpoint, dtype: str | None, folder: Path) -> None:
    """The model as transformers loads it and saves it."""
    given = checkpoint.model
    archive = checkpoint.source if checkpoint.source != given.name_or_path else None
    spec = models.spec_of(given, archive)
    policy = models.load_policy(spec._replace(dtype=dtype or spec.dtype), torch.device("cpu"))
    policy.model.save_pretrained(folder)
    name = given.tokenizer_name_or_path or spec.model_name
    models.load_tokenizer(name, given.trust_remote_code).save_pretrained(folder)


def write_adapters(checkpoint: Checkpoint, base: str, dtype: str | None, folder: Path) -> None:
    """Write the adapters alone, in a config that names their base, with the model's tokenizer."""
    source = Path(checkpoint.source)
    tensors = load_file(source / ADAPTER / ADAPTER_WEIGHTS)
    if dtype is not None:
        tensors = {name: tensor.to(getattr(torch, dtype)) for name, tensor in tensors.items()}
    save_file(tensors, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    config = json.loads((source / ADAPTER / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = base
    if isinstance(config.get("target_modules"), list):
        config["target_modules"].sort()  # peft has a set, in any order
    write_json(folder / ADAPTER_CONFIG, config)
    name = checkpoint.model.tokenizer_name_or_path or checkpoint.source
    models.load_tokenizer(name, checkpoint.model.trust_remote_code).save_pretrained(folder)
    _forget_machine(folder)


def base_of_adapters(checkpoint: Checkpoint, given: str | None, is_pushed: bool) -> str:
    """What peft loads before the adapters: what is given, else the weights that the run began with.

    Raises UserError where they are no model of their own, or where those who fetch a repository have none.
    """
    if given:
        return given
    start = read_start(checkpoint.run) if checkpoint.run else None
    source = start.source if start else checkpoint.model.name_or_path
    is_here = source.startswith(models.EMBEDDED) or Path(source).exists()
    if Path(source).is_file():
        raise UserError(
            f"config key merge=false: the run began with a file of weights ({source}), which peft cannot "
            "open as a base; leave out merge=false"
        )
    if is_here and is_pushed:
        raise UserError(
            "config keys push and merge=false: the run began with weights that are only here; give "
            "base_model=<hub name>, or leave out merge=false"
        )
    source = models.resolve_name(source)
    return str(Path(source).resolve()) if is_here else source


def _forget_machine(folder: Path) -> None:
    for name, keys in OF_MACHINE.items():
        path = folder / name
        if path.is_file():
            values = json.loads(path.read_text(encoding="utf-8"))
            write_json(path, {key: value for key, value in values.items() if key not in keys})


def state_of(checkpoint: Checkpoint) -> dict[str, int]:
    """How far training had come: `step` and `examples`; empty where no run of ours says it."""
    path = Path(checkpoint.source) / STATE / "state.json"
    if not path.is_file():
        return {}
    values = json.loads(path.read_text(encoding="utf-8"))
    return {key: values[key] for key in ("step", "examples") if isinstance(values.get(key), int)}
