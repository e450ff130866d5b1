"""What a step costs as responses, prompt tokens or the batch grow, beside what the forest promises: P + k R
tokens a prompt.

python benchmarks/scaling.py --threads 2 --repeats 5 --plot scaling.png

Contract: a step is one forward and one backward pass over `batch` prompts of P random ids with k responses of
R random ids, planned and packed as in training. Repeats are interleaved, the points in turn, and medians are
compared, so that a slow minute falls on all points. The last line of stdout is one JSON object.

The prediction has one free number a sweep, the c of seconds = c * batch * (P + k R). It leaves out that
scored tokens also pay for the head and that attention grows faster than linearly; the second prediction, c
times the model FLOPs, has them.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]

from throughput import Plan, step_batches, synchronized_clock  # noqa: E402
from workload import (
    Parser,
    add_model_options,
    choose_row_tokens,
    open_device,
    open_policy,
    positive,
    positives,
)  # noqa: E402

from utils import UserError, run_entry, setup_logging  # noqa: E402


class Point(NamedTuple):
    """One size of step: `responses` (k) of `response_tokens` (R) under each of `batch` prompts of
    `prompt_tokens` (P).
    """

    responses: int
    prompt_tokens: int
    batch: int
    response_tokens: int

    @property
    def tokens(self) -> int:
        """What the forest promises: batch * (P + k R)."""
        return self.batch * (self.prompt_tokens + self.responses * self.response_tokens)

    @property
    def unshared_tokens(self) -> int:
        """What one response at a time costs: batch * k (P + R)."""
        return self.batch * self.responses * (self.prompt_tokens + self.response_tokens)


SWEEPS = ("responses", "prompt_tokens", "batch")


def parse(argv: Sequence[str] | None = None) -> Namespace:
    parser = Parser(__doc__)
    add_model_options(parser)
    parser.add_argument("--threads", type=positive, default=2)
    parser.add_argument(
        "--responses", type=positives, default=[1, 2, 4, 8], help="the sweep over k; the other sweeps have 4"
    )
    parser.add_argument(
        "--prompt-tokens",
        type=positives,
        default=[64, 128, 256, 512],
        help="the sweep over P; the others have 128",
    )
    parser.add_argument(
        "--batch", type=positives, default=[1, 2, 4, 8], help="prompts a step; the other sweeps have 2"
    )
    parser.add_argument("--response-tokens", type=positive, default=64, help="R")
    parser.add_argument(
        "--base", type=positives, default=[4, 128, 2], metavar="K,P,BATCH", help="what a sweep holds fixed"
    )
    parser.add_argument("--repeats", type=positive, default=5)
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    args = parser.parse_args(argv)
    if len(args.base) != 3:
        parser.error("--base: give three numbers, K,P,BATCH")
    if short := next((name for name in SWEEPS if len(set(getattr(args, name))) < 2), None):
        parser.error(f"--{short.replace('_', '-')}: a slope needs two different values or more")
    if args.plot and args.plot.suffix != ".png":
        parser.error(f"--plot {args.plot}: give a name that ends in .png")
    return args


def sweep_points(args: Namespace) -> dict[str, list[Point]]:
    """The points of each sweep: `--base` with one number varied."""
    base = Point(*args.base, args.response_tokens)
    return {
        name: [base._replace(**{name: value}) for value in sorted(set(getattr(args, name)))]
        for name in SWEEPS
    }


def make_step(point: Point, policy, args: Namespace) -> tuple[list, int]:
    """The packed batches of a step of random ids, and their model FLOPs (forward and backward)."""
    import numpy as np

    import forest
    import models

    rng, vocab_size = np.random.default_rng(args.seed), policy.model.config.get_text_config().vocab_size

    def draw(count: int) -> tuple[int, ...]:
        return tuple(rng.integers(0, vocab_size, count).tolist())

    trees = [
        forest.TokenTree(
            draw(point.prompt_tokens), (), tuple(draw(point.response_tokens) for _ in range(point.responses))
        )
        for _ in range(point.batch)
    ]
    if (largest := forest.tree_tokens(trees[:1])) > args.max_tokens:
        raise UserError(
            f"--max-tokens {args.max_tokens}: P={point.prompt_tokens} with k={point.responses} takes {largest} tokens; "
            "raise it"
        )
    plan = Plan("shared", args.max_tokens, choose_row_tokens(args, policy.attention), 0, 0)
    batches = [
        batch.to(next(policy.parameters()).device)
        for batch, _ in step_batches(trees, range(len(trees)), plan)
    ]
    return batches, 3 * sum(models.forward_flops(policy, batch) for batch in batches)


def step_seconds(policy, batches: Sequence) -> float:
    """Seconds of one forward and backward pass over the batches; gradients are dropped within them, as a step
    drops them.
    """
    import models

    device = next(policy.parameters()).device
    begin = synchronized_clock(device)
    for batch in batches:
        (-models.score(policy, batch).policy.mean()).backward()
    policy.zero_grad(set_to_none=True)
    return synchronized_clock(device) - begin


def measure(points: Sequence[Point], policy, args: Namespace) -> dict[Point, dict[str, Any]]:
    """Seconds of every point: one round to warm up, then `repeats` rounds over all of them."""
    steps = {point: make_step(point, policy, args) for point in points}
    seconds: dict[Point, list[float]] = {point: [] for point in steps}
    begin = time.perf_counter()
    for number in range(args.repeats + 1):
        for point, (batches, _) in steps.items():
            taken = step_seconds(policy, batches)
            if number:
                seconds[point].append(taken)
        print(
            f"round {number} of {args.repeats} after {time.perf_counter() - begin:.0f} s",
            file=sys.stderr,
            flush=True,
        )
    return {
        point: {
            "seconds": statistics.median(taken),
            "min": min(taken),
            "max": max(taken),
            "flops": steps[point][1],
        }
        for point, taken in seconds.items()
    }


def per_unit(work: Sequence[float], seconds: Sequence[float]) -> float:
    """The c of seconds = c * work that fits best in relative terms (least squares of logarithms): large
    points do not outvote.
    """
    return statistics.geometric_mean(s / w for s, w in zip(seconds, work))


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """The slope of the straight line closest to y, least squares."""
    return statistics.linear_regression(x, y).slope


def analyse(name: str, points: Sequence[Point], measured: dict[Point, dict[str, Any]]) -> dict[str, Any]:
    """A sweep's points with both predictions and their deviations (%), and the fitted slope beside the
    predicted one.
    """
    x, seconds = [getattr(p, name) for p in points], [measured[p]["seconds"] for p in points]
    predictions = {}
    for kind, work in (
        ("tokens", [p.tokens for p in points]),
        ("flops", [measured[p]["flops"] for p in points]),
    ):
        unit = per_unit(work, seconds)
        predictions[kind] = [unit * w for w in work]
    found = slope(x, seconds)
    predicted = {kind: slope(x, values) for kind, values in predictions.items()}
    rows = [
        {
            name: value,
            **{k: measured[p][k] for k in ("seconds", "min", "max")},
            "tokens": p.tokens,
            "unshared_tokens": p.unshared_tokens,
            **{f"predicted_{kind}": values[i] for kind, values in predictions.items()},
            **{
                f"deviation_{kind}_percent": percent(seconds[i], values[i])
                for kind, values in predictions.items()
            },
        }
        for i, (value, p) in enumerate(zip(x, points))
    ]
    return {
        "points": rows,
        "slope": found,
        "slope_predicted": predicted,
        "slope_deviation_percent": {kind: percent(found, value) for kind, value in predicted.items()},
    }


def percent(measured: float, predicted: float) -> float:
    """How far the measured value lies above the predicted one, in percent of it."""
    return 100 * (measured / predicted - 1)


def table(name: str, sweep: dict[str, Any]) -> str:
    """One sweep as Markdown."""
    lines = [
        f"| {name} | P + kR tokens | k(P + R) tokens | s a step (min - max) | by P + kR, s | deviation | by FLOPs, s | deviation |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for p in sweep["points"]:
        lines.append(
            f"| {p[name]} | {p['tokens']} | {p['unshared_tokens']} | {p['seconds']:.4g} ({p['min']:.4g} - {p['max']:.4g}) | "
            f"{p['predicted_tokens']:.4g} | {p['deviation_tokens_percent']:+.1f}% | "
            f"{p['predicted_flops']:.4g} | {p['deviation_flops_percent']:+.1f}% |"
        )
    by, off = sweep["slope_predicted"], sweep["slope_deviation_percent"]
    lines.append(
        f"| slope | | | {sweep['slope']:.4g} | {by['tokens']:.4g} | {off['tokens']:+.1f}% | "
        f"{by['flops']:.4g} | {off['flops']:+.1f}% |"
    )
    return "\n".join(lines)


def draw(sweeps: dict[str, dict], path: Path) -> None:
    """A PNG: one panel a sweep, medians with their spread over the lines of P + kR and of k(P + R) at the
    same seconds a token.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(sweeps), figsize=(4.2 * len(sweeps), 3.6), constrained_layout=True)
    for axis, (name, sweep) in zip(axes, sweeps.items()):
        points = sweep["points"]
        x, y = [p[name] for p in points], [p["seconds"] for p in points]
        spread = [[p["seconds"] - p["min"] for p in points], [p["max"] - p["seconds"] for p in points]]
        unshared = [p["predicted_tokens"] * p["unshared_tokens"] / p["tokens"] for p in points]
        axis.plot(x, [p["predicted_tokens"] for p in points], "-", color="tab:blue", label="P + kR")
        axis.plot(x, unshared, ":", color="tab:gray", label="k(P + R)")
        axis.errorbar(x, y, spread, fmt="o", color="tab:orange", capsize=3, label="measured")
        axis.set(xlabel=name.replace("_", " "), ylabel="seconds a step", xlim=(0, None), ylim=(0, None))
    axes[0].legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    args = parse()
    import models

    setup_logging()
    device = open_device(args)
    policy = open_policy(args, device)
    sweeps = sweep_points(args)
    points = list(
        dict.fromkeys(p for sweep in sweeps.values() for p in sweep)
    )  # the base stands in every sweep: measured once
    models.check_lengths(policy, max(p.prompt_tokens + p.response_tokens for p in points))
    measured = measure(points, policy, args)
    found = {name: analyse(name, sweep, measured) for name, sweep in sweeps.items()}
    for name, sweep in found.items():
        print(table(name, sweep), end="\n\n")
    if args.plot:
        draw(found, args.plot)
    print(
        json.dumps(
            {
                "model": args.random_shape or args.model,
                "device": str(device),
                "dtype": args.dtype,
                "attention": policy.attention,
                "threads": args.threads,
                "base": args.base,
                "response_tokens": args.response_tokens,
                "repeats": args.repeats,
                **models.versions(),
                "sweeps": found,
            }
        )
    )


if __name__ == "__main__":
    run_entry(main)
