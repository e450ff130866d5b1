"""Worlds of several ranks, forked from one process that has imported everything, so that they cost no imports."""

import os
import socket
import sys

import hydra
from helpers import ROOT

import evaluate
import models
import train
from runs import shards

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


def run_jobs(jobs):
    """Each job is [world size, [[entry, overrides], ...]]: fork that many ranks, which run the entries one after another."""
    mains = {"train": ("config", train.main), "evaluate": ("evaluate", evaluate.main)}
    for world, calls in jobs:
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        pids = []
        for rank in range(world):
            if pid := os.fork():
                pids.append(pid)
                continue
            code = 1
            try:
                models.matmul_rate = lambda *a: 1e9  # its measurement would be most of the run
                shards.FILE_BYTES = 20_000  # several files a checkpoint
                os.environ |= {
                    "RANK": str(rank),
                    "LOCAL_RANK": str(rank),
                    "WORLD_SIZE": str(world),
                    "MASTER_ADDR": "localhost",
                    "MASTER_PORT": str(port),
                    "GROVE_CACHE": f"{os.environ['GROVE_CACHE']}-{world}",
                }
                for entry, overrides in calls:
                    name, main = mains[entry]
                    with hydra.initialize_config_dir(str(ROOT / "config"), version_base=None):
                        config = hydra.compose(name, overrides=overrides)
                    main(config)
                code = 0
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        if any(codes):
            sys.exit(f"world of {world}: exit codes {codes}")
