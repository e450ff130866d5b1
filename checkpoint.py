"""Save and load a run's state: HF folders that anything can open, with what exact resume needs beside them.

Contract: `step-000640/` is an HF model folder plus `trainer_state/` (state.json, manifest.json with the size and checksum of
every file, and optimizer/, where each rank writes its shard). Folders appear by rename, after their bytes are on disk, so one
that is there is complete; what was damaged later is told by the manifest and the one before it is used. `latest` and `best` are
links. All tensors lie in safetensors. No rank gathers a sharded model: every one writes its part, the main rank joins the files
on the disk, and every rank reads its part of them. Adapters alone are gathered, since the HF folder holds them merged.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn
from torch.distributed.checkpoint import (
    CheckpointException,
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from ranks import World, on_main
from utils import UserError, log, to_disk, write_json

FULL = StateDictOptions(full_state_dict=True, cpu_offload=True)
FLAT = StateDictOptions(flatten_optimizer_state_dict=True)
STATE, OPTIMIZER = "trainer_state", "trainer_state/optimizer"
FILE_BYTES = (
    256 * 2**20
)  # of a shard's files: safetensors makes the bytes of a whole file before it writes them
warnings.filterwarnings(
    "ignore", message="torch.distributed is disabled, unavailable or uninitialized"
)  # one process needs none


class Writer:
    """Writes one checkpoint after the other; in the `background` (None: on GPUs) while training goes on, from a copy on the CPU.

    All ranks call its methods in the same order. What goes wrong is raised by the next `save` or `wait`, on all ranks.
    """

    def __init__(self, world: World, background: bool | None = False):
        self.world, self.background = world, world.device.type == "cuda" if background is None else background
        self.pool = ThreadPoolExecutor(1) if self.background else None
        # of its own: its messages must not mix with those of the training that goes on
        self.group = dist.new_group(backend="gloo") if world.size > 1 else None
        self.pending: Future | None = None

    def submit(self, job: Callable[[], None]) -> None:
        if self.pool:
            self.pending = self.pool.submit(job)
        else:
            self.pending = Future()
            try:
                self.pending.set_result(job())
            except UserError as error:
                self.pending.set_exception(error)
            self.wait()

    def wait(self) -> None:
        """Wait for the checkpoint under way. Raises UserError on all ranks where it could not be written."""
        pending, self.pending = self.pending, None
        if pending:
            on_main(self.world, pending.result)
            pending.exception()

    def close(self) -> None:
        """Let the checkpoint under way be finished, without asking the other ranks."""
        if self.pool:
            self.pool.shutdown()


def save(
    run: Path,
    step: int,
    policy: nn.Module,
    optimizer: torch.optim.Optimizer,
    tokenizer,
    state: dict[str, Any],
    writer: Writer,
    best: bool,
    keep_last: int = 1,
) -> Path:
    """Write `run/step-NNNNNN` and point `latest` (and `best`) at it; older steps than the last `keep_last` are then removed.

    Raises UserError on all ranks where the disk refuses, in the background at the next call; the checkpoints before stay.
    """
    writer.wait()
    world, folder = writer.world, run / f"step-{step:06d}"
    state = {**state, "step": step}
    _reshard(policy)
    sharded = world.size > 1 and policy.adapters is None
    weights = _once(policy, get_model_state_dict(policy, options=None if sharded else FULL))
    explain = functools.partial(_explained, run, folder)
    temporary = Path(on_main(world, lambda: explain(lambda: tempfile.mkdtemp(prefix=".saving-", dir=run))))
    # torch would make a step of zeros to see the state of an optimizer that has none
    moments = get_optimizer_state_dict(policy, optimizer, options=FLAT) if optimizer.state else {}
    moments = _tensors(moments)
    if writer.background:  # training goes on in these
        gathered_from_gpu = not sharded and next(policy.parameters()).device.type == "cuda"
        weights, moments = weights if gathered_from_gpu else _copied(weights), _copied(moments)

    def write() -> None:
        try:
            _save_shards(temporary / OPTIMIZER, moments, writer)
            merged, adapters = policy.export(weights)
            if sharded:
                _save_shards(temporary / "weights", merged, writer, whole=True)
            if not world.is_main:
                return
            policy.model.save_pretrained(temporary, state_dict={} if sharded else merged)
            if sharded:
                _take_weights(temporary)
            if adapters:
                policy.adapters.save_pretrained(temporary / "adapter")
                save_file(
                    adapters, temporary / "adapter" / "adapter_model.safetensors", metadata={"format": "pt"}
                )
            tokenizer.save_pretrained(temporary)
            (temporary / STATE).mkdir(exist_ok=True)
            write_json(temporary / STATE / "state.json", state)
            _seal(temporary)
            temporary.chmod(0o755)
            if folder.exists():  # of this step before its validation; tidy() knows the name, should the run die between the two
                folder.rename(run / f".replaced-{folder.name}")
            temporary.rename(folder)
            to_disk(run)
        finally:
            if world.is_main:
                shutil.rmtree(temporary, ignore_errors=True)
        for name in ("latest", "best") if best else ("latest",):
            _link(run / name, folder.name)
        _prune(run, keep_last)

    writer.submit(lambda: explain(write))
    return folder


def _explained(run: Path, folder: Path, action: Callable[[], Any]) -> Any:
    """What `action` returns; raises UserError where the disk refuses."""
    try:
        return action()
    except (OSError, SafetensorError, CheckpointException) as error:
        before = next(
            (f"{run} goes on from {f.name}" for f in reversed(steps(run))), f"{run} holds no checkpoint yet"
        )
        raise UserError(
            f"{folder}: cannot be saved ({_reason(error)}); make room or set output_dir; {before}"
        ) from error


def _once(policy: nn.Module, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights without the further names of tied parameters, which files hold once."""
    first: dict[int, str] = {}
    names = (
        (_state_name(name), id(parameter))
        for name, parameter in policy.named_parameters(remove_duplicate=False)
    )
    again = {name for name, key in names if first.setdefault(key, name) != name}
    return {name: value for name, value in weights.items() if name not in again}


