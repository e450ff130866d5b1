"""What data costs: the first preparation, a second start, a rank's memory, a step's plan and packs.

    python benchmarks/data.py --prompts 61000 --responses 4
    python benchmarks/data.py --prompts 1000000 --prompt-tokens 12 --response-tokens 12

Contract: a file of so many prompts with rewarded responses is written (words of the embedded opinions,
lengths spread like those of chat data) unless it is there, and each question has a process of its own. The
last line of stdout is one JSON object. The cache is a new folder, or `--cache`. Linux only: it tells a
process's own memory from that of mapped files.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent.parent), str(Path(__file__).resolve().parent)]

import numpy as np  # noqa: E402
from options import EMBEDDED_MODEL, ROOT, Parser, positive  # noqa: E402

from utils import UserError, run_entry  # noqa: E402

SPREAD = 0.6  # of the logarithms of lengths: some texts are several times as long as the median
WORDS_A_TOKEN = 0.78  # of English, with the embedded tokenizer
TOKENS_PER_SECOND = 100_000.0  # of the training that packing must keep up with
STEPS = 40  # that are timed
MEMORY = ("RssAnon", "RssFile", "VmRSS")


def main() -> None:
    """Write the file, then ask every question in a new process."""
    args = parse()
    if args.ask:
        print(json.dumps(QUESTIONS[args.ask](args)))
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as temporary:
        folder = Path(temporary)
        args.file = args.file or str(folder / "prompts.jsonl")
        args.cache = args.cache or str(folder / "cache")
        result: dict[str, Any] = {"prompts": args.prompts, "responses": args.responses}
        result["file_mb"] = round(write_file(args) / 1e6, 1)
        for question in ("first_start", "second_start"):
            result[question] = ask(question, args)
        print(json.dumps(result))


def parse() -> Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--prompts", type=positive, default=61_000)
    parser.add_argument("--responses", type=positive, default=4)
    parser.add_argument("--prompt-tokens", type=positive, default=160, help="median length")
    parser.add_argument("--response-tokens", type=positive, default=140, help="median length")
    parser.add_argument("--batch-size", type=positive, default=32)
    parser.add_argument("--folder", help="where file and cache are written (default: the system's)")
    parser.add_argument("--file", help="a file of another run of this benchmark")
    parser.add_argument("--cache", help="a cache of another run of this benchmark")
    parser.add_argument("--ask", choices=QUESTIONS, help="one question, in this process")
    return parser.parse_args()


def ask(question: str, args: Namespace) -> dict[str, Any]:
    """The answer of a new process."""
    options = []
    for name in ("prompts", "responses", "batch_size", "file", "cache"):
        options += [f"--{name.replace('_', '-')}", str(getattr(args, name))]
    command = [sys.executable, __file__, "--ask", question, *options]
    environment = {**os.environ, "GROVE_CACHE": args.cache}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


# --- the file -----------------------------------------------------------------------------------------------


def write_file(args: Namespace) -> int:
    """Write prompts with rewarded responses, unless they are there; the file's size in bytes."""
    path = Path(args.file)
    if not path.exists():
        rng = np.random.default_rng(0)
        words = np.asarray(words_of_opinions())
        with path.open("w") as file:
            for number in range(args.prompts):
                row = {
                    "id": str(number),
                    "prompt": [{"role": "user", "content": text(rng, words, args.prompt_tokens)}],
                    "responses": [
                        {"text": text(rng, words, args.response_tokens), "reward": float(reward)}
                        for reward in rng.permutation(args.responses)
                    ],
                }
                file.write(json.dumps(row) + "\n")
    return path.stat().st_size


def words_of_opinions() -> list[str]:
    """The words of all answers, as often as they stand there."""
    words: list[str] = []
    for line in (ROOT / "data" / "opinions" / "language.jsonl").read_text().splitlines():
        for answer in json.loads(line)["answers"].values():
            words += answer.split()
    return words


def text(rng: np.random.Generator, words: np.ndarray, median: int) -> str:
    """Some words: about `median` tokens in the middle of all texts."""
    tokens = median * np.exp(SPREAD * rng.standard_normal())
    count = max(1, round(tokens * WORDS_A_TOKEN))
    return " ".join(words[rng.integers(len(words), size=count)])


# --- the questions ------------------------------------------------------------------------------------------


