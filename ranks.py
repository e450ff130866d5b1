"""Processes: start them, share work and words among them, leave together.

Contract: every function here that talks to other ranks is called by all of them, in the same order. A process
that runs alone is rank 0 of 1 and pays for nothing.
"""

from __future__ import annotations

import datetime
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

import devices
from machine import free_memory, num_cores
from utils import LAUNCHER, STOPS, UserError, is_ignored

Job = TypeVar("Job")
Result = TypeVar("Result")
PEER_TIMEOUT = datetime.timedelta(
    minutes=30
)  # a dead peer is noticed at once; this ends the wait for one that hangs
LAST_WORDS = 30  # seconds that ranks get to end by themselves after one of them failed
RANK_BYTES = 0.5e9  # of memory that a process takes at least: torch and transformers alone
TURN = 1.0  # seconds
LAST = object()  # behind the last step of some work
USER_MESSAGES = (b"error: ", b"stopped by ")  # what all ranks print alike


class World(NamedTuple):
    """Where this process stands: `rank` of `size`, its `device`, and the mesh to
    shard over (None: one process)."""

    rank: int
    size: int
    device: torch.device
    mesh: DeviceMesh | None

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def is_first_of_machine(self) -> bool:
        """Does this process do what a machine needs once?"""
        return self.size == 1 or int(os.environ.get("LOCAL_RANK", self.rank)) == 0


# --- start and leave ----------------------------------------------------------------------------------------


