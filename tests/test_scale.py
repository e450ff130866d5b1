"""Several ranks: the same mathematics on any number of them.

Ranks are forked from one process that has imported everything, so a world costs no imports: `python tests/test_scale.py JOBS`
runs the jobs of a JSON file, one world after another, each rank calling the same entry points as a user's command.
"""
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import save_tiny
from safetensors.torch import load_file

ROOT = Path(__file__).parent.parent
LOSSES = ("sft", "dpo", "kto", "swepo", "gdpo")
QUICK = ["datasets=[opinions/republican]", "n_eval_examples=12", "pairs_per_prompt=2", "batch_size=6", "n_examples=30", "max_length=256",
         "eval_every=1000", "lr=1e-3", "warmup_steps=0", "log_every_seconds=0", "wandb.enabled=false", "optimizer=SGD", "max_tokens=700"]


def run_jobs(jobs):
    """Each job is [world size, [[entry, overrides], ...]]: fork that many ranks, which run the entries one after another."""
    import hydra

    import evaluate
    import models
    import train

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
                os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_ADDR": "localhost",
                               "MASTER_PORT": str(port), "GROVE_CACHE": f"{os.environ['GROVE_CACHE']}-{world}"}
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


def fork_ranks(folder, jobs):
    """Run jobs in one process of their own; its output."""
    file = Path(folder) / "jobs.json"
    file.write_text(json.dumps(jobs))
    own = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "GROVE_CACHE": f"{folder}/cache",
           "PYTHONPATH": f"{ROOT}:{ROOT}/tests"}
    done = subprocess.run([sys.executable, __file__, str(file)], cwd=ROOT, capture_output=True, text=True, timeout=120,
                          env={**os.environ, **own})
    assert done.returncode == 0, done.stderr[-5000:]
    return done.stdout


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    """All losses on 1, 2 and 4 ranks: worlds[size, loss] is a run's folder."""
    folder = tmp_path_factory.mktemp("worlds")
    tiny = save_tiny(folder / "tiny", max_position_embeddings=2048)
    jobs = [[size, [["train", [f"model.name_or_path={tiny}", f"output_dir={folder}/{size}", f"exp_name={loss}", f"loss={loss}", *QUICK]]]]
            for size in (1, 2, 4) for loss in LOSSES]
    fork_ranks(folder, jobs)
    return {(size, loss): folder / str(size) / loss for size in (1, 2, 4) for loss in LOSSES}


def weights(folder):
    return load_file(folder / "latest" / "model.safetensors")


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def distance(a, b):
    """Relative distance of two sets of weights."""
    squares = [((x - b[k]).double().square().sum(), x.double().square().sum()) for k, x in a.items()]
    return (sum(d for d, _ in squares) / sum(n for _, n in squares)).sqrt().item()


def same(one, many, rel=1e-6):
    """Do two run folders hold one run? Losses of a log-ratio may differ by the rounding of the log-probs (fp32) it is made of."""
    assert distance(weights(one), weights(many)) < rel
    for x, y in zip(lines(one), lines(many), strict=True):
        assert y.get("grad_norm") == pytest.approx(x.get("grad_norm"), rel=2 * rel), (one, x["counters/updates"])
        for key in {"loss/train", "loss/eval", "kl_mismatched_train"} & set(x):
            assert y[key] == pytest.approx(x[key], rel=5 * rel, abs=2e-5 if key.startswith("kl") else 0), (one, key, x["counters/updates"])


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("loss", LOSSES)
def test_any_number_of_ranks_gives_the_same_run(worlds, loss, size):
    assert len(lines(worlds[1, loss])) == 7  # five steps, two validations
    same(worlds[1, loss], worlds[size, loss])


if __name__ == "__main__":
    torch.set_num_threads(1)
    run_jobs(json.loads(Path(sys.argv[1]).read_text()))