def first_start(args: Namespace) -> dict[str, Any]:
    """How long the first preparation takes."""
    run = Started(args)
    return {"seconds": run.seconds, "examples": len(run.data.trees), "peak_rss_mb": run.peak_mb}


def second_start(args: Namespace) -> dict[str, Any]:
    """How long until the first step's packs are there, what a rank holds, and what a step costs."""
    run = Started(args)
    start = time.perf_counter()
    first = run.prepare(0)
    first_step = time.perf_counter() - start
    seconds, tokens = [], 0
    for step in range(1, STEPS + 1):
        start = time.perf_counter()
        packs = run.prepare(step).packs
        seconds.append(time.perf_counter() - start)
        tokens += sum(pack.num_tokens for pack in packs)
    a_step = tokens / STEPS
    return {
        "seconds_to_first_step": round(run.seconds + first_step, 3),
        "examples_of_first_step": len(first.examples),
        "memory_of_data_mb": run.memory_of_data(),
        "plan_and_pack_ms": round(1e3 * float(np.median(seconds)), 2),
        "tokens_a_step": round(a_step),
        "host_share_of_a_step": round(float(np.mean(seconds)) * TOKENS_PER_SECOND / a_step, 4),
        "waited_share_of_a_step": round(waited_share(run, a_step / TOKENS_PER_SECOND), 4),
    }


def waited_share(run: Started, seconds: float) -> float:
    """How much of steps that take so long is spent waiting for packs that a thread prepares.

    Half of such a step holds Python's lock, as launching kernels does, and half of it waits for a device.
    """
    import schedule

    ahead = schedule.Ahead(run.prepare, range(STEPS + 1))
    waited = 0.0
    for step in range(STEPS):
        ahead.take(step)
        if step:  # there is nothing to do beside the first one
            waited += ahead.read()
        else:
            ahead.read()
        busy_until = time.perf_counter() + seconds / 2
        while time.perf_counter() < busy_until:
            pass
        time.sleep(seconds / 2)
    ahead.close()
    return waited / ((STEPS - 1) * seconds)


class Started:
    """A run that has its data."""

    def __init__(self, args: Namespace):
        import hydra
        import torch
        from omegaconf import OmegaConf

        import losses
        import models
        import preference_datasets as data
        import schedule
        from ranks import World
        from settings import train_settings

        overrides = [f"datasets=[{args.file}]", "loss=swepo", f"batch_size={args.batch_size}"]
        with hydra.initialize_config_dir(str(ROOT / "config"), version_base=None):
            config = hydra.compose("config", overrides)
        settings = train_settings(OmegaConf.to_container(config, resolve=True))
        tokenizer = models.load_tokenizer(EMBEDDED_MODEL, False)
        self.world = World(0, 1, torch.device("cpu"), None)
        self.before = memory()
        start = time.perf_counter()
        needs = losses.needs(settings.loss.name, settings.loss.keys)
        prepared = data.prepare(settings, needs, tokenizer, self.world)
        self.data = schedule.Data(prepared.trees["train"])
        self.order = schedule.order_of(self.data.trees, settings.batch_size, settings.seed, settings.shuffle)
        views = {"train": self.data}
        self.packing = schedule.packing_of(settings, views, "flex_attention", "cuda", tokenizer.pad_token_id)
        self.seconds = round(time.perf_counter() - start, 3)
        self.peak_mb = memory()["VmHWM"]

    def prepare(self, step: int) -> Any:
        """A step's packs."""
        import schedule

        return schedule.step_of(self.data, self.order, self.packing, self.world, step)

    def memory_of_data(self) -> dict[str, float]:
        """MB that this process holds since the data came: its own, of mapped files, and together."""
        now = memory()
        return {name: round(now[name] - self.before[name], 1) for name in MEMORY}


def memory() -> dict[str, float]:
    """MB of this process, as Linux counts them; UserError elsewhere."""
    try:
        status = Path("/proc/self/status").read_text()
    except FileNotFoundError as error:
        raise UserError("benchmarks/data.py: needs /proc/self/status; run it on Linux") from error
    values = {}
    for line in status.splitlines():
        name, _, value = line.partition(":")
        if value.endswith("kB"):
            values[name] = int(value.split()[0]) / 1e3
    return values


QUESTIONS = {"first_start": first_start, "second_start": second_start}

if __name__ == "__main__":
    run_entry(main)
