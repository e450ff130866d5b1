"""A run's folder: the names of its steps, the links to them, their manifests, and what is damaged.

Contract: `step-000640/` is an HF model folder plus `trainer_state/`, whose manifest.json has the size and
checksum of every file. Folders appear by rename, after their bytes are on disk, so one that is there is
complete; what was damaged later is told by the manifest. `latest` and `best` are links. Nothing here opens a
tensor, so a user's checkpoint is looked up before torch is loaded.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from utils import UserError, to_disk, write_json

STATE = "trainer_state"
OPTIMIZER = "trainer_state/optimizer"
THREADS = 8  # that read and flush files at the same time
HALF_DONE = re.compile(r"\.(saving-.*|replaced-.*|(config\.yaml|data_audit\.json|latest|best)\..*)")
HUB_NAME = re.compile(r"(?!outputs/)\w[\w.-]*(/[\w.-]+)?")


# --- steps and links ----------------------------------------------------------------------------------------


def step_folder(run: Path, step: int) -> Path:
    """Where a run keeps the checkpoint of a step."""
    return run / f"step-{step:06d}"


def steps(run: Path) -> list[Path]:
    """The step folders of a run, oldest first."""
    folders = [path for path in run.glob("step-*") if re.fullmatch(r"step-\d{6,}", path.name)]
    return sorted(folders, key=number)


def number(path: Path) -> int:
    """The step of a step folder. Raises ValueError for another name."""
    return int(path.name.rpartition("-")[2])


def link(path: Path, target: str) -> None:
    """Point `path` at `target`, at once: it is never absent."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    os.replace(temporary, path)


def link_back(run: Path, step: int, best_step: int | None) -> None:
    """Point the links as they stood when `step` was saved: a run may die between two links."""
    link(run / "latest", step_folder(run, step).name)
    best = step_folder(run, best_step or 0)
    if best.exists():
        link(run / "best", best.name)
    elif not (run / "best").exists() or number((run / "best").resolve()) > step:
        # its folder is gone, or a later one that this run does not know yet
        (run / "best").unlink(missing_ok=True)


def appear(temporary: Path, path: Path) -> None:
    """Rename a finished folder to its step's name, on the disk; it replaces an earlier one of this step."""
    run = path.parent
    if path.exists():
        # of this step before its validation; tidy() knows the name, should the run die between the two
        path.rename(run / f".replaced-{path.name}")
    temporary.rename(path)
    to_disk(run)


def prune(run: Path, keep_last: int) -> None:
    """Remove the steps that neither a link nor `keep_last` keeps.

    Those after `latest` are damaged or of a life that the run left.
    """
    linked = {(run / name).resolve().name for name in ("latest", "best") if (run / name).exists()}
    latest = number((run / "latest").resolve())
    lived = [path.name for path in steps(run) if number(path) <= latest]
    kept = linked | set(lived[-keep_last:])
    for path in (*steps(run), *run.glob(".replaced-*")):
        if path.name not in kept:
            shutil.rmtree(path, ignore_errors=True)


def tidy(run: Path) -> None:
    """Remove what a killed run left half done. Only for one that holds the run's lock."""
    for path in run.glob(".replaced-step-*"):
        original = run / path.name.removeprefix(".replaced-")
        if not original.exists():
            path.rename(original)
    for path in run.glob(".*"):
        if not HALF_DONE.fullmatch(path.name):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


# --- manifest and damage ------------------------------------------------------------------------------------


def seal(path: Path) -> None:
    """Write the manifest of a folder, and bring every byte to the disk."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
    names = [str(file.relative_to(path)) for file in files]
    with ThreadPoolExecutor(THREADS) as pool:
        manifest = dict(zip(names, pool.map(_checksum, files)))
        write_json(path / STATE / "manifest.json", manifest)
        list(pool.map(to_disk, [*files, path / STATE, path]))


def _checksum(path: Path) -> list[int | str]:
    """A file's size in bytes and its hash, as the manifest has them."""
    with path.open("rb") as file:
        return [path.stat().st_size, hashlib.file_digest(file, "blake2b").hexdigest()]


