"""Run two systems in turn on the same workloads, A B A B; print the ratios of their speed and peak memory.

    python benchmarks/compare.py --data ranked.jsonl --peer-python PATH/TO/PYTHON_WITH_TRL --out compare.json

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

sys.path[:0] = [str(Path(__file__).resolve().parent.parent), str(Path(__file__).resolve().parent)]

from options import EMBEDDED_MODEL, Parser, add_data_options, positive  # noqa: E402

from utils import UserError, run_entry, write_json  # noqa: E402

HERE = Path(__file__).resolve().parent
LEAST_REPEATS = 3  # fewer have no median to speak of


class Workload(NamedTuple):
    """Command-line options of two systems that do the same work."""

    name: str
    ours: list[str]  # of A
    other: list[str]  # of B
    peer: bool  # is B the peer?


SWEPO = ["--loss", "swepo", "--view", "ranked"]
B_OF_SWEPO = {
    "packed": ["--mode", "packed"],
    "padded": ["--mode", "padded"],
    "plain": ["--mode", "plain", "--micro-batch", "4"],  # 16 rows a pass, as the peer's 8 pairs
}


def make_workloads() -> dict[str, Workload]:
    """All workloads by name: DPO beside the peer, Swepo beside this project without sharing."""
    workloads = []
    for pairs in ("best_vs_worst", "best_vs_rest", "all"):
        options = ["--pairs", pairs]
        workloads.append(Workload(f"dpo-{pairs}", ["--loss", "dpo", *options], options, peer=True))
    for mode, options in B_OF_SWEPO.items():
        workloads.append(Workload(f"swepo-{mode}", SWEPO, [*SWEPO, *options], peer=False))
    return {workload.name: workload for workload in workloads}


WORKLOADS = make_workloads()
DEFAULT = "dpo-best_vs_worst,dpo-best_vs_rest,dpo-all,swepo-padded,swepo-plain"


def parse(argv: list[str] | None = None) -> Namespace:
    """The options. Raises UserError for a mistake."""
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
    check_options(parser, args)
    return args


def check_options(parser: Parser, args: Namespace) -> None:
    """Raises UserError for a workload or a peer that there is not, or too few repeats."""
    unknown = [name for name in args.workloads.split(",") if name not in WORKLOADS]
    if unknown:
        parser.error(f"--workloads: no workload {unknown[0]}; choose of {', '.join(WORKLOADS)}")
    if args.repeats < LEAST_REPEATS:
        parser.error(f"--repeats {args.repeats}: give {LEAST_REPEATS} or more")
    if not args.peer.is_file():
        parser.error(f"--peer {args.peer}: no such file")


# --- runs ---------------------------------------------------------------------------------------------------

SHARED_OPTIONS = ("data", "prompts", "responses", "batch_size", "max_length", "threads")
Run = dict[str, Any]  # the line of JSON that a run prints last


def commands(workload: Workload, args: Namespace) -> tuple[list[str], list[str]]:
    """The command lines of A and B."""
    shared = []
    for key in SHARED_OPTIONS:
        shared += [f"--{key.replace('_', '-')}", str(getattr(args, key))]
    if args.warmup_steps:
        shared += ["--warmup-steps", str(args.warmup_steps)]
    ours = [sys.executable, str(HERE / "throughput.py"), "--model", args.model, *shared]
    ours += shlex.split(args.ours)
    peer = [args.peer_python, str(args.peer), *shared]
    if args.peer_reference == "precomputed":
        peer.append("--precompute-ref")
    other = peer if workload.peer else ours
    return [*ours, *workload.ours], [*other, *workload.other]


def run_once(command: list[str]) -> Run:
    """Run a benchmark; return the JSON object on its last line.

    Raises UserError with its last words where it fails.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        problem = f"cannot be started ({error.strerror})"
        remedy = "give --peer-python the path of an interpreter"
        raise UserError(f"{command[0]}: {problem}; {remedy}") from error
    script = Path(command[1]).name
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        words = done.stderr.strip().splitlines() or ["it printed nothing"]
        last = words[-1].removeprefix("error: ")
        raise UserError(f"{script} ended with code {done.returncode}: {last}")
    try:
        return json.loads(lines[-1])
    except json.JSONDecodeError as error:
        problem = "its last line is no JSON object"
        raise UserError(f"{script}: {problem}; print one like peer_trl.py's") from error