def _copied(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors as they are now, in the CPU's memory."""
    stager = DefaultStager(StagingOptions(False, False, False, False))
    try:
        return stager.stage(tensors)
    finally:
        stager.close()


def _state_name(name: str) -> str:
    """A parameter's name in a state dict: without those of wrappers."""
    return name.replace("_checkpoint_wrapped_module.", "").replace("_orig_mod.", "")


def _tensors(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    """What an optimizer keeps of each parameter, as this rank holds it; its settings are the config's."""
    return {name: value for name, value in state.items() if torch.is_tensor(value)}


def _save_shards(folder: Path, tensors: dict[str, torch.Tensor], writer: Writer, whole: bool = False) -> None:
    """Write every rank's part of the tensors; with `whole`, the main rank then joins them to files that need no shards."""
    if not tensors:
        return
    sizes = torch.tensor([t.numel() * t.element_size() for t in tensors.values()])
    files = dict(zip(tensors, (sizes.cumsum(0) // (FILE_BYTES * writer.world.size) + 1).tolist()))
    dcp.save(
        tensors,
        storage_writer=HuggingFaceStorageWriter(
            str(folder), files, save_distributed=True, enable_consolidation=whole
        ),
        process_group=writer.group,
        no_dist=writer.world.size == 1,
    )


def _take_weights(folder: Path) -> None:
    """Move the joined files of `weights/` to where an HF folder has them, under the names that it gives them."""
    files = sorted((folder / "weights").glob("model*.safetensors"))
    for path in [*files, folder / "weights" / "model.safetensors.index.json"]:
        if len(files) > 1:
            path.rename(folder / path.name)
        elif path in files:
            path.rename(folder / "model.safetensors")
    shutil.rmtree(folder / "weights")


def _reshard(policy: nn.Module) -> None:
    """A forward without a backward (reference, validation) leaves FSDP2's root unsharded, where state dicts expect shards."""
    if hasattr(policy, "reshard"):
        policy.reshard()


def _reason(error: BaseException) -> str:
    if isinstance(error, CheckpointException) and error.failures:  # of any rank
        error = next(iter(error.failures.values()))[0]
    return getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0][:160]


def _seal(folder: Path) -> None:
    """Write the manifest of a folder, and bring every byte to the disk."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    with ThreadPoolExecutor(8) as pool:
        found = dict(zip((str(p.relative_to(folder)) for p in files), pool.map(_checksum, files)))
        write_json(folder / STATE / "manifest.json", found)
        list(pool.map(to_disk, [*files, folder / STATE, folder]))


def _checksum(path: Path) -> list:
    with path.open("rb") as file:
        return [path.stat().st_size, hashlib.file_digest(file, "blake2b").hexdigest()]


def damage(folder: Path, all_files: bool = True) -> str | None:
    """What is wrong with a checkpoint's files, or those of its weights, by its manifest; None where it is as it was written."""
    try:
        manifest = json.loads((folder / STATE / "manifest.json").read_text())
        if all_files and f"{STATE}/optimizer.pt" in manifest:
            return "optimizer.pt is of an older version of this project"
        files = [
            name
            for name in manifest
            if all_files or name.endswith(".safetensors") and not name.startswith(STATE)
        ]
        if absent := next((name for name in files if not (folder / name).is_file()), None):
            return f"{absent} is missing"
        with ThreadPoolExecutor(8) as pool:
            for name, found in zip(files, pool.map(lambda name: _checksum(folder / name), files)):
                if found[0] != manifest[name][0]:
                    return f"{name} has {found[0]} of {manifest[name][0]} bytes"
                if found != manifest[name]:
                    return f"{name} does not match its checksum"
        return None if f"{STATE}/state.json" in manifest else "manifest.json is not whole"
    except OSError as error:
        return f"{Path(error.filename or '').name}: {error.strerror}"
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return "manifest.json is none"


def steps(run: Path) -> list[Path]:
    """The step folders of a run, oldest first."""
    return sorted((p for p in run.glob("step-*") if re.fullmatch(r"step-\d{6,}", p.name)), key=_number)


def _number(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])


def _link(link: Path, target: str) -> None:
    temporary = link.with_name(f".{link.name}.new")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    os.replace(temporary, link)


def _prune(run: Path, keep_last: int) -> None:
    """Remove the steps that neither a link nor `keep_last` keeps; those after `latest` are damaged or of a life that it left."""
    kept = {(run / name).resolve().name for name in ("latest", "best") if (run / name).exists()}
    lived = [f.name for f in steps(run) if _number(f) <= _number((run / "latest").resolve())]
    for folder in (*steps(run), *run.glob(".replaced-*")):
        if folder.name not in kept | set(lived[-keep_last:]):
            shutil.rmtree(folder, ignore_errors=True)


def tidy(run: Path) -> None:
    """Remove what a killed run left half done. Only for one that holds the run's lock."""
    for folder in run.glob(".replaced-step-*"):
        if not (run / folder.name.removeprefix(".replaced-")).exists():
            folder.rename(run / folder.name.removeprefix(".replaced-"))
    for path in run.glob(".*"):
        if re.fullmatch(
            r"\.(saving-.*|replaced-.*|(config\.yaml|data_audit\.json|latest|best)\..*)", path.name
        ):
            shutil.rmtree(
                path, ignore_errors=True
            ) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


def newest_intact(run: Path) -> dict[str, Any] | None:
    """The state of a run's newest checkpoint that is as it was written; None where there is none at all.

    A damaged one is named in a warning and the one before it taken. Raises UserError where all are damaged.
    """
    problems: list[str] = []
    for folder in reversed(steps(run)):
        problem = damage(folder)
        if problem is None:
            state = json.loads((folder / STATE / "state.json").read_text())
            if isinstance(state, dict) and state.get("step") == _number(folder):
                return state
            problem = "state.json is of another step"
        problems.append(f"{folder}: the checkpoint cannot be read ({problem})")
        log.warning("%s; looking for the one before it", problems[-1])
    if problems:
        raise UserError(
            f"{problems[0]}, and no other is intact; remove {'it' if len(problems) == 1 else 'them'} to start the run anew, "
            "or set another exp_name"
        )
    return None


def load_latest(
    run: Path, policy: nn.Module, optimizer: torch.optim.Optimizer, world: World
) -> dict[str, Any] | None:
    """Load the newest intact checkpoint of a run into policy and optimizer; return its state, or None where there is none.

    Raises UserError where none is intact, and where it holds another model's weights.
    """
    state = on_main(world, lambda: newest_intact(run))
    if state is None:
        return None
    folder = run / f"step-{state['step']:06d}"
    trained, name_of = policy.exported(folder)
    reader = HuggingFaceStorageReader(str(trained))
    with _reading(folder):
        stored = {
            name_of(name): (name, entry.size)
            for name, entry in reader.read_metadata().state_dict_metadata.items()
        }
    if problem := _misfit(policy, {name: size for name, (_, size) in stored.items()}):
        raise UserError(
            f"{folder}: holds the weights of another model ({problem}); restore model.name_or_path or set another exp_name"
        )
    if (folder / OPTIMIZER).exists():
        with _reading(folder):
            moments = _load_shards(folder / OPTIMIZER, policy, optimizer, world)
        set_optimizer_state_dict(policy, optimizer, moments, options=FLAT)
    _reshard(policy)
    with _reading(folder):  # each rank its own part, in place
        dcp.load(
            {
                stored[name][0]: parameter.detach()
                for n, parameter in policy.named_parameters(remove_duplicate=False)
                if (name := _state_name(n)) in stored and parameter.requires_grad
            },
            storage_reader=reader,
            no_dist=world.size == 1,
        )

    def point() -> None:  # as they stood when this step was saved: a run may die between two links
        _link(run / "latest", folder.name)
        best = run / f"step-{state.get('best_step') or 0:06d}"
        if best.exists():
            _link(run / "best", best.name)
        elif not (run / "best").exists() or _number((run / "best").resolve()) > state["step"]:
            (run / "best").unlink(
                missing_ok=True
            )  # its folder is gone, or a later one that this run does not know yet

    on_main(world, point)
    log.info("resumed from %s", folder.name)
    return state


@contextmanager
def _reading(folder: Path) -> Iterator[None]:
    """Raises UserError for whatever goes wrong: safetensors and torch each raise their own kinds for a file that is none of theirs."""
    try:
        yield
    except (Exception, CheckpointException) as error:
        raise UserError(
            f"{folder}: the checkpoint cannot be read ({_reason(error)}); remove it or set another exp_name"
        ) from error


def _load_shards(
    folder: Path, policy: nn.Module, optimizer: torch.optim.Optimizer, world: World
) -> dict[str, Any]:
    """The optimizer's state dict with the tensors of a folder, each rank reading what it holds of them."""
    _reshard(policy)
    held = get_optimizer_state_dict(policy, optimizer, options=FLAT)
    dcp.load(_tensors(held), storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=world.size == 1)
    return held


def _misfit(policy: nn.Module, sizes: dict[str, torch.Size]) -> str | None:
    """The first parameter that is not among those sizes, or in another shape; one that is tied needs one of its names alone."""
    seen: dict[int, bool] = {}
    names: dict[int, str] = {}
    for name, parameter in policy.named_parameters(remove_duplicate=False):
        if not parameter.requires_grad:
            continue  # of the frozen model below adapters
        name = _state_name(name)
        if name in sizes and sizes[name] != parameter.shape:
            return f"{name}: {tuple(sizes[name])} instead of {tuple(parameter.shape)}"
        seen[id(parameter)] = seen.get(id(parameter), False) or name in sizes
        names[id(parameter)] = name
    return next((f"{names[key]} is missing" for key, there in seen.items() if not there), None)


def find_model(ckpt: str) -> str:
    """Turn what a user calls a checkpoint into something `load_policy` takes.

    A run folder gives its `best`, else `latest`; a step folder, an HF folder, a file (policy.pt), a hub name and `embedded:`
    names stay. Raises UserError for a local path that holds no model.
    """
    path = Path(ckpt)
    if not path.is_dir():
        if (
            path.is_file()
            or ckpt.startswith("embedded:")
            or re.fullmatch(r"(?!outputs/)\w[\w.-]*(/[\w.-]+)?", ckpt)
        ):
            return ckpt  # what is no path is a hub name
        raise UserError(
            f"ckpt={ckpt}: no such folder or file; give a run folder, a step folder, an HF folder, a policy.pt or a hub name"
        )
    for name in ("best", "latest", "."):
        if (path / name / "config.json").exists():
            found = (path / name).resolve()
            if (found / STATE / "manifest.json").exists() and (problem := damage(found, all_files=False)):
                raise UserError(
                    f"ckpt={ckpt}: {found} is damaged ({problem}); give another step folder or train again"
                )
            return str(found)
    raise UserError(
        f"ckpt={ckpt}: holds no finished checkpoint (no best, latest or config.json); train first or give a step folder"
    )


def find_run(ckpt: str) -> Path | None:
    """The run folder (with config.yaml) that a checkpoint belongs to, or None."""
    path = Path(ckpt)
    return next(
        (p for p in (path, path.resolve().parent) if path.exists() and (p / "config.yaml").is_file()), None
    )
