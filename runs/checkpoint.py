"""Save and load a run's state: HF folders that anything can open, with what exact resume needs beside them.

Contract: `step-000640/` is an HF model folder plus `trainer_state/` (state.json, manifest.json and optimizer/,
where each rank writes its shard). A damaged one is told by its manifest, and the one before it is used. All
tensors lie in safetensors. No rank gathers a sharded model: every one writes its part, the main rank joins the
files on the disk, and every rank reads its part of them. Adapters alone are gathered, since the HF folder
holds them merged.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

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
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedTokenizerBase

from models import Scorer
from ranks import World, on_main
from runs import folder
from runs.state import State, from_json, to_json
from utils import UserError, log, write_json

FULL = StateDictOptions(full_state_dict=True, cpu_offload=True)
FLAT = StateDictOptions(flatten_optimizer_state_dict=True)
# of a shard's files: safetensors makes the bytes of a whole file before it writes them
FILE_BYTES = 256 * 2**20
# one process needs none
warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")

Tensors = dict[str, torch.Tensor]


# --- save ---------------------------------------------------------------------------------------------------


class Writer:
    """Writes one checkpoint after the other, of which the last `keep_last` stay.

    background: write while training goes on, from a copy on the CPU (None: on GPUs). All ranks call its methods
    in the same order. What goes wrong is raised by the next `save` or `wait`, on all ranks.
    """

    def __init__(self, world: World, background: bool | None = False, keep_last: int = 1):
        self.world = world
        self.background = world.device.type == "cuda" if background is None else background
        self.keep_last = keep_last
        self.pool = ThreadPoolExecutor(1) if self.background else None
        # of its own: its messages must not mix with those of the training that goes on
        self.group = dist.new_group(backend="gloo") if world.size > 1 else None
        self.pending: Future | None = None

    def submit(self, job: Callable[[], None]) -> None:
        """Do the job, or begin it in the background. Raises UserError on all ranks where it is done and failed."""
        if self.pool:
            self.pending = self.pool.submit(job)
            return
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


class Snapshot(NamedTuple):
    """What a checkpoint will hold. With a writer in the background, its tensors are copies."""

    path: Path  # the step folder to be
    temporary: Path  # where it is written first
    policy: Scorer
    tokenizer: PreTrainedTokenizerBase
    weights: Tensors  # in the policy's names: this rank's shards, or all on the main rank
    moments: Tensors  # the optimizer's
    is_sharded: bool
    state: State
    best: bool


def save(
    run: Path,
    policy: Scorer,
    optimizer: torch.optim.Optimizer,
    tokenizer: PreTrainedTokenizerBase,
    state: State,
    writer: Writer,
    best: bool = False,
) -> Path:
    """Write `run/step-NNNNNN` of the state's step and point `latest` (and `best`) at it; give its path.

    Older steps than the last `writer.keep_last` are then removed. Raises UserError on all ranks where the disk
    refuses, in the background at the next call; the checkpoints before stay.
    """
    writer.wait()
    world = writer.world
    path = folder.step_folder(run, state.step)
    _reshard(policy)
    is_sharded = world.size > 1 and policy.adapters is None
    weights = _once(policy, get_model_state_dict(policy, options=None if is_sharded else FULL))
    temporary = _make_temporary(path, world)
    moments = _moments(policy, optimizer)
    if writer.background:  # training goes on in these
        gathered_from_gpu = not is_sharded and next(policy.parameters()).device.type == "cuda"
        weights = weights if gathered_from_gpu else _copied(weights)
        moments = _copied(moments)
    snapshot = Snapshot(path, temporary, policy, tokenizer, weights, moments, is_sharded, state, best)
    writer.submit(lambda: _write(snapshot, writer))
    return path


def _once(policy: nn.Module, weights: Tensors) -> Tensors:
    """The weights without the further names of tied parameters, which files hold once."""
    first: dict[int, str] = {}
    again: set[str] = set()
    for name, parameter in policy.named_parameters(remove_duplicate=False):
        name = _state_name(name)
        if first.setdefault(id(parameter), name) != name:
            again.add(name)
    return {name: value for name, value in weights.items() if name not in again}


def _make_temporary(path: Path, world: World) -> Path:
    """A new folder beside a step's, the same on all ranks."""

    def make() -> str:
        with _saving(path):
            return tempfile.mkdtemp(prefix=".saving-", dir=path.parent)

    return Path(on_main(world, make))


def _moments(policy: nn.Module, optimizer: torch.optim.Optimizer) -> Tensors:
    """What the optimizer keeps of each parameter, as this rank holds it."""
    if not optimizer.state:
        return {}  # torch would make a step of zeros to see the state of an optimizer that has none
    return _tensors(get_optimizer_state_dict(policy, optimizer, options=FLAT))


def _copied(tensors: Tensors) -> Tensors:
    """The tensors as they are now, in the CPU's memory."""
    stager = DefaultStager(StagingOptions(False, False, False, False))
    try:
        return stager.stage(tensors)
    finally:
        stager.close()


