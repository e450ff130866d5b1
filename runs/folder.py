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
import secrets
import shutil
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from utils import UNSUPPORTED, UserError, atomic_path, log, to_disk, where_supported, write_json

STATE = "trainer_state"
OPTIMIZER = "trainer_state/optimizer"
RUN_ID = "run_id.txt"
LINKS = ("latest", "best")
THREADS = 8  # that read and flush files at the same time
STEP = re.compile(r"step-\d{6,}")
# names that this project gives to what it has not finished, and nobody else
WRITTEN = r"((config|start|data_audit|run_id|wandb_id|not-finite-step-\d+)\.(yaml|json|txt))"
HALF_DONE = re.compile(
    rf"\.(saving-[a-z0-9_]{{8}}|replaced-step-\d{{6,}}|(latest|best)\.new|{WRITTEN}\.[a-z0-9_]{{8}})"
)
HUB_NAME = re.compile(r"(?!outputs/)\w[\w.-]*(/[\w.-]+)?")


# --- whose folder it is -------------------------------------------------------------------------------------


class Claim(NamedTuple):
    """A run folder that this process took. Whoever takes the folder at its path later leaves another id."""

    path: Path
    owner: str = ""  # the id in it; "": nothing is ever written there
    place: tuple[int, int] = (0, 0)  # the folder's device and inode

    def check(self) -> None:
        """Raises UserError where the folder at this path is another run's now, and OSError where there is
        none."""
        if not self.owner:
            return
        is_same_place = _place(self.path) == self.place
        try:
            owner = (self.path / RUN_ID).read_text().strip()
        except FileNotFoundError:  # somebody tidied up
            owner = self.owner if is_same_place else None
        if owner != self.owner:
            raise UserError(
                f"run folder {self.path}: another run took its place since this one began, so nothing more "
                "is written there; choose another exp_name"
            )


def claim(path: Path) -> Claim:
    """Take a folder. Only for one that holds its lock."""
    owner = secrets.token_hex(8)
    with atomic_path(path / RUN_ID) as temporary:
        temporary.write_text(f"{owner}\n")
    return Claim(path, owner, _place(path))


