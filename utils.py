"""What every floor may lean on: user errors, the process group, logging and atomic files.

Nothing here knows about models, data or losses. A function that does belongs in another file.
"""

from __future__ import annotations

import ctypes
import datetime
import fcntl
import functools
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

log = logging.getLogger("grove")
T = TypeVar("T")
PEER_TIMEOUT = datetime.timedelta(
    minutes=30
)  # a dead peer is noticed at once; this ends the wait for one that hangs


class UserError(Exception):
    """Bad input. The message is one line that names the place and the remedy; the entry points exit with code 2."""


class Stopped(Exception):
    """A signal asked the run to end; `exit_code` is 128 + the signal's number."""

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum


class World(NamedTuple):
    """Where this process stands: `rank` of `size`, its `device`, and the mesh to shard over (None: one process)."""

    rank: int
    size: int
    device: Any
    mesh: Any

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def run_entry(main: Callable[[], Any]) -> None:
    """Run an entry point: bad input ends with one line and exit code 2, a signal with 128 + its number."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # hydra would print its own trace and exit with 1
    signal.signal(signal.SIGTERM, _stop)  # like SIGINT everywhere: what was begun is cleaned up
    try:
        guarded(main)()
    except Exception as error:
        if not type(error).__module__.startswith(("hydra", "omegaconf")):
            raise
        _exit(f"error: config: {one_line(error)}; the keys stand in config/*.yaml", 2)


def guarded(main: Callable[..., Any]) -> Callable[..., Any]:
    """`main`, ending the process on a `UserError` or a signal. Inside hydra's job, so that hydra prints nothing around it."""

    @functools.wraps(main)
    def run(*args: Any) -> Any:
        try:
            return main(*args)
        except UserError as error:
            _exit(f"error: {one_line(error)}", 2)
        except Stopped as stopped:
            _exit(f"stopped by {stopped}", stopped.exit_code)
        except KeyboardInterrupt:
            _exit("stopped by SIGINT", 130)

    return run


def _stop(signum: int, _frame: Any) -> None:
    raise Stopped(signum)


def _exit(message: str, code: int) -> None:
    print(message, file=sys.stderr, flush=True)
    sys.exit(code)


def one_line(error: object) -> str:
    """The error's text on one line, without hydra's hints on structs and appending."""
    lines = [line.strip() for line in str(error).splitlines()]
    return " ".join(
        line for line in lines if line and not line.startswith(("full_key:", "object_type=", "To append"))
    )