def _write(snapshot: Snapshot, writer: Writer) -> None:
    """Write a checkpoint: every rank its shards, and the main one all else."""
    with _saving(snapshot.path):
        try:
            merged, adapters = _write_shards(snapshot, writer)
            if writer.world.is_main:
                _write_model(snapshot, merged, adapters)
                _finish(snapshot)
        finally:
            if writer.world.is_main:
                shutil.rmtree(snapshot.temporary, ignore_errors=True)
        if writer.world.is_main:
            _point(snapshot, writer.keep_last)


def _write_shards(snapshot: Snapshot, writer: Writer) -> tuple[Tensors, Tensors]:
    """Write what every rank has a part of; give the weights, adapters merged into them, and the adapters."""
    _save_shards(snapshot.temporary / folder.OPTIMIZER, snapshot.moments, writer)
    merged, adapters = snapshot.policy.export(snapshot.weights)
    if snapshot.is_sharded:
        _save_shards(snapshot.temporary / "weights", merged, writer, whole=True)
    return merged, adapters


def _write_model(snapshot: Snapshot, merged: Tensors, adapters: Tensors) -> None:
    """Write the HF folder: config, weights, adapters, tokenizer."""
    temporary = snapshot.temporary
    snapshot.policy.model.save_pretrained(temporary, state_dict={} if snapshot.is_sharded else merged)
    if snapshot.is_sharded:
        _take_weights(temporary)
    if adapters:
        snapshot.policy.adapters.save_pretrained(temporary / "adapter")
        adapter_file = temporary / "adapter" / "adapter_model.safetensors"
        save_file(adapters, adapter_file, metadata={"format": "pt"})
    snapshot.tokenizer.save_pretrained(temporary)


def _finish(snapshot: Snapshot) -> None:
    """Write the state and the manifest, and let the folder appear."""
    temporary = snapshot.temporary
    (temporary / folder.STATE).mkdir(exist_ok=True)
    write_json(temporary / folder.STATE / "state.json", to_json(snapshot.state))
    folder.seal(temporary)
    temporary.chmod(0o755)
    folder.appear(temporary, snapshot.path)


def _point(snapshot: Snapshot, keep_last: int) -> None:
    """Point the links at the new folder and remove those that nothing keeps."""
    run = snapshot.path.parent
    folder.link(run / "latest", snapshot.path.name)
    if snapshot.best:
        folder.link(run / "best", snapshot.path.name)
    folder.prune(run, keep_last)