def _place(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def is_foreign(path: Path) -> bool:
    """Does a folder hold files, and nothing that tells of a run?"""
    names = {entry.name for entry in path.iterdir() if not entry.name.startswith(f".{RUN_ID}.")}
    is_run = _has_id(path) or _has_step(path) or _has_config(path) or _has_begun(path, names)
    return bool(names) and not is_run


def _has_id(path: Path) -> bool:
    return re.fullmatch(r"[0-9a-f]{16}\s*", _start_of(path / RUN_ID)) is not None


def _has_step(path: Path) -> bool:
    """A step folder, or what a copy has in place of a link to one?"""
    return any((step / STATE).is_dir() for step in (*steps(path), *(path / name for name in LINKS)))


def _has_config(path: Path) -> bool:
    keys = re.findall(r"^(exp_name|datasets|loss|model):", _start_of(path / "config.yaml"), re.M)
    return len(set(keys)) == 4


def _has_begun(path: Path, names: Collection[str]) -> bool:
    """Is there what a run that died at its very start leaves, and nothing else?"""
    is_log = re.match(r"\d\d:\d\d:\d\d ", _start_of(path / "train.log"))
    others = {name for name in names if not HALF_DONE.fullmatch(name)}
    return is_log is not None and others <= {"train.log", "data_audit.json"}


def _start_of(path: Path) -> str:
    """The first characters of a file; "" where there is none that can be read."""
    try:
        with path.open(errors="replace") as file:
            return file.read(20_000)
    except OSError:
        return ""


# --- steps and links ----------------------------------------------------------------------------------------


def step_folder(run: Path, step: int) -> Path:
    """Where a run keeps the checkpoint of a step."""
    return run / f"step-{step:06d}"


def steps(run: Path) -> list[Path]:
    """The step folders of a run, oldest first."""
    folders = [path for path in run.glob("step-*") if STEP.fullmatch(path.name)]
    return sorted(folders, key=number)


def holds_steps(run: Path) -> bool:
    """Is there any checkpoint, those that only `tidy` and `mend_links` bring back included?"""
    copies = [run / name for name in LINKS if (run / name).is_dir()]
    return bool(steps(run) or copies or list(run.glob(".replaced-step-*")))


def number(path: Path) -> int:
    """The step of a step folder. Raises ValueError for another name."""
    return int(path.name.rpartition("-")[2])


def link(path: Path, target: str) -> None:
    """Point `path` at the folder `target` beside it, at once: it is never absent.

    Where the file system has no links, `path` becomes a file that holds the name.
    """
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    try:
        temporary.symlink_to(target)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        temporary.write_text(f"{target}\n")
    os.replace(temporary, path)


def target_of(path: Path) -> Path | None:
    """The folder that a link, or a file in its place, leads to; None where there is none."""
    if path.is_file():
        name = _start_of(path).strip()
        path = path.with_name(name) if STEP.fullmatch(name) else path
    return path.resolve() if path.is_dir() else None


def link_back(run: Path, step: int, best_step: int | None) -> None:
    """Point the links as they stood when `step` was saved: a run may die between two links."""
    link(run / "latest", step_folder(run, step).name)
    best = step_folder(run, best_step or 0)
    linked = target_of(run / "best")
    if best.exists():
        link(run / "best", best.name)
    elif linked is None or number(linked) > step:
        # its folder is gone, or a later one that this run does not know yet
        (run / "best").unlink(missing_ok=True)


def mend_links(run: Path) -> None:
    """Make links again of `latest` and `best`, where a copy of the run has folders in their place.

    Only for one that holds the run's lock. A folder goes only where its step's own is there and the same; one
    that is damaged, or differs, is moved aside.
    """
    for copy in (run / name for name in LINKS):
        if copy.is_symlink() or not copy.is_dir():
            continue
        name = _step_name(copy)
        own = run / (name or "")
        is_whole = name is not None and damage(own) is None
        if name is None or (is_whole and _manifest(own) != _manifest(copy)):
            aside = copy.with_name(f"{copy.name}-copied-{secrets.token_hex(4)}")
            log.warning("%s is a folder of its own and no step's: it is now %s", copy, aside.name)
            copy.rename(aside)
            continue
        spare = spare_name(run)
        if is_whole:
            copy.rename(spare)
        else:
            if own.exists():  # damaged, and the copy is not
                own.rename(spare)
            copy.rename(own)
        link(copy, own.name)
        shutil.rmtree(spare, ignore_errors=True)


def _step_name(copy: Path) -> str | None:
    """The name of the step that a folder is a copy of; None where it is none, or damaged."""
    if damage(copy) is not None:
        return None
    state = json.loads((copy / STATE / "state.json").read_text())
    return step_folder(copy.parent, state["step"]).name


def _manifest(path: Path) -> dict[str, list[int | str]]:
    return json.loads((path / STATE / "manifest.json").read_text())


def spare_name(run: Path) -> Path:
    """A new name in a run's folder for what is not finished, or about to go; `tidy` knows it."""
    return run / f".saving-{secrets.token_hex(4)}"


def appear(temporary: Path, path: Path) -> None:
    """Rename a finished folder to its step's name, on the disk; it replaces an earlier one of this step."""
    run = path.parent
    temporary.stat()  # gone with the run's folder, where another has its place: nothing of it must move
    if path.exists():
        # of this step before its validation; tidy() knows the name, should the run die between the two
        path.rename(run / f".replaced-{path.name}")
    temporary.rename(path)
    to_disk(run)


def prune(run: Path, keep_last: int) -> None:
    """Remove the steps that neither a link nor `keep_last` keeps.

    Those after `latest` are damaged or of a life that the run left. What is no checkpoint stays.
    """
    latest, best = target_of(run / "latest"), target_of(run / "best")
    if latest is None:
        return
    kept = {path.name for path in (latest, best) if path is not None}
    lived = [path.name for path in steps(run) if number(path) <= number(latest)]
    kept |= set(lived[-keep_last:])
    for path in (*steps(run), *run.glob(".replaced-step-*")):
        if path.name not in kept and (path / STATE).is_dir():
            going = spare_name(run)
            path.rename(going)
            shutil.rmtree(going, ignore_errors=True)


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
    """Write the manifest of a folder, open it to those who may read new files, and bring it to the disk."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
    names = [str(file.relative_to(path)) for file in files]
    with ThreadPoolExecutor(THREADS) as pool:
        manifest = dict(zip(names, pool.map(_checksum, files)))
        write_json(path / STATE / "manifest.json", manifest)
        _open_to_readers(path)
        list(pool.map(to_disk, [*files, path / STATE, path]))


def _open_to_readers(path: Path) -> None:
    """Give files and folders the mode that new ones get here: some libraries write theirs for one user."""
    of_file = (path / STATE / "manifest.json").stat().st_mode & 0o777
    of_folder = (path / STATE).stat().st_mode & 0o777
    for entry in (path, *path.rglob("*")):
        mode = of_folder if entry.is_dir() else of_file
        if entry.stat().st_mode & 0o777 != mode:
            with where_supported():
                entry.chmod(mode)


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
    path = target_of(Path(ckpt))
    if path is None:
        return _find_elsewhere(ckpt)
    for name in ("best", "latest", "."):
        model = target_of(path / name)
        if model is not None and (model / "config.json").exists():
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
