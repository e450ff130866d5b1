"""Save and load a run's state: HF folders that anything can open, with what exact resume needs beside them.

Contract: `step-000640/` is an HF model folder plus `trainer_state/` (state.json, manifest.json and
optimizer/, where each rank writes its shard). A damaged one is told by its manifest, and the one before it is
used. No rank gathers a sharded model (see `runs.shards`); adapters alone are gathered, since the HF folder
holds them merged.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch.distributed.checkpoint import CheckpointException, HuggingFaceStorageReader
from transformers import PreTrainedTokenizerBase

import models
from ranks import World, on_main
from runs import folder, shards
from runs.shards import Tensors
from runs.state import State, from_json, to_json
from utils import Stopped, UserError, log, write_json

SHARD_SIZE = "4GB"  # of a file of converted weights: so much of them is in memory at once

# --- save ---------------------------------------------------------------------------------------------------


class Writer:
    """Writes one checkpoint after the other, of which the last `keep_last` stay.

    background: write while training goes on, from a copy on the CPU (None: on GPUs). claim: of the run's
    folder, where another run may have taken it since. All ranks call its methods in the same order. What goes
    wrong is raised by the next `save` or `wait`, on all ranks.
    """

    def __init__(
        self,
        world: World,
        background: bool | None = False,
        keep_last: int = 1,
        claim: folder.Claim | None = None,
    ):
        self.world, self.claim = world, claim
        self.background = world.device.type == "cuda" if background is None else background
        self.keep_last = keep_last
        self.pool = ThreadPoolExecutor(1) if self.background else None
        # of its own: its messages must not mix with those of the training that goes on
        self.group = dist.new_group(backend="gloo") if world.size > 1 else None
        self.pending: Future | None = None

    def submit(self, job: Callable[[], None]) -> None:
        """Do the job, or begin it in the background. Raises UserError on all ranks where it fails at once."""
        if self.pool:
            self.pending = self.pool.submit(job)
            return
        done: Future = Future()
        try:
            done.set_result(job())
        except UserError as error:
            done.set_exception(error)
        self.pending = done
        self.wait()

    def wait(self) -> None:
        """Wait for the checkpoint under way. Raises UserError on all ranks where it could not be written."""
        pending, self.pending = self.pending, None
        if pending:
            on_main(self.world, pending.result)
            pending.exception()

    def check_claim(self) -> None:
        """Raises UserError, or OSError, where the run's folder is no longer its own."""
        if self.claim is not None:
            self.claim.check()

    def close(self) -> None:
        """Let the checkpoint under way be finished, without asking the other ranks."""
        if self.pool:
            self.pool.shutdown()


class Snapshot(NamedTuple):
    """What a checkpoint will hold. With a writer in the background, its tensors are copies."""

    path: Path  # the step folder to be
    temporary: Path  # where it is written first
    policy: models.Scorer
    tokenizer: PreTrainedTokenizerBase
    weights: Tensors  # in the policy's names: this rank's shards, or all on the main rank
    moments: Tensors  # the optimizer's
    is_sharded: bool
    state: State
    best: bool


def save(
    run: Path,
    policy: models.Scorer,
    optimizer: torch.optim.Optimizer,
    tokenizer: PreTrainedTokenizerBase,
    state: State,
    writer: Writer,
    best: bool = False,
) -> Path:
    """Write `run/step-NNNNNN` of the state's step and point `latest` (and `best`) at it; give its path.

    Older steps than the last `writer.keep_last` are then removed. Raises UserError on all ranks where the
    disk refuses, in the background at the next call; the checkpoints before stay.
    """
    writer.wait()
    world = writer.world
    path = folder.step_folder(run, state.step)
    is_sharded = world.size > 1 and policy.adapters is None
    weights = shards.weights_of(policy, whole=not is_sharded)
    temporary = _make_temporary(path, writer)
    moments = shards.moments_of(policy, optimizer)
    if writer.background:  # training goes on in these
        gathered_from_gpu = not is_sharded and next(policy.parameters()).device.type != "cpu"
        weights = weights if gathered_from_gpu else shards.copied(weights)
        moments = shards.copied(moments)
    snapshot = Snapshot(path, temporary, policy, tokenizer, weights, moments, is_sharded, state, best)
    writer.submit(lambda: _write(snapshot, writer))
    return path


def _make_temporary(path: Path, writer: Writer) -> Path:
    """A new folder beside a step's, the same on all ranks."""

    def make() -> Path:
        with _saving(path):
            writer.check_claim()
            temporary = folder.spare_name(path.parent)
            temporary.mkdir()
            return temporary

    return on_main(writer.world, make)


def _write(snapshot: Snapshot, writer: Writer) -> None:
    """Write a checkpoint: every rank its shards, and the main one all else."""
    with _saving(snapshot.path):
        try:
            merged, adapters = _write_shards(snapshot, writer)
            if writer.world.is_main:
                _write_model(snapshot, merged, adapters)
                _finish(snapshot, writer)
        finally:
            if writer.world.is_main:
                shutil.rmtree(snapshot.temporary, ignore_errors=True)
        if writer.world.is_main:
            _point(snapshot, writer)


def _write_shards(snapshot: Snapshot, writer: Writer) -> tuple[Tensors, Tensors]:
    """Write what every rank has a part of; give the weights, adapters merged into them, and the adapters."""
    shards.write(snapshot.temporary / folder.OPTIMIZER, snapshot.moments, writer.group)
    merged, adapters = snapshot.policy.export(snapshot.weights)
    if snapshot.is_sharded:
        shards.write(snapshot.temporary / "weights", merged, writer.group, join=True)
    return merged, adapters


