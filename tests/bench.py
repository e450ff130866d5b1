"""What tests of survival share: a tiny model and file, runs that must die, and what must be equal after them.

Runs that must die do so in a forked child, which costs no imports; `die` patches a function so that its n-th
call kills.
"""

import errno
import faulthandler
import json
import os
import signal
import sys
import tempfile
import traceback

import torch
from helpers import compose, save_tiny
from safetensors.torch import load_file

import train

BASE = [
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


VARYING = {"examples_per_second", "tokens_per_second", "mfu", "peak_memory_gb"}


def write_rows(path, count=26):
    rows = [
        {
            "prompt": f"Say {i}",
            "responses": [{"text": f"It is {i}.", "reward": 2}, {"text": "no" + "o" * (i % 5), "reward": 1}],
        }
        for i in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


class Bench:
    """A tiny model, a small data file, and runs of them: `go("exp_name", ...)` trains in this process."""

    def __init__(self, folder):
        self.out, self.model, self.file = (
            folder / "out",
            save_tiny(folder / "tiny", num_hidden_layers=1),
            folder / "rows.jsonl",
        )
        write_rows(self.file)

    def go(self, name, *overrides):
        train.main(
            compose(
                f"model.name_or_path={self.model}",
                f"output_dir={self.out}",
                f"datasets=[{self.file}]",
                f"exp_name={name}",
                *BASE,
                *overrides,
            )
        )
        return self.out / name


def steady_lines(run):
    return [
        {k: v for k, v in json.loads(line).items() if k not in VARYING}
        for line in (run / "metrics.jsonl").read_text().splitlines()
    ]


def moments(run):
    return {
        k: v
        for path in (run / "latest" / "trainer_state" / "optimizer").iterdir()
        for k, v in load_file(path).items()
    }


def state_of(run):
    return json.loads((run / "latest" / "trainer_state" / "state.json").read_text())


def assert_same(run, whole, same_data=False):
    """The same bits and lines, and nothing half done left."""
    ours, theirs = (load_file(r / "latest" / "model.safetensors") for r in (run, whole))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
    ours, theirs = moments(run), moments(whole)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
    assert state_of(run) == state_of(whole) and steady_lines(run) == steady_lines(whole)
    assert os.readlink(run / "best") == os.readlink(whole / "best") and os.readlink(
        run / "latest"
    ) == os.readlink(whole / "latest")
    assert {p.name for p in run.iterdir()} == {p.name for p in whole.iterdir()}


def die(place, name, call=1, after=False, action=lambda: os.kill(os.getpid(), signal.SIGKILL)):
    """Let the `call`-th call of `place.name` do `action` before (or after) its work."""
    original, calls = getattr(place, name), [0]

    def wrapped(*args, **kwargs):
        calls[0] += 1
        if calls[0] == call and not after:
            action()
        result = original(*args, **kwargs)
        if calls[0] == call and after:
            action()
        return result

    setattr(place, name, wrapped)


def fork(job, output):
    """Run `job` in a child, its output in an open file; the child's number."""
    child = os.fork()
    if child == 0:
        os.dup2(output.fileno(), 2)
        sys.stderr, code = os.fdopen(2, "w", buffering=1), 99
        faulthandler.enable(sys.stderr)
        try:
            job()
            code = 0
        except SystemExit as stop:
            code = stop.code
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return child


def forked(job):
    """Run `job` in a child; (exit code, or minus the signal; what it printed)."""
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        code = os.waitstatus_to_exitcode(os.waitpid(fork(job, output), 0)[1])
        output.seek(0)
        return code, output.read()


def refuse(*_args, **_kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
