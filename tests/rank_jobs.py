"""Worlds of several ranks, forked from one process that has imported everything, so that they cost no
imports.

`python tests/rank_jobs.py JOBS` runs the jobs of a JSON file, one world after another, each rank calling the
same entry points as a user's command.
"""

import json
import os
import socket
import subprocess
import sys
import traceback
from pathlib import Path

import torch
from helpers import ROOT, compose

import evaluate
import models
import train
from runs import shards

LOSSES = ("sft", "dpo", "kto", "swepo", "gdpo")
RANKS_QUICK = [
    "datasets=[opinions/republican]",
    "n_eval_examples=12",
    "pairs_per_prompt=2",
    "batch_size=6",
    "n_examples=30",
    "max_length=256",
    "eval_every=1000",
    "lr=1e-3",
    "warmup_steps=0",
    "log_every_seconds=0",
    "wandb.enabled=false",
    "optimizer=SGD",
    "max_tokens=700",
]
MAINS = {"config": train.main, "evaluate": evaluate.main}


def call(entry, overrides):
    """Run an entry point in this process, as its command line would; "config" is that of train.py."""
    MAINS[entry](compose(*overrides, name=entry))


def fork_world(size, work, **variables):
    """Fork `size` ranks of this process, let each do `work()`, and wait for them."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(size), "MASTER_ADDR": "localhost", "MASTER_PORT": str(port), **variables}
    children = []
    for rank in range(size):
        if child := os.fork():
            children.append(child)
            continue
        code = 1
        try:
            models.matmul_rate = lambda *_: 1e9  # its measurement would be most of the run
            os.environ |= {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    if any(codes):
        sys.exit(f"world of {size}: exit codes {codes}")


def run_jobs(jobs):
    """Each job is [world size, [[entry, overrides], ...]]: its ranks run the entries one after another."""
    shards.FILE_BYTES = 20_000  # several files a checkpoint
    for size, calls in jobs:

        def work(calls=calls):
            for entry, overrides in calls:
                call(entry, overrides)

        fork_world(size, work, GROVE_CACHE=f"{os.environ['GROVE_CACHE']}-{size}")


def fork_ranks(folder, jobs):
    """Run jobs in one process of their own; its output."""
    file = Path(folder) / "jobs.json"
    file.write_text(json.dumps(jobs))
    own = {
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        "GROVE_CACHE": f"{folder}/cache",
        "PYTHONPATH": f"{ROOT}:{ROOT}/tests",
    }
    done = subprocess.run(
        [sys.executable, __file__, str(file)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **own},
    )
    assert done.returncode == 0, done.stderr[-5000:]
    return done.stdout


if __name__ == "__main__":
    torch.set_num_threads(1)
    run_jobs(json.loads(Path(sys.argv[1]).read_text()))
