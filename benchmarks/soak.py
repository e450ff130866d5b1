"""Kill a run again and again until it is done, and compare it with one that nothing disturbed.

    python benchmarks/soak.py                      # 200 steps of a tiny model, `kill -9` at random times
    python benchmarks/soak.py --steps 2000 --longest 30 --seed 1

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
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

if TYPE_CHECKING:  # slow to import, and needed for its name alone
    from omegaconf import DictConfig

# of metrics.jsonl: no two runs share them
CLOCKS = {"examples_per_second", "tokens_per_second", "mfu", "peak_memory_gb"}
ENVIRONMENT = {
    "WANDB_MODE": "disabled",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
}
LOG_END = 3000  # characters of the log that are shown where a run fails


def main() -> int:
    """Soak in a folder that is then removed; give the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--shortest", type=float, default=0.2, help="least seconds between two kills")
    parser.add_argument(
        "--longest", type=float, help="most seconds (default: half of what the undisturbed run took)"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(ENVIRONMENT, GROVE_CACHE=f"{folder}/cache")
        import_the_rest()
        return soak(Path(folder), args)


def import_the_rest() -> None:
    """What takes seconds to import, with all that train.py imports late, so that no attempt pays for it."""
    global folders, helpers, hydra, load_file, torch, train
    import helpers
    import hydra
    import torch
    from safetensors.torch import load_file

    import train
    from runs import folder as folders

    train.import_data()
    train.import_models()


def soak(folder: Path, args: argparse.Namespace) -> int:
    """Train undisturbed, then killed until done; compare both. 0: they are equal."""
    torch.set_num_threads(1)
    job = Job(folder, helpers.save_tiny(folder / "tiny"), args.steps)
    write_rows(job.data)

    begin = time.monotonic()
    if os.waitpid(start(job, "whole"), 0)[1]:
        print(job.log("whole").read_text()[-LOG_END:])
        return 1
    undisturbed = time.monotonic() - begin
    longest = args.longest or max(undisturbed / 2, 2 * args.shortest)

    begin = time.monotonic()
    reached = kill_until_done(job, args.shortest, longest, random.Random(args.seed))
    if reached is None:
        print(job.log("killed").read_text()[-LOG_END:])
        return 1
    verdicts = compare(job.run("whole"), job.run("killed"))
    result = {
        "steps": args.steps,
        "kills": len(reached),
        "resumed": job.log("killed").read_text().count("resumed from"),
        "kills_without_progress": len(reached) - len(set(reached)),
        "seconds_undisturbed": round(undisturbed, 1),
        "seconds_killed": round(time.monotonic() - begin, 1),
        **verdicts,
    }
    print(json.dumps(result))
    return 0 if all(verdicts.values()) else 1


# --- the run ------------------------------------------------------------------------------------------------


class Job(NamedTuple):
    """What every attempt trains, and where it writes."""

    folder: Path
    model: str
    steps: int

    @property
    def data(self) -> Path:
        return self.folder / "rows.jsonl"

    def run(self, name: str) -> Path:
        """The run folder."""
        return self.folder / "out" / name

    def log(self, name: str) -> Path:
        """All that attempts of this name said."""
        return self.folder / f"{name}.log"

    def config(self, name: str, in_background: bool) -> DictConfig:
        """The config of a run of this name."""
        overrides = [
            "loss=dpo",
            f"model.name_or_path={self.model}",
            f"datasets=[{self.data}]",
            f"output_dir={self.folder}/out",
            f"exp_name={name}",
            "batch_size=8",
            f"n_examples={8 * self.steps}",
            "eval_every=160",
            "save_every=40",
            "keep_last=2",
            "lr=1e-4",
            "warmup_steps=20",
            "log_every_seconds=0",
            "wandb.enabled=false",
            f"async_save={in_background}",
        ]
        with hydra.initialize_config_dir(str(ROOT / "config"), version_base=None):
            return hydra.compose("config", overrides=overrides)


def write_rows(path: Path) -> None:
    """150 prompts with two responses each."""
    lines = []
    for i in range(150):
        better = {"text": f"It is {i}.", "reward": 2}
        worse = {"text": "no" + "o" * (i % 7), "reward": 1}
        lines.append(json.dumps({"prompt": f"Say {i}", "responses": [better, worse]}) + "\n")
    path.write_text("".join(lines))


def start(job: Job, name: str, in_background: bool = False) -> int:
    """Start a run in a process of its own; its number. It saves while it trains, or it waits."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        log = os.open(job.log(name), os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.stderr = os.fdopen(2, "w", buffering=1)
        train.main(job.config(name, in_background))
        code = 0
    finally:
        os._exit(code)


def kill_until_done(job: Job, shortest: float, longest: float, rng: random.Random) -> list[int] | None:
    """Start the run, kill it after a random time (seconds), and so on until it ends by itself.

    Gives the newest checkpoint's step at each kill, 0 where there was none; None where an attempt failed.
    """
    reached = []
    while True:
        child = start(job, "killed", in_background=rng.random() < 0.5)
        status = wait_or_kill(child, time.monotonic() + rng.uniform(shortest, longest))
        if status == 0:
            return reached
        if os.waitstatus_to_exitcode(status) != -signal.SIGKILL:
            return None
        saved = folders.steps(job.run("killed"))
        reached.append(folders.number(saved[-1]) if saved else 0)


def wait_or_kill(child: int, end: float) -> int:
    """The wait status of a process, which is killed at `end` (of the monotonic clock)."""
    done, status = os.waitpid(child, os.WNOHANG)
    while not done and time.monotonic() < end:
        time.sleep(0.01)
        done, status = os.waitpid(child, os.WNOHANG)
    if not done:
        os.kill(child, signal.SIGKILL)
        done, status = os.waitpid(child, 0)
    return status


# --- the comparison -----------------------------------------------------------------------------------------


def compare(whole: Path, killed: Path) -> dict[str, bool]:
    """What must be equal of the two runs, and whether it is."""
    return {
        "same_weights": equal(weights(whole / "latest"), weights(killed / "latest")),
        "same_best_weights": equal(weights(whole / "best"), weights(killed / "best")),
        "same_optimizer_state": equal(moments(whole), moments(killed)),
        "same_state": state(whole) == state(killed),
        "same_metrics_lines": metrics_lines(whole) == metrics_lines(killed),
    }


def equal(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> bool:
    """The same names with the same bits?"""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def weights(step: Path) -> dict[str, torch.Tensor]:
    """Those of a step folder's model."""
    return load_file(step / "model.safetensors")


def moments(run: Path) -> dict[str, torch.Tensor]:
    """The optimizer's tensors in a run's last checkpoint."""
    tensors = {}
    for path in (run / "latest" / folders.OPTIMIZER).iterdir():
        tensors |= load_file(path)
    return tensors


def state(run: Path) -> dict[str, Any]:
    """The counters in a run's last checkpoint."""
    return json.loads((run / "latest" / folders.STATE / "state.json").read_text())


def metrics_lines(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without what clocks say."""
    lines = []
    for text in (run / "metrics.jsonl").read_text().splitlines():
        values = json.loads(text)
        lines.append({name: value for name, value in values.items() if name not in CLOCKS})
    return lines


if __name__ == "__main__":
    sys.exit(main())
