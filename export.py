"""Hand a checkpoint on: `python export.py outputs/gdpo to=exported/gdpo`, or `push=owner/name`.

The door: checkpoint -> place -> weights and card -> folder -> hub, in this order. What is exported is what
any consumer opens (transformers, peft, vLLM, lm-eval), without the training state, with a model card of what
the run and its newest evaluation recorded. The folder appears whole or not at all.
"""

from __future__ import annotations

from environment import CONFIGS  # isort: skip  # first: it says what is missing, in one line

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf

from evaluation import Checkpoint
from evaluation.checkpoints import find_checkpoint
from handoff.config import ExportSettings, export_settings
from settings import text_keys
from utils import UserError, guarded, run_entry, setup_logging, with_texts_quoted


def main(config: DictConfig) -> None:
    """Check config, checkpoint and place, then write the folder, and push it where that is asked for."""
    settings = export_settings(OmegaConf.to_container(config, resolve=True))
    setup_logging()
    checkpoint = find_checkpoint(settings.ckpt, settings.base_model)
    import_all()
    if settings.to is not None:
        place.check(Path(settings.to), settings.overwrite)
    check_adapters(checkpoint, settings)
    if settings.gguf != "no":
        gguf.check(settings.gguf, settings.to or "FOLDER")
    if settings.push is not None:
        hub.check(settings.push, settings.overwrite)
    with folder_of(settings) as folder:
        write(checkpoint, settings, folder)
        if settings.to is None:
            push(settings, folder)
    if settings.to is not None:
        print(f"export: {os.path.relpath(settings.to)}")
        if settings.push is not None:
            push(settings, Path(settings.to))


def import_all() -> None:
    """What writes, once config and checkpoint are checked: torch and transformers take seconds."""
    global card, gguf, hub, place, story, weights
    from handoff import card, gguf, hub, place, story, weights


def check_adapters(checkpoint: Checkpoint, settings: ExportSettings) -> None:
    """Raises UserError where adapters alone are asked for, and there are none that others can open."""
    if settings.merge:
        return
    if not weights.has_adapters(checkpoint):
        raise UserError(f"config key merge=false: {checkpoint.source} holds no adapters; leave it out")
    weights.base_of_adapters(checkpoint, settings.base_model, settings.push is not None)


@contextlib.contextmanager
def folder_of(settings: ExportSettings) -> Iterator[Path]:
    """Where to write: a folder that becomes `to`, or one that is gone after the push ($TMPDIR says where)."""
    if settings.to is not None:
        with place.appearing(Path(settings.to), settings.overwrite) as folder:
            yield folder
        return
    with tempfile.TemporaryDirectory(prefix="grove-export-") as folder:
        yield Path(folder)


def write(checkpoint: Checkpoint, settings: ExportSettings, folder: Path) -> None:
    """The files of an export."""
    told = story.story_of(checkpoint)
    if settings.merge:
        weights.write_model(checkpoint, settings.dtype, folder)
    else:
        base = weights.base_of_adapters(checkpoint, settings.base_model, settings.push is not None)
        weights.write_adapters(checkpoint, base, settings.dtype, folder)
    if settings.gguf != "no":
        gguf.convert(folder, settings.gguf, checkpoint.name)
    (folder / place.CARD).write_text(card.card_of(told, settings), encoding="utf-8")


def push(settings: ExportSettings, folder: Path) -> None:
    """To the hub."""
    print(f"pushed: {hub.push(folder, settings.push, settings.private)}")


def with_ckpt(arguments: Sequence[str]) -> list[str]:
    """The command line, with `ckpt=` before a first argument that is a checkpoint and no override."""
    first, *others = arguments or [""]
    is_plain = first and not first.startswith("-") and ("=" not in first or Path(first).exists())
    if not is_plain:
        return list(arguments)
    text = first.replace("\\", "\\\\").replace("'", "\\'")
    return [f"ckpt='{text}'", *others]


def command() -> None:
    """The command, as `python export.py` and as `grove-export`."""
    sys.argv[1:] = with_ckpt(with_texts_quoted(sys.argv[1:], text_keys(ExportSettings)))
    run_entry(hydra.main(version_base=None, config_path=CONFIGS, config_name="export")(guarded(main)))


if __name__ == "__main__":
    command()
