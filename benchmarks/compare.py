"""Run two systems in turn on the same workloads, A B A B, and print the ratios of their speed and peak
memory.

python benchmarks/compare.py --data ranked.jsonl --peer-python PATH/TO/PYTHON_WITH_TRL --repeats 3 --out
compare.json

Contract: A is throughput.py in mode `shared`; B is the peer, or throughput.py in another mode. Each run is a
process of its own, one at a time; a ratio is formed only between neighbours, so that a machine that slows
down slows both. B must have seen the same prompts, pairs and, within 2%, tokens. Writes one JSON file with
every run's line, and prints a Markdown table.
"""

from __future__ import annotations

import json
import shlex
import statistics
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any, NamedTuple

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]

from options import EMBEDDED_MODEL, Parser, add_data_options, positive  # noqa: E402

from utils import UserError, run_entry, write_json  # noqa: E402

HERE = Path(__file__).resolve().parent
LEAST_REPEATS = 3  # fewer have no median to speak of


class Workload(NamedTuple):
    """A name, the options of A, and those of B; `peer` says whether B is the peer."""

    name: str
    ours: list[str]
    other: list[str]
    peer: bool


SWEPO = ["--loss", "swepo", "--view", "ranked"]
WORKLOADS = {
    w.name: w
    for w in (
        *(
            Workload(f"dpo-{pairs}", ["--loss", "dpo", "--pairs", pairs], ["--pairs", pairs], True)
            for pairs in ("best_vs_worst", "best_vs_rest", "all")
        ),
        *(
            Workload(f"swepo-{mode}", SWEPO, [*SWEPO, "--mode", mode, *more], False)
            for mode, more in (("packed", []), ("padded", []), ("plain", ["--micro-batch", "4"]))
        ),
    )
}  # 16 rows a pass, as the peer's 8 pairs
DEFAULT = "dpo-best_vs_worst,dpo-best_vs_rest,dpo-all,swepo-padded,swepo-plain"