def init_distributed(replicate: int = 1, shard: bool = False) -> World:
    """Join torchrun's process group where there is one (nccl on CUDA, gloo on the CPU).

    Models are sharded over groups of size / `replicate` ranks. A single process gets a mesh only where `shard` asks for one.
    """
    import torch
    import torch.distributed as dist

    local_rank, size = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if size % replicate:
        raise UserError(
            f"config key replicate={replicate}: does not divide the number of processes ({size}); set replicate=1"
        )
    if size == 1 and not shard:
        return World(0, 1, device, None)
    if not dist.is_initialized():
        backend = (
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        )  # offloaded weights are reduced on the CPU
        alone = {"store": dist.HashStore(), "rank": 0, "world_size": 1} if size == 1 else {}
        dist.init_process_group(backend, timeout=PEER_TIMEOUT, **alone)
    from torch.distributed.device_mesh import init_device_mesh

    shape = (size,) if replicate == 1 else (replicate, size // replicate)
    return World(
        dist.get_rank(),
        size,
        device,
        init_device_mesh(device.type, shape, mesh_dim_names=("replicate", "shard")[-len(shape) :]),
    )


def launch(count: int) -> int:
    """Run this very command as `count` local ranks, as torchrun would, and return its exit code.

    SIGINT and SIGTERM are passed on once, and a run that saves has the time it needs. Where a rank fails, the others get half a
    minute to end by themselves. Messages of user errors, which all ranks print, are shown once.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    shared = {
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // count)),
    }
    ranks = [
        subprocess.Popen(
            [sys.executable, *sys.argv],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE if rank else None,
            start_new_session=True,
        )
        for rank in range(count)
    ]
    held: list[bytes] = []

    def pass_on(lines: Any) -> None:
        for line in lines:
            if line.startswith((b"error: ", b"stopped by ")):
                held.append(line)
            else:
                sys.stderr.buffer.write(line)
                sys.stderr.buffer.flush()

    readers = [threading.Thread(target=pass_on, args=(rank.stderr,), daemon=True) for rank in ranks[1:]]
    for reader in readers:
        reader.start()

    def forward(signum: int, _frame: Any = None) -> None:
        for rank in ranks:
            if rank.poll() is None:
                rank.send_signal(signum)

    previous = {s: signal.signal(s, forward) for s in (signal.SIGINT, signal.SIGTERM)}
    deadline, quiet = float("inf"), False
    try:
        while any(rank.poll() is None for rank in ranks):
            if deadline == float("inf") and any(rank.poll() for rank in ranks):
                deadline = time.monotonic() + 30
            if time.monotonic() > deadline:
                quiet = ranks[0].poll() is None
                forward(signal.SIGKILL)
            time.sleep(0.1)
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
    for reader in readers:
        reader.join(timeout=5)
    codes = [rank.returncode for rank in ranks]
    if held and (quiet or not codes[0]):  # rank 0 said nothing itself
        sys.stderr.buffer.write(held[0])
    own = [
        code for code in codes if code > 0
    ]  # a rank that ended by itself explains the others, which were killed
    return own[0] if own else 128 - min(codes) if any(codes) else 0


def run_on_ranks(nproc: int | None) -> None:
    """Run the command as `nproc` processes (None: one for each GPU) and exit, unless this is one of them or one is enough."""
    if "WORLD_SIZE" in os.environ:
        return
    import torch

    if (count := nproc or torch.cuda.device_count()) > 1:
        sys.exit(launch(count))


def spread(jobs: Sequence[Any], work: Callable[[Any], Any], world: World) -> list[Any]:
    """[work(job) for job in jobs]: ranks take jobs in turn, and every rank gets all results, in order.

    Ranks work equally often, since the collectives of a sharded model must match: one whose turn has no job repeats the first.
    """
    done: dict[int, Any] = {}
    for turn in range(0, len(jobs), world.size):
        mine = turn + world.rank
        result = work(jobs[mine if mine < len(jobs) else 0])
        if mine < len(jobs):
            done[mine] = result
    if world.size > 1:
        import torch.distributed as dist

        parts: list[Any] = [None] * world.size
        dist.all_gather_object(parts, done)
        done = {i: result for part in parts for i, result in part.items()}
    return [done[i] for i in range(len(jobs))]


def wait(world: World) -> None:
    """Wait for all ranks."""
    if world.size > 1:
        import torch.distributed as dist

        dist.barrier()


def leave_distributed() -> None:
    """Leave the process group where all ranks do: its threads must not outlive the interpreter. A rank that fails alone just ends."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        import torch.distributed as dist

        if dist.is_initialized():
            dist.barrier()  # a peer that is gone early takes the others' connections with it
            dist.destroy_process_group()


def on_main(world: World, action: Callable[[], T]) -> T:
    """What `action` returns on the main rank, on all ranks. A UserError there is raised on all, so that none waits for ever."""
    if world.size == 1:
        return action()
    import torch.distributed as dist

    box: list[Any] = [None, None]
    if world.is_main:
        try:
            box[0] = action()
        except UserError as error:
            box[1] = str(error)
    dist.broadcast_object_list(box, src=0, device=world.device)
    if box[1] is not None:
        raise UserError(box[1])
    return box[0]


def keep_freed_memory() -> None:
    """Let glibc keep what tensors free instead of returning it to the system.

    CPU steps allocate and free the same large activations again and again; fresh pages for each cost a quarter of the time.
    """
    libc = ctypes.CDLL(None)
    if sys.platform == "linux" and hasattr(libc, "mallopt"):  # musl has none
        for option, value in (
            (-4, 0),
            (-1, -1),
            (-2, 256 * 2**20),
        ):  # M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD
            libc.mallopt(option, value)


def seed_everything(seed: int) -> None:
    """Seed python, numpy and torch. Training itself draws nothing from them: batches are functions of (seed, step)."""
    import random

    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def setup_logging(folder: Path | None = None, is_main: bool = True) -> None:
    """Log to the terminal and, on the main rank, to `train.log` in the run's folder."""
    for handler in log.handlers[:]:
        log.removeHandler(handler)
        handler.close()
    log.propagate = False
    log.setLevel(logging.INFO if is_main else logging.WARNING)
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if folder is not None and is_main:
        handlers.append(logging.FileHandler(folder / "train.log"))
        handlers[-1].handleError = lambda record: (
            None
        )  # a full disk: the terminal has the line, and a save says what is wrong
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        log.addHandler(handler)


class StopFlag:
    """Remembers SIGINT and SIGTERM so that the loop can stop between two steps; a second signal ends at once."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self._previous = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM)}

    def _note(self, signum: int, _frame: Any) -> None:
        if self.signum is not None:
            raise Stopped(signum)
        self.signum = signum

    def restore(self) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)


@contextmanager
def locked(folder: Path, wait: bool = False) -> Iterator[bool]:
    """Hold a folder for this process; yields False where another one has it. The lock ends with the process, however it ends."""
    handle, held = os.open(folder, os.O_RDONLY), True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        held = False
    except OSError as error:  # some network file systems lock nothing
        log.warning(
            "%s cannot be locked (%s): see to it that nothing else writes there", folder, error.strerror
        )
    try:
        yield held
    finally:
        os.close(handle)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary file name beside `path`; it takes the place of `path`, on disk, only if the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    try:
        yield Path(name)
        to_disk(Path(name))
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def to_disk(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        temporary.chmod(0o644)


def cache_dir() -> Path:
    """The user's cache folder of this project: $GROVE_CACHE, else grove/ under $XDG_CACHE_HOME or ~/.cache."""
    base = os.environ.get("GROVE_CACHE")
    return Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "grove"