def init_distributed(replicate: int = 1, shard: bool = False, asked: str = "auto") -> World:
    """Join torchrun's process group where there is one (nccl on CUDA, gloo on the CPU).

    Models are sharded over groups of size / `replicate` ranks. A single process gets a mesh only where
    `shard` asks for one. asked: the device, see `devices.choose`. Raises UserError where there is none, and
    where `replicate` does not divide the number of processes.
    """
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    size = int(os.environ.get("WORLD_SIZE", 1))
    device = devices.choose(asked, local_rank)
    if device.type == "mps" and size > 1:
        raise UserError(f"config key device=mps: is for one process, and here are {size}; start one")
    if device.type == "cuda":
        if local_rank >= torch.cuda.device_count():
            problem = f"of this machine has no GPU of its own, there are {torch.cuda.device_count()}"
            raise UserError(f"process {local_rank} {problem}; start as many processes as GPUs")
        torch.cuda.set_device(device)
    if size % replicate:
        problem = f"does not divide the number of processes ({size})"
        raise UserError(f"config key replicate={replicate}: {problem}; set replicate=1")
    if size == 1 and not shard:
        return World(0, 1, device, None)
    if not dist.is_initialized():
        # gloo beside nccl: offloaded weights are reduced on the CPU
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        alone = {"store": dist.HashStore(), "rank": 0, "world_size": 1} if size == 1 else {}
        dist.init_process_group(backend, timeout=PEER_TIMEOUT, **alone)
    shape = (size,) if replicate == 1 else (replicate, size // replicate)
    names = ("replicate", "shard")[-len(shape) :]
    return World(dist.get_rank(), size, device, init_device_mesh(device.type, shape, mesh_dim_names=names))


def seed_everything(seed: int) -> None:
    """Seed python, numpy and torch.
    Training itself draws nothing from them: batches are functions of (seed, step)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def leave_distributed() -> None:
    """Leave the process group where all ranks do: its threads must not outlive the
    interpreter. A rank that fails alone just ends."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and dist.is_initialized():
        dist.barrier()  # a peer that is gone early takes the others' connections with it
        dist.destroy_process_group()


def run_on_ranks(nproc: int | None, device: str = "auto") -> bool:
    """Run the command as `nproc` processes (None: one for each GPU); False where this process is to do it,
    since it is one of them or one is enough.

    Each job of a sweep has ranks of its own. Exits where they fail, which ends the sweep. Raises UserError
    for more processes than the machine can hold, and for a device that it lacks.
    """
    if "WORLD_SIZE" in os.environ:
        if is_sweep() and int(os.environ["WORLD_SIZE"]) > 1:
            raise UserError("--multirun: torchrun cannot start a sweep; start it with python and set nproc")
        return False
    devices.choose(device)
    if nproc is not None:
        _check_count(nproc, device)
    count = nproc or devices.num_gpus(device)
    if count <= 1:
        return False
    code = launch(count)
    if code:
        sys.exit(code)
    return True


def is_sweep() -> bool:
    """Is this process doing a job of --multirun?"""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def _check_count(count: int, device: str) -> None:
    """Raises UserError for more processes than GPUs, or than cores where there are none, or than memory."""
    if device == "mps" and count > 1:
        raise UserError(f"config key nproc={count}: device=mps is for one process; set nproc=1")
    if devices.num_gpus(device):
        most, what = devices.num_gpus(device), "GPUs"
    else:
        most, what = num_cores(), "processor cores"
    memory = free_memory()
    if count * RANK_BYTES > memory and memory / RANK_BYTES < most:
        most, what = (
            max(1, int(memory / RANK_BYTES)),
            f"processes' worth of memory ({memory / 1e9:.1f} GB free)",
        )
    if count > most:
        raise UserError(f"config key nproc={count}: this machine has {most} {what}; set nproc={most} or less")


def launch(count: int) -> int:
    """Run this very command, or the job of a sweep at hand, as `count` local ranks, as torchrun would, and
    return its exit code.

    SIGINT, SIGTERM and SIGHUP are passed on, and a run that saves has the time it needs. Where a rank fails,
    the others get half a minute to end by themselves. Messages of user errors, which all ranks print, are
    shown once. Where this process dies, the ranks are told to end.
    """
    ranks = _start(count)
    held: list[bytes] = []
    readers = [threading.Thread(target=_pass_on, args=(rank.stderr, held), daemon=True) for rank in ranks[1:]]
    for reader in readers:
        reader.start()
    silenced = _wait_for(ranks)
    for reader in readers:
        reader.join(timeout=5)
    codes = [rank.returncode for rank in ranks]
    if held and (silenced or not codes[0]):  # rank 0 said nothing itself
        _say(held[0])
    return _exit_code(codes)


def _start(count: int) -> list[subprocess.Popen]:
    """Start the ranks; all but rank 0 write their errors into a pipe."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, num_cores() // count))
    shared = {
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": threads,
        LAUNCHER: str(os.getpid()),
    }
    command = [sys.executable, sys.argv[0], *job_arguments()]
    ranks: list[subprocess.Popen] = []
    for rank in range(count):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        errors = subprocess.PIPE if rank else None
        try:
            process = subprocess.Popen(
                command, env={**os.environ, **shared, **own}, stderr=errors, start_new_session=True
            )
        except OSError as error:
            for started in ranks:
                started.kill()
            problem = f"process {rank} cannot be started ({error.strerror})"
            raise UserError(f"config key nproc={count}: {problem}; set a smaller nproc") from error
        ranks.append(process)
    return ranks


def job_arguments() -> list[str]:
    """The command line that does the job at hand alone: this one, or that of one job of a sweep."""
    if not is_sweep():
        return sys.argv[1:]
    config = HydraConfig.get()
    paths = {source.provider: source.path for source in config.runtime.config_sources}
    flags = ["--config-path", paths["main"], "--config-name", config.job.config_name]
    if "command-line" in paths:
        flags += ["--config-dir", paths["command-line"]]
    places = [override for override in config.overrides.hydra if override.startswith("hydra.searchpath")]
    return [*flags, *places, *config.overrides.task]


def _pass_on(lines: Iterable[bytes], held: list[bytes]) -> None:
    """Print a rank's lines as they come; hold back those that all ranks print alike."""
    for line in lines:
        if line.startswith(USER_MESSAGES):
            held.append(line)
        else:
            _say(line)


def _say(line: bytes) -> None:
    """Print a line of a rank. A reader that went away must not keep the others from being read."""
    sys.stderr.write(line.decode(errors="replace"))
    sys.stderr.flush()


def _wait_for(ranks: Sequence[subprocess.Popen]) -> bool:
    """Wait until all ranks have ended, passing signals on; True where rank 0 had to
    be killed before it could speak."""

    def forward(signum: int, _frame: object = None) -> None:
        for rank in ranks:
            if rank.poll() is None:
                rank.send_signal(signum)

    previous = {s: signal.signal(s, forward) for s in STOPS if not is_ignored(s)}
    deadline, silenced = float("inf"), False
    try:
        while any(rank.poll() is None for rank in ranks):
            if deadline == float("inf") and any(rank.poll() for rank in ranks):
                deadline = time.monotonic() + LAST_WORDS
            if time.monotonic() > deadline:
                silenced = ranks[0].poll() is None
                forward(signal.SIGKILL)
            time.sleep(0.1)
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
    return silenced


def _exit_code(codes: Sequence[int]) -> int:
    """That of a rank that ended by itself, which explains the others that were
    killed; else 128 + the signal's number."""
    own = [code for code in codes if code > 0]
    if own:
        return own[0]
    return 128 - min(codes) if any(codes) else 0


# --- share --------------------------------------------------------------------------------------------------


def spread(jobs: Sequence[Job], work: Callable[[Job], Result], world: World) -> list[Result]:
    """[work(job) for job in jobs]: ranks take jobs in turn, and every rank gets all results, in order.

    Ranks work equally often, since the collectives of a sharded model must match:
    one whose turn has no job repeats the first.
    """
    done: dict[int, Result] = {}
    for turn in range(0, len(jobs), world.size):
        mine = turn + world.rank
        result = work(jobs[mine if mine < len(jobs) else 0])
        if mine < len(jobs):
            done[mine] = result
    for part in gathered(done, world):
        done |= part
    return [done[i] for i in range(len(jobs))]


def gathered(value: Result, world: World) -> list[Result]:
    """Every rank's value, on every rank, in the order of the ranks."""
    if world.size == 1:
        return [value]
    parts: list = [None] * world.size
    dist.all_gather_object(parts, value)
    return parts


def on_main(world: World, action: Callable[[], Result]) -> Result:
    """What `action` returns on the main rank, on all ranks.
    A UserError there is raised on all, so that none waits for ever."""
    if world.size == 1:
        return action()
    box: list = [None, None]
    if world.is_main:
        try:
            box[0] = action()
        except UserError as error:
            box[1] = str(error)
    dist.broadcast_object_list(box, src=0, device=world.device)
    if box[1] is not None:
        raise UserError(box[1])
    return box[0]


def by_turns(work: Iterable[None], world: World) -> None:
    """Do this rank's work, step by step, while the others do theirs or have none; return when all are done.

    Ranks meet every second, so that none waits longer than peers may be silent. A UserError of any rank is
    raised on all.
    """
    steps, problem, done = iter(work), None, False
    while not done:
        until = time.monotonic() + TURN
        try:
            while not done and time.monotonic() < until:
                done = next(steps, LAST) is LAST
        except UserError as error:
            problem, done, steps = str(error), True, iter(())
        if world.size > 1:
            all_done = torch.tensor(int(done), device=world.device)
            dist.all_reduce(all_done, dist.ReduceOp.MIN)
            done = bool(all_done)
    problems = [found for found in gathered(problem, world) if found is not None]
    if problems:
        raise UserError(problems[0])


def wait(world: World) -> None:
    """Wait for all ranks."""
    if world.size > 1:
        dist.barrier()


def agree(signum: int, seconds: float, world: World) -> tuple[int, float]:
    """The largest signal number (0: none) and clock over all ranks, so that all
    leave, log and save at the same step."""
    if world.size == 1:
        return signum, seconds
    value = torch.tensor([signum, seconds], dtype=torch.float32, device=world.device)
    dist.all_reduce(value, dist.ReduceOp.MAX)
    return int(value[0]), value[1].item()