def parse(argv: list[str] | None = None) -> Namespace:
    parser = Parser(__doc__)
    add_data_options(parser)
    parser.add_argument("--model", default=EMBEDDED_MODEL)
    parser.add_argument("--workloads", default=DEFAULT, help=f"comma-separated, of {', '.join(WORKLOADS)}")
    parser.add_argument(
        "--repeats", type=positive, default=LEAST_REPEATS, help=f"pairs of runs, {LEAST_REPEATS} or more"
    )
    parser.add_argument(
        "--peer",
        type=Path,
        default=HERE / "peer_trl.py",
        help="a script with the options and the JSON of peer_trl.py",
    )
    parser.add_argument(
        "--peer-python", default=sys.executable, help="the interpreter of an environment that has the peer"
    )
    parser.add_argument(
        "--peer-reference",
        choices=("precomputed", "online"),
        default="precomputed",
        help="online: the peer scores its reference within each step, with a second model",
    )
    parser.add_argument(
        "--ours",
        default="",
        metavar="OPTIONS",
        help='more options for throughput.py: --ours="--max-tokens 4096"',
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks/compare.json"))
    args = parser.parse_args(argv)
    if unknown := [name for name in args.workloads.split(",") if name not in WORKLOADS]:
        parser.error(f"--workloads: no workload {unknown[0]}; choose of {', '.join(WORKLOADS)}")
    if args.repeats < LEAST_REPEATS:
        parser.error(f"--repeats {args.repeats}: give {LEAST_REPEATS} or more")
    if not args.peer.is_file():
        parser.error(f"--peer {args.peer}: no such file")
    return args


def commands(workload: Workload, args: Namespace) -> tuple[list[str], list[str]]:
    """The command lines of A and B."""
    shared = [
        word
        for key in ("data", "prompts", "responses", "batch_size", "max_length", "threads")
        for word in (f"--{key.replace('_', '-')}", str(getattr(args, key)))
    ]
    if args.warmup_steps:
        shared += ["--warmup-steps", str(args.warmup_steps)]
    ours = [
        sys.executable,
        str(HERE / "throughput.py"),
        "--model",
        args.model,
        *shared,
        *shlex.split(args.ours),
    ]
    peer = [
        args.peer_python,
        str(args.peer),
        *shared,
        *(["--precompute-ref"] if args.peer_reference == "precomputed" else []),
    ]
    return ours + workload.ours, [*(peer if workload.peer else ours), *workload.other]


def run_once(command: list[str]) -> dict[str, Any]:
    """Run a benchmark; return the JSON object on its last line. Raises UserError with its last words where it
    fails.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        raise UserError(
            f"{command[0]}: cannot be started ({error.strerror}); give --peer-python the path of an interpreter"
        ) from error
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        words = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1].removeprefix("error: ")
        raise UserError(f"{Path(command[1]).name} ended with code {done.returncode}: {words}")
    try:
        return json.loads(lines[-1])
    except json.JSONDecodeError as error:
        raise UserError(
            f"{Path(command[1]).name}: its last line is no JSON object; print one like peer_trl.py's"
        ) from error


def run_workload(workload: Workload, args: Namespace) -> list[tuple[dict, dict]]:
    """Pairs of runs (A, B), one after the other."""
    ours, other = commands(workload, args)
    pairs = []
    for number in range(args.repeats):
        a = run_once(ours)
        # the peer cannot open an embedded model by name: it gets the folder that A's line names
        b = run_once([*other, "--model", a["model"]] if workload.peer else other)
        check_same_work(workload.name, a, b)
        pairs.append((a, b))
        print(
            f"{workload.name} {number + 1}/{args.repeats}: {a['pairs_per_second']:.3f} and {b['pairs_per_second']:.3f} pairs/s",
            file=sys.stderr,
            flush=True,
        )
    return pairs


def check_same_work(name: str, a: dict, b: dict) -> None:
    """Raises UserError where the two runs did different work: then their ratio says nothing."""
    for key, slack in (("pairs", 0.0), ("prompts", 0.0), ("sequence_tokens", 0.02)):
        if key in a and key in b and abs(a[key] - b[key]) > slack * a[key]:
            raise UserError(
                f"{name}: {key} are {a[key]} in A and {b[key]} in B; give both the same data and options"
            )


def summarize(pairs: list[tuple[dict, dict]]) -> dict[str, Any]:
    """Ratios A / B of each pair of runs with their median, least and greatest: pairs a second (more is
    better), memory (less is).
    """
    result = {}
    for key in ("pairs_per_second", "peak_rss_gb", "peak_cuda_gb"):
        if all(run.get(key) for pair in pairs for run in pair):
            ratios = [a[key] / b[key] for a, b in pairs]
            result[key] = {
                "ratios": ratios,
                "median": statistics.median(ratios),
                "min": min(ratios),
                "max": max(ratios),
                "a_median": statistics.median(a[key] for a, _ in pairs),
                "b_median": statistics.median(b[key] for _, b in pairs),
            }
    return result


def table(summaries: dict[str, dict]) -> str:
    """The summaries as Markdown."""
    lines = [
        "| workload | A, pairs/s | B, pairs/s | speed A/B: median (min - max) | pair by pair | peak memory A/B |",
        "|---|---|---|---|---|---|",
    ]

    def spread(ratio: dict) -> str:
        return f"{ratio['median']:.2f} ({ratio['min']:.2f} - {ratio['max']:.2f})"

    for name, found in summaries.items():
        speed, memory = found["pairs_per_second"], found.get("peak_cuda_gb") or found["peak_rss_gb"]
        each = ", ".join(f"{r:.2f}" for r in speed["ratios"])
        lines.append(
            f"| {name} | {speed['a_median']:.3f} | {speed['b_median']:.3f} | {spread(speed)} | {each} | {spread(memory)} |"
        )
    return "\n".join(lines)


def main() -> None:
    args = parse()
    found: dict[str, Any] = {
        "settings": {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()},
        "workloads": {},
    }
    for name in args.workloads.split(","):
        pairs = run_workload(WORKLOADS[name], args)
        found["workloads"][name] = {"summary": summarize(pairs), "runs": [{"a": a, "b": b} for a, b in pairs]}
        write_json(args.out, found)  # after each: what is measured stays if a later one fails
    print(table({name: entry["summary"] for name, entry in found["workloads"].items()}))
    print(f"written: {args.out}", file=sys.stderr)


if __name__ == "__main__":
    run_entry(main)