def _save_shards(path: Path, tensors: Tensors, writer: Writer, whole: bool = False) -> None:
    """Write every rank's part of the tensors into a folder.

    whole: the main rank then joins them to files that need no shards.
    """
    if not tensors:
        return
    ranks = writer.world.size
    ends = torch.tensor([t.numel() * t.element_size() for t in tensors.values()]).cumsum(0)
    file_numbers = (ends // (FILE_BYTES * ranks) + 1).tolist()
    storage = HuggingFaceStorageWriter(
        str(path), dict(zip(tensors, file_numbers)), save_distributed=True, enable_consolidation=whole
    )
    dcp.save(tensors, storage_writer=storage, process_group=writer.group, no_dist=ranks == 1)


def _take_weights(path: Path) -> None:
    """Move the joined files of `weights/` to where an HF folder has them, under the names that it gives them."""
    files = sorted((path / "weights").glob("model*.safetensors"))
    if len(files) == 1:
        files[0].rename(path / "model.safetensors")
    else:
        for file in [*files, path / "weights" / "model.safetensors.index.json"]:
            file.rename(path / file.name)
    shutil.rmtree(path / "weights")


@contextmanager
def _saving(path: Path) -> Iterator[None]:
    """Raises UserError where the disk refuses to hold this step's folder."""
    try:
        yield
    except (OSError, SafetensorError, CheckpointException) as error:
        run = path.parent
        before = folder.steps(run)
        rest = f"{run} goes on from {before[-1].name}" if before else f"{run} holds no checkpoint yet"
        remedy = "make room or set output_dir"
        raise UserError(f"{path}: cannot be saved ({_reason(error)}); {remedy}; {rest}") from error


# --- load ---------------------------------------------------------------------------------------------------


def newest_intact(run: Path) -> State | None:
    """The state of a run's newest checkpoint that is as it was written; None where there is none at all.

    A damaged one is named in a warning and the one before it taken. Raises UserError where all are damaged.
    """
    problems: list[str] = []
    for path in reversed(folder.steps(run)):
        try:
            return _intact_state(path)
        except ValueError as error:
            problems.append(f"{path}: the checkpoint cannot be read ({error})")
            log.warning("%s; looking for the one before it", problems[-1])
    if problems:
        which = "it" if len(problems) == 1 else "them"
        remedy = f"remove {which} to start the run anew, or set another exp_name"
        raise UserError(f"{problems[0]}, and no other is intact; {remedy}")
    return None


def _intact_state(path: Path) -> State:
    """The state in a step folder. Raises ValueError that says what is damaged."""
    problem = folder.damage(path)
    if problem:
        raise ValueError(problem)
    values = json.loads((path / folder.STATE / "state.json").read_text())
    if not isinstance(values, dict) or values.get("step") != folder.number(path):
        raise ValueError("state.json is of another step")
    return from_json(values)


def load_latest(run: Path, policy: Scorer, optimizer: torch.optim.Optimizer, world: World) -> State | None:
    """Load the newest intact checkpoint of a run into policy and optimizer.

    Returns its state, or None where there is none. Raises UserError where none is intact, and where it holds
    another model's weights.
    """
    state = on_main(world, lambda: newest_intact(run))
    if state is None:
        return None
    path = folder.step_folder(run, state.step)
    trained, name_of = policy.exported(path)
    reader = HuggingFaceStorageReader(str(trained))
    with _reading(path):
        entries = reader.read_metadata().state_dict_metadata
    sizes = {name_of(name): entry.size for name, entry in entries.items()}
    if problem := _misfit(policy, sizes):
        problem = f"holds the weights of another model ({problem})"
        raise UserError(f"{path}: {problem}; restore model.name_or_path or set another exp_name")
    _load_moments(path, policy, optimizer, world)
    _reshard(policy)
    stored_names = {name_of(name): name for name in entries}
    _load_weights(path, policy, reader, stored_names, world)
    on_main(world, lambda: folder.link_back(run, state.step, state.best_step))
    log.info("resumed from %s", path.name)
    return state


def _load_moments(path: Path, policy: nn.Module, optimizer: torch.optim.Optimizer, world: World) -> None:
    """Give the optimizer what a step folder holds of it, if anything; each rank reads its own part."""
    shards = path / folder.OPTIMIZER
    if not shards.exists():
        return
    with _reading(path):
        _reshard(policy)
        held = get_optimizer_state_dict(policy, optimizer, options=FLAT)
        reader = HuggingFaceStorageReader(str(shards))
        dcp.load(_tensors(held), storage_reader=reader, no_dist=world.size == 1)
    set_optimizer_state_dict(policy, optimizer, held, options=FLAT)


def _load_weights(
    path: Path,
    policy: nn.Module,
    reader: HuggingFaceStorageReader,
    stored_names: dict[str, str],
    world: World,
) -> None:
    """Read what is trained, each rank its own part, in place. stored_names: from the policy's names to the files'."""
    with _reading(path):
        tensors = {
            stored_names[name]: parameter.detach()
            for name, parameter in _trained(policy)
            if name in stored_names
        }
        dcp.load(tensors, storage_reader=reader, no_dist=world.size == 1)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Raises UserError for whatever goes wrong.

    safetensors and torch each raise their own kinds for a file that is none of theirs.
    """
    try:
        yield
    except (Exception, CheckpointException) as error:
        problem = f"the checkpoint cannot be read ({_reason(error)})"
        raise UserError(f"{path}: {problem}; remove it or set another exp_name") from error


def _misfit(policy: nn.Module, sizes: dict[str, torch.Size]) -> str | None:
    """The first parameter that is not among those sizes, or in another shape.

    One that is tied needs one of its names alone.
    """
    is_stored: dict[int, bool] = {}
    names: dict[int, str] = {}
    for name, parameter in _trained(policy):
        if name in sizes and sizes[name] != parameter.shape:
            return f"{name}: {tuple(sizes[name])} instead of {tuple(parameter.shape)}"
        key = id(parameter)
        is_stored[key] = is_stored.get(key, False) or name in sizes
        names[key] = name
    for key, name in names.items():
        if not is_stored[key]:
            return f"{name} is missing"
    return None


# --- both ---------------------------------------------------------------------------------------------------


def _trained(policy: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Parameters under all their names in a state dict, without those of the frozen model below adapters."""
    for name, parameter in policy.named_parameters(remove_duplicate=False):
        if parameter.requires_grad:
            yield _state_name(name), parameter


def _state_name(name: str) -> str:
    """A parameter's name in a state dict: without those of wrappers."""
    return name.replace("_checkpoint_wrapped_module.", "").replace("_orig_mod.", "")


def _tensors(state: dict[str, Any]) -> Tensors:
    """What an optimizer keeps of each parameter, as this rank holds it; its settings are the config's."""
    return {name: value for name, value in state.items() if torch.is_tensor(value)}


def _reshard(policy: nn.Module) -> None:
    """Bring FSDP2's root back to shards, as state dicts expect it.

    A forward without a backward (reference, validation) leaves it unsharded.
    """
    if isinstance(policy, FSDPModule):
        policy.reshard()


def _reason(error: BaseException) -> str:
    """What went wrong, on one line of at most 160 characters."""
    if isinstance(error, CheckpointException) and error.failures:  # of any rank
        error = next(iter(error.failures.values()))[0]
    if getattr(error, "strerror", None):
        return error.strerror
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0][:160]