def _write_model(snapshot: Snapshot, merged: Tensors, adapters: Tensors) -> None:
    """Write the HF folder: config, weights, adapters, tokenizer."""
    temporary = snapshot.temporary
    model = snapshot.policy.model
    if not snapshot.is_sharded:
        model.save_pretrained(temporary, state_dict=merged)
    elif models.keeps_names(model, merged):
        model.save_pretrained(temporary, state_dict={})
        shards.take_weights(temporary)
    else:  # transformers turns them into the tensors of its files, which takes all of one layer at once
        model.save_pretrained(temporary, state_dict=shards.joined(temporary), max_shard_size=SHARD_SIZE)
        shutil.rmtree(temporary / "weights")
    if adapters:
        snapshot.policy.adapters.save_pretrained(temporary / "adapter")
        adapter_file = temporary / "adapter" / "adapter_model.safetensors"
        save_file(adapters, adapter_file, metadata={"format": "pt"})
    snapshot.tokenizer.save_pretrained(temporary)


def _finish(snapshot: Snapshot, writer: Writer) -> None:
    """Write the state and the manifest, and let the folder appear."""
    temporary = snapshot.temporary
    (temporary / folder.STATE).mkdir(exist_ok=True)
    write_json(temporary / folder.STATE / "state.json", to_json(snapshot.state))
    folder.seal(temporary)
    writer.check_claim()
    folder.appear(temporary, snapshot.path)


def _point(snapshot: Snapshot, writer: Writer) -> None:
    """Point the links at the new folder and remove those that nothing keeps."""
    run = snapshot.path.parent
    writer.check_claim()
    folder.link(run / "latest", snapshot.path.name)
    if snapshot.best:
        folder.link(run / "best", snapshot.path.name)
    folder.prune(run, writer.keep_last)


@contextmanager
def _saving(path: Path) -> Iterator[None]:
    """Raises UserError where the disk refuses to hold this step's folder."""
    try:
        yield
    except (OSError, SafetensorError, CheckpointException) as error:
        _raise_stop(error)
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


def load_latest(
    run: Path, policy: models.Scorer, optimizer: torch.optim.Optimizer, world: World
) -> State | None:
    """Load the newest intact checkpoint of a run into policy and optimizer.

    Returns its state, or None where there is none. Raises UserError where none is intact, and where it holds
    another model's weights.
    """
    state = on_main(world, lambda: newest_intact(run))
    if state is None:
        return None
    path = folder.step_folder(run, state.step)
    if policy.adapters is None and not models.keeps_names(policy.model, policy.named_weights()):
        models.load_folder(policy, path, world)
    else:
        _read_weights(path, policy, world)
    _load_moments(path, policy, optimizer, world, state.step)
    on_main(world, lambda: folder.link_back(run, state.step, state.best_step))
    log.info("resumed from %s", path.name)
    return state


def _read_weights(path: Path, policy: models.Scorer, world: World) -> None:
    """Read what is trained from a step folder, every rank its own part. Raises UserError where it is of
    another model, before anything is read.
    """
    trained, name_of = policy.exported(path)
    reader = HuggingFaceStorageReader(str(trained))
    with _reading(path):
        entries = reader.read_metadata().state_dict_metadata
    sizes = {name_of(name): entry.size for name, entry in entries.items()}
    problem = shards.misfit(policy, sizes)
    if problem:
        problem = f"holds the weights of another model ({problem})"
        raise UserError(f"{path}: {problem}; restore model.name_or_path or set another exp_name")
    with _reading(path):
        stored_names = {name_of(name): name for name in entries}
        shards.read_weights(policy, reader, stored_names, is_alone=world.size == 1)


def _load_moments(
    path: Path, policy: models.Scorer, optimizer: torch.optim.Optimizer, world: World, step: int
) -> None:
    """Give the optimizer what a step folder holds of it, if anything."""
    if not (path / folder.OPTIMIZER).exists():
        return
    with _reading(path):
        where = path / folder.OPTIMIZER
        moments, without = shards.read_moments(where, policy, optimizer, is_alone=world.size == 1)
    shards.set_moments(policy, optimizer, moments, without, step)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Raises UserError for whatever goes wrong.

    safetensors and torch each raise their own kinds for a file that is none of theirs.
    """
    try:
        yield
    except (Exception, CheckpointException) as error:
        _raise_stop(error)
        problem = f"the checkpoint cannot be read ({_reason(error)})"
        raise UserError(f"{path}: {problem}; remove it or set another exp_name") from error


# --- what went wrong ----------------------------------------------------------------------------------------


def _raise_stop(error: BaseException) -> None:
    """Raises the signal that a CheckpointException holds: torch takes it for a fault of the rank."""
    failures = error.failures.values() if isinstance(error, CheckpointException) else ()
    for failure, _ in failures:
        if isinstance(failure, Stopped | KeyboardInterrupt):
            raise failure from None


def _reason(error: BaseException) -> str:
    """What went wrong, on one line of at most 160 characters."""
    if isinstance(error, CheckpointException) and error.failures:  # of any rank
        error = next(iter(error.failures.values()))[0]
    if getattr(error, "strerror", None):
        return error.strerror
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0][:160]
