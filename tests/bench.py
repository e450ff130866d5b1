"""Runs that must die, and runs that must equal others to the bit.

Runs that must die do so in a forked child, which costs no imports; `die` patches a function so that its n-th
call kills.
"""

import errno
import faulthandler
import os
import signal
import socket
import sys
import tempfile
import traceback
from typing import NamedTuple

import pytest
from data_helpers import write
from helpers import assert_equal, compose, lines, save_tiny, state_of, tensors_of, weights

import models
import reference
import train
import utils

QUICK = [  # a run on the data that comes with the project
    "datasets=[opinions/republican]",
    "n_eval_examples=16",
    "pairs_per_prompt=2",
    "batch_size=8",
    "n_examples=24",
    "eval_every=1000",
    "lr=1e-3",
    "warmup_steps=0",
    "max_length=256",
    "log_every_seconds=0.0001",
    "wandb.enabled=false",
]
BASE = [  # a run of a bench
    "loss=dpo",
    "eval_fraction=0.2",
    "eval_datasets=null",
    "batch_size=4",
    "eval_batch_size=2",
    "n_examples=32",
    "eval_every=12",
    "lr=1e-3",
    "warmup_steps=0",
    "log_every_seconds=0",
    "wandb.enabled=false",
]
SHARD = "trainer_state/optimizer/shard-00001-model-00001-of-00001.safetensors"
VARYING = {
    "examples_per_second",
    "host_seconds",
    "tokens_per_second",
    "mfu",
    "peak_memory_gb",
}  # of metrics, between runs


def cheap_runs(patch: pytest.MonkeyPatch) -> None:
    """Spare what costs a run most here, and let the reference have several parts."""
    patch.setattr(models, "matmul_rate", lambda *a: 1e9)
    patch.setattr(reference, "PLAN_CHUNK", 6)


class Bench:
    """A tiny model, a small data file, and runs of them: `go("exp_name", ...)` trains in this process."""

    def __init__(self, folder):
        self.out = folder / "out"
        self.model = save_tiny(folder / "tiny", num_hidden_layers=1)
        self.file = folder / "rows.jsonl"
        write(self.file, *map(row, range(26)))

    def config(self, name, *overrides):
        """The config of a run."""
        own = [f"model.name_or_path={self.model}", f"output_dir={self.out}", f"datasets=[{self.file}]"]
        return compose(*own, f"exp_name={name}", *BASE, *overrides)

    def go(self, name, *overrides):
        """Train; give the run's folder."""
        self.train(self.config(name, *overrides))
        return self.out / name

    def train(self, config):
        """Train with this config."""
        train.main(config)


def row(i):
    """Row i of a bench's data file."""
    worse = {"text": "no" + "o" * (i % 5), "reward": 1}
    return {"prompt": f"Say {i}", "responses": [{"text": f"It is {i}.", "reward": 2}, worse]}


# --- comparing runs -----------------------------------------------------------------------------------------


def steady_lines(run):
    """A run's metrics without those that differ between equal runs."""
    return [{k: v for k, v in line.items() if k not in VARYING} for line in lines(run)]


def steady_training_lines(run):
    """Those of training steps."""
    return [line for line in steady_lines(run) if "loss/train" in line]


def moments(run):
    """The optimizer's state in a run's latest checkpoint."""
    return tensors_of((run / "latest" / "trainer_state" / "optimizer").iterdir())


def link(run, name):
    """The step folder that a run's `latest` or `best` names."""
    return os.readlink(run / name)


def half_done(run):
    """What a run left half done in its folder."""
    return list(run.glob(".*"))


def assert_same(run, whole):
    """The same bits and lines, and nothing half done left."""
    assert_equal(weights(run), weights(whole))
    assert_equal(moments(run), moments(whole))
    assert state_of(run) == state_of(whole)
    assert steady_lines(run) == steady_lines(whole)
    assert link(run, "best") == link(whole, "best")
    assert link(run, "latest") == link(whole, "latest")
    assert {path.name for path in run.iterdir()} == {path.name for path in whole.iterdir()}


# --- dying --------------------------------------------------------------------------------------------------


def kill():
    """End this process as `kill -9` does."""
    os.kill(os.getpid(), signal.SIGKILL)


def refuse(*_args, **_kwargs):
    """What a full disk says."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Death(NamedTuple):
    """The moment at which a process dies: before or after the `call`-th call of `place.name`."""

    place: object
    name: str
    call: int = 1
    after: bool = False


def die(place, name, call=1, after=False, action=kill):
    """Let the `call`-th call of `place.name` do `action` before (or after) its work."""
    original = getattr(place, name)
    calls = 0

    def wrapped(*args, **kwargs):
        nonlocal calls
        calls += 1
        is_due = calls == call
        if is_due and not after:
            action()
        result = original(*args, **kwargs)
        if is_due and after:
            action()
        return result

    setattr(place, name, wrapped)


def fork(job, output):
    """Run `job` in a child, its output in an open file; the child's number."""
    child = os.fork()
    if child:
        return child
    os.dup2(output.fileno(), 2)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    faulthandler.enable(sys.stderr)
    code = 99
    try:
        job()
        code = 0
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def exit_code(child):
    """Wait for a child; its exit code, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def forked(job):
    """Run `job` in a child; (exit code, or minus the signal; what it printed)."""
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        code = exit_code(fork(job, output))
        output.seek(0)
        return code, output.read()


def fork_two(bench, on_second, *overrides):
    """A run of two ranks, `on_second` called on the second before it; their processes. What they print is in
    the files rank0 and rank1.
    """
    port = free_port()

    def job(rank):
        os.environ |= rank_variables(rank, 2, port)
        if rank == 1:
            on_second()
        utils.run_entry(lambda: bench.go("run", *overrides))

    with (bench.out.parent / "rank0").open("w") as first, (bench.out.parent / "rank1").open("w") as second:
        return [fork(lambda: job(0), first), fork(lambda: job(1), second)]


def free_port():
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def rank_variables(rank, size, port):
    """What torchrun tells a rank."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