def run_workload(workload: Workload, args: Namespace) -> list[tuple[Run, Run]]:
    """Pairs of runs (A, B), one after the other."""
    ours, other = commands(workload, args)
    pairs = []
    for number in range(args.repeats):
        a = run_once(ours)
        # the peer cannot open an embedded model by name: it gets the folder that A's line names
        b = run_once([*other, "--model", a["model"]] if workload.peer else other)
        check_same_work(workload.name, a, b)
        pairs.append((a, b))
        speeds = f"{a['pairs_per_second']:.3f} and {b['pairs_per_second']:.3f} pairs/s"
        print(f"{workload.name} {number + 1}/{args.repeats}: {speeds}", file=sys.stderr, flush=True)
    return pairs


def check_same_work(name: str, a: Run, b: Run) -> None:
    """Raises UserError where the two runs did different work: then their ratio says nothing."""
    for key, slack in (("pairs", 0.0), ("prompts", 0.0), ("sequence_tokens", 0.02)):
        if key in a and key in b and abs(a[key] - b[key]) > slack * a[key]:
            problem = f"{key} are {a[key]} in A and {b[key]} in B"
            raise UserError(f"{name}: {problem}; give both the same data and options")


# --- ratios -------------------------------------------------------------------------------------------------


def summarize(pairs: list[tuple[Run, Run]]) -> dict[str, dict[str, Any]]:
    """Ratios A / B of each pair of runs, with their median, least and greatest.

    Of pairs a second (more is better) and memory (less is); what a run did not measure is left out.
    """
    summary = {}
    for key in ("pairs_per_second", "peak_rss_gb", "peak_cuda_gb"):
        values = [(a.get(key), b.get(key)) for a, b in pairs]
        if not all(a and b for a, b in values):
            continue
        ratios = [a / b for a, b in values]
        summary[key] = {
            "ratios": ratios,
            "median": statistics.median(ratios),
            "min": min(ratios),
            "max": max(ratios),
            "a_median": statistics.median(a for a, _ in values),
            "b_median": statistics.median(b for _, b in values),
        }
    return summary


def table(summaries: dict[str, dict]) -> str:
    """The summaries as Markdown."""
    lines = [
        "| workload | A, pairs/s | B, pairs/s | speed A/B: median (min - max) "
        "| pair by pair | peak memory A/B |",
        "|---|---|---|---|---|---|",
    ]
    for name, summary in summaries.items():
        speed = summary["pairs_per_second"]
        memory = summary.get("peak_cuda_gb") or summary["peak_rss_gb"]
        each = ", ".join(f"{ratio:.2f}" for ratio in speed["ratios"])
        lines.append(
            f"| {name} | {speed['a_median']:.3f} | {speed['b_median']:.3f} | {with_range(speed)} "
            f"| {each} | {with_range(memory)} |"
        )
    return "\n".join(lines)


def with_range(ratio: dict[str, float]) -> str:
    """median (least - greatest)"""
    return f"{ratio['median']:.2f} ({ratio['min']:.2f} - {ratio['max']:.2f})"


def main() -> None:
    """Run all workloads; write what every run printed, and print the table."""
    args = parse()
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}
    result: dict[str, Any] = {"settings": settings, "workloads": {}}
    for name in args.workloads.split(","):
        pairs = run_workload(WORKLOADS[name], args)
        runs = [{"a": a, "b": b} for a, b in pairs]
        result["workloads"][name] = {"summary": summarize(pairs), "runs": runs}
        write_json(args.out, result)  # after each: what is measured stays if a later one fails
    print(table({name: entry["summary"] for name, entry in result["workloads"].items()}))
    print(f"written: {args.out}", file=sys.stderr)


if __name__ == "__main__":
    run_entry(main)