def damage(path: Path, all_files: bool = True) -> str | None:
    """What is wrong with a checkpoint's files, or those of its weights, by its manifest.

    None where it is as it was written.
    """
    try:
        return _first_damage(path, all_files)
    except OSError as error:
        return f"{Path(error.filename or '').name}: {error.strerror}"
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return "manifest.json is none"


def _first_damage(path: Path, all_files: bool) -> str | None:
    """As `damage`; raises whatever a manifest leads to that is none."""
    manifest = json.loads((path / STATE / "manifest.json").read_text())
    if all_files and f"{STATE}/optimizer.pt" in manifest:
        return "optimizer.pt is of an older version of this project"
    names = list(manifest) if all_files else _weight_files(manifest)
    for name in names:
        if not (path / name).is_file():
            return f"{name} is missing"
    with ThreadPoolExecutor(THREADS) as pool:
        checksums = pool.map(lambda name: _checksum(path / name), names)
        for name, checksum in zip(names, checksums):
            if checksum[0] != manifest[name][0]:
                return f"{name} has {checksum[0]} of {manifest[name][0]} bytes"
            if checksum != manifest[name]:
                return f"{name} does not match its checksum"
    return None if f"{STATE}/state.json" in manifest else "manifest.json is not whole"


def _weight_files(names: Collection[str]) -> list[str]:
    """Those of the model, and of its adapters, without the optimizer's."""
    tensors = [name for name in names if name.endswith(".safetensors")]
    return [name for name in tensors if not name.startswith(STATE)]


# --- what a user calls a checkpoint -------------------------------------------------------------------------


def find_model(ckpt: str) -> str:
    """Turn what a user calls a checkpoint into something `load_policy` takes.

    A run folder gives its `best`, else `latest`; a step folder, an HF folder, a file (policy.pt), a hub name
    and `embedded:` names stay. Raises UserError for a local path that holds no model, or a damaged one.
    """
    path = Path(ckpt)
    if not path.is_dir():
        return _find_elsewhere(ckpt)
    for name in ("best", "latest", "."):
        if (path / name / "config.json").exists():
            model = (path / name).resolve()
            _refuse_damaged(ckpt, model)
            return str(model)
    if (path / "adapter_config.json").is_file():
        raise UserError(f"ckpt={ckpt}: holds adapters alone, without their model; {_merged_instead(path)}")
    problem = "holds no finished checkpoint (no best, latest or config.json)"
    raise UserError(f"ckpt={ckpt}: {problem}; train first or give a step folder")


def _merged_instead(adapter: Path) -> str:
    """Which folder to give in the place of one of adapters."""
    above = adapter.resolve().parent
    if (above / "config.json").is_file():  # a checkpoint of ours holds them merged as well
        return f"give {above}, where they are merged"
    return (
        'merge them first, and give the folder of the result: python -c "import peft; '
        f"peft.AutoPeftModelForCausalLM.from_pretrained('{adapter}').merge_and_unload()"
        ".save_pretrained('merged')\", with the model's tokenizer beside it"
    )


def _find_elsewhere(ckpt: str) -> str:
    """The name as it is, of a file or of a model that is no local folder. Raises UserError for others."""
    is_file = Path(ckpt).is_file()
    if is_file or ckpt.startswith("embedded:") or HUB_NAME.fullmatch(ckpt):
        return ckpt  # what is no path is a hub name
    remedy = "give a run folder, a step folder, an HF folder, a policy.pt or a hub name"
    raise UserError(f"ckpt={ckpt}: no such folder or file; {remedy}")


def _refuse_damaged(ckpt: str, model: Path) -> None:
    """Raises UserError where a manifest tells of other weights than those in the folder."""
    if not (model / STATE / "manifest.json").exists():
        return
    problem = damage(model, all_files=False)
    if problem:
        raise UserError(
            f"ckpt={ckpt}: {model} is damaged ({problem}); give another step folder or train again"
        )


def find_run(ckpt: str) -> Path | None:
    """The run folder (with config.yaml) that a checkpoint belongs to, or None."""
    path = Path(ckpt)
    if not path.exists():
        return None
    for run in (path, path.resolve().parent):
        if (run / "config.yaml").is_file():
            return run
    return None
