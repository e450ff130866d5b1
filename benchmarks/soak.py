"""Kill a run again and again until it is done, and compare it with one that nothing disturbed.

python benchmarks/soak.py # 200 steps of a tiny model, `kill -9` at random times python benchmarks/soak.py
--steps 2000 --longest 30 --seed 1

Every attempt is a process of its own, forked before torch computes anything, that runs the same command
(`resume=auto`); half of them save in the background. On a CPU the final weights, optimizer state and counters
must be equal to the bit and metrics.jsonl must hold the same lines. Exit code 0: they are. The last line is
one JSON object of numbers.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
CLOCKS = {
    "examples_per_second",
    "tokens_per_second",
    "mfu",
    "peak_memory_gb",
}  # of metrics.jsonl: no two runs share them


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--shortest", type=float, default=0.2, help="least seconds between two kills")
    parser.add_argument(
        "--longest", type=float, help="most seconds (default: half of what the undisturbed run took)"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return soak(Path(folder), args)


def soak(folder: Path, args: argparse.Namespace) -> int:
    os.environ |= {
        "GROVE_CACHE": str(folder / "cache"),
        "WANDB_MODE": "disabled",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    import torch
    from helpers import save_tiny

    import reference  # noqa: F401  what train.py imports late is imported here, so that no attempt pays for it
    import train
    import trainers  # noqa: F401

    torch.set_num_threads(1)
    model = save_tiny(folder / "tiny")
    rows = [
        {
            "prompt": f"Say {i}",
            "responses": [{"text": f"It is {i}.", "reward": 2}, {"text": "no" + "o" * (i % 7), "reward": 1}],
        }
        for i in range(150)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def attempt(name: str, in_background: bool = False) -> int:
        """Start the run in a process of its own; its number. It saves while it trains, or it waits."""
        child = os.fork()
        if child:
            return child
        code = 1
        try:
            log = os.open(folder / f"{name}.log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
            os.dup2(log, 1), os.dup2(log, 2)
            sys.stderr = os.fdopen(2, "w", buffering=1)
            train.main(config(folder, model, name, args.steps, in_background))
            code = 0
        finally:
            os._exit(code)

    begun = time.monotonic()
    if os.waitpid(attempt("whole"), 0)[1]:
        print((folder / "whole.log").read_text()[-3000:])
        return 1
    undisturbed = time.monotonic() - begun
    longest = args.longest or max(undisturbed / 2, 2 * args.shortest)
    rng, kills, reached, begun = random.Random(args.seed), 0, [], time.monotonic()
    while True:
        child, end = (
            attempt("killed", rng.random() < 0.5),
            time.monotonic() + rng.uniform(args.shortest, longest),
        )
        while (done := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < end:
            time.sleep(0.01)
        if done[0] == 0:
            os.kill(child, signal.SIGKILL)
            done = os.waitpid(child, 0)
        if done[1] == 0:
            break
        if os.waitstatus_to_exitcode(done[1]) != -signal.SIGKILL:
            print((folder / "killed.log").read_text()[-3000:])
            return 1
        kills += 1
        reached.append(max((int(p.name[5:]) for p in (folder / "out" / "killed").glob("step-*")), default=0))
    resumed = (folder / "killed.log").read_text().count("resumed from")
    verdicts = compare(folder / "out" / "whole", folder / "out" / "killed")
    print(
        json.dumps(
            {
                "steps": args.steps,
                "kills": kills,
                "resumed": resumed,
                "kills_without_progress": kills - len(set(reached)),
                "seconds_undisturbed": round(undisturbed, 1),
                "seconds_killed": round(time.monotonic() - begun, 1),
                **verdicts,
            }
        )
    )
    return 0 if all(verdicts.values()) else 1


def config(folder: Path, model: str, name: str, steps: int, in_background: bool):
    import hydra

    with hydra.initialize_config_dir(str(ROOT / "config"), version_base=None):
        return hydra.compose(
            "config",
            overrides=[
                "loss=dpo",
                f"model.name_or_path={model}",
                f"datasets=[{folder}/rows.jsonl]",
                f"output_dir={folder}/out",
                f"exp_name={name}",
                "batch_size=8",
                f"n_examples={8 * steps}",
                "eval_every=160",
                "save_every=40",
                "keep_last=2",
                "lr=1e-4",
                "warmup_steps=20",
                "log_every_seconds=0",
                "wandb.enabled=false",
                f"async_save={in_background}",
            ],
        )


def compare(whole: Path, killed: Path) -> dict[str, bool]:
    """What must be equal of the two runs, and whether it is."""
    import torch
    from safetensors.torch import load_file

    def lines(run: Path) -> list[dict]:
        return [
            {k: v for k, v in json.loads(line).items() if k not in CLOCKS}
            for line in (run / "metrics.jsonl").read_text().splitlines()
        ]

    def equal(a, b) -> bool:
        return a.keys() == b.keys() and all(
            torch.equal(a[k], b[k]) if torch.is_tensor(a[k]) else equal(a[k], b[k]) for k in a
        )

    weights = [
        load_file(run / name / "model.safetensors") for name in ("latest", "best") for run in (whole, killed)
    ]
    moments = [
        {
            k: v
            for path in (run / "latest" / "trainer_state" / "optimizer").iterdir()
            for k, v in load_file(path).items()
        }
        for run in (whole, killed)
    ]
    states = [
        json.loads((run / "latest" / "trainer_state" / "state.json").read_text()) for run in (whole, killed)
    ]
    return {
        "same_weights": equal(*weights[:2]),
        "same_best_weights": equal(*weights[2:]),
        "same_optimizer_state": equal(*moments),
        "same_state": states[0] == states[1],
        "same_metrics_lines": lines(whole) == lines(killed),
    }


if __name__ == "__main__":
    sys.exit(main())
