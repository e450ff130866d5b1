"""Worlds of several ranks, forked from a process that has imported everything, so that one costs no imports.

`python tests/worlds.py JOBS` runs the jobs of a JSON file, one world after another; each rank calls the same
entry points as a user's command.
"""

import gc
import json
import os
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
import torch
from bench import free_port, rank_variables
from helpers import ON_CPU, ROOT, compose, json_lines, lines, weights

import evaluate
import models
import train
from runs import shards

QUICK = [
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
DOORS = {"train": ("config", train.main), "evaluate": ("evaluate", evaluate.main)}

# --- in a process of their own ------------------------------------------------------------------------------


def run_jobs(jobs):
    """Each job is [world size, [[door, overrides], ...]]: that many ranks, which call the doors in turn."""
    train.import_data()
    train.import_models()
    evaluate.import_all()
    gc.freeze()
    for size, calls in jobs:
        port = free_port()
        children = [fork_rank(rank, size, port, calls) for rank in range(size)]
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        if any(codes):
            sys.exit(f"world of {size}: exit codes {codes}")


def fork_rank(rank, size, port, calls):
    """One rank in a child; the child's number."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        prepare_rank(rank, size, port)
        for door, overrides in calls:
            name, main = DOORS[door]
            main(compose(*overrides, name=name))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def prepare_rank(rank, size, port):
    """Every patch of a rank."""
    models.matmul_rate = lambda *a: 1e9  # its measurement would be most of the run
    shards.FILE_BYTES = 20_000  # several files a checkpoint
    cache = os.environ["GROVE_CACHE"]
    os.environ |= {**rank_variables(rank, size, port), "GROVE_CACHE": f"{cache}-{size}"}


# --- in a test ----------------------------------------------------------------------------------------------


def training(size, model, output, name, *overrides):
    """A job: a training run of `size` ranks."""
    own = [f"model.name_or_path={model}", f"output_dir={output}", f"exp_name={name}"]
    return [size, [["train", [*own, *QUICK, *overrides]]]]


def fork_ranks(folder, jobs):
    """Run jobs in one process of their own; its output."""
    file = Path(folder) / "jobs.json"
    file.write_text(json.dumps(jobs))
    own = {
        **ON_CPU,
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
        timeout=240,
        env={**os.environ, **own},
    )
    assert done.returncode == 0, done.stderr[-5000:]
    return done.stdout


def distance(a, b):
    """Relative distance of two sets of weights."""
    differences = sum((tensor - b[name]).double().square().sum() for name, tensor in a.items())
    squares = sum(tensor.double().square().sum() for tensor in a.values())
    return (differences / squares).sqrt().item()


def assert_one_run(one, many, rel=1e-6):
    """Two run folders hold one run. Losses of a log-ratio may differ by the rounding of the log-probs (fp32)
    it is made of.
    """
    assert distance(weights(one), weights(many)) < rel
    for x, y in zip(lines(one), lines(many), strict=True):
        where = (one, x["counters/updates"])
        assert y.get("grad_norm", 0) == pytest.approx(x.get("grad_norm", 0), rel=2 * rel), where
        for key in {"loss/train", "loss/eval", "kl_mismatched_train"} & set(x):
            near_zero = 2e-5 if key.startswith("kl") else 0
            assert y[key] == pytest.approx(x[key], rel=5 * rel, abs=near_zero), (*where, key)


def samples(run):
    """The responses that a run sampled."""
    return json_lines(run / "samples.jsonl")


if __name__ == "__main__":
    torch.set_num_threads(1)
    run_jobs(json.loads(Path(sys.argv[1]).read_text()))
