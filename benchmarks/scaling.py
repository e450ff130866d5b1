"""What a step costs as responses, prompt tokens or the batch grow, beside what the forest promises.

    python benchmarks/scaling.py --threads 2 --repeats 5 --plot scaling.png

The forest promises P + k R tokens a prompt.

Contract: a step is one forward and one backward pass over `batch` prompts of P random ids with k responses of
R random ids, planned and packed as in training. Repeats are interleaved, the points in turn, and medians are
compared, so that a slow minute falls on all points. The last line of stdout is one JSON object.

The prediction has one free number a sweep, the c of seconds = c * batch * (P + k R). It leaves out that
scored tokens also pay for the head and that attention grows faster than linearly; the second prediction, c
times the model FLOPs, has them.
"""

from __future__ import annotations

import itertools
import json
import statistics
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

sys.path[:0] = [str(Path(__file__).resolve().parent.parent), str(Path(__file__).resolve().parent)]

from options import Parser, add_model_options, positive, positives  # noqa: E402

from utils import UserError, run_entry, setup_logging  # noqa: E402

if TYPE_CHECKING:  # slow to import, and needed for its name alone
    from forest import ForestBatch

SWEEPS = ("responses", "prompt_tokens", "batch")


class Point(NamedTuple):
    """One size of step: `batch` prompts of P tokens, each with k responses of R tokens."""

    responses: int  # k
    prompt_tokens: int  # P
    batch: int
    response_tokens: int  # R

    @property
    def tokens(self) -> int:
        """What the forest promises: batch * (P + k R)."""
        return self.batch * (self.prompt_tokens + self.responses * self.response_tokens)

    @property
    def unshared_tokens(self) -> int:
        """What one response at a time costs: batch * k (P + R)."""
        return self.batch * self.responses * (self.prompt_tokens + self.response_tokens)


class Timing(NamedTuple):
    """Seconds of a step over all repeats, and its model FLOPs (forward and backward)."""

    seconds: float  # the median
    min: float
    max: float
    flops: int


class Step(NamedTuple):
    """The packed batches of one step, and their model FLOPs (forward and backward)."""

    batches: list[ForestBatch]
    flops: int


# --- options ------------------------------------------------------------------------------------------------


def parse(argv: Sequence[str] | None = None) -> Namespace:
    """The options. Raises UserError for a mistake."""
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
    check_options(parser, args)
    return args


def check_options(parser: Parser, args: Namespace) -> None:
    """Raises UserError where a sweep has no base, or no slope."""
    if len(args.base) != 3:
        parser.error("--base: give three numbers, K,P,BATCH")
    for name in SWEEPS:
        if len(set(getattr(args, name))) < 2:
            parser.error(f"--{name.replace('_', '-')}: a slope needs two different values or more")
    if args.plot and args.plot.suffix != ".png":
        parser.error(f"--plot {args.plot}: give a name that ends in .png")


def sweep_points(args: Namespace) -> dict[str, list[Point]]:
    """The points of each sweep: `--base` with one number varied."""
    base = Point(*args.base, args.response_tokens)
    sweeps = {}
    for name in SWEEPS:
        values = sorted(set(getattr(args, name)))
        sweeps[name] = [base._replace(**{name: value}) for value in values]
    return sweeps


# --- measuring ----------------------------------------------------------------------------------------------


def import_the_rest() -> None:
    """What takes seconds to import, once the options are known to be right."""
    global forest, models, np, steps, workload
    import numpy as np
    import steps
    import workload

    import forest
    import models


def make_step(point: Point, policy: models.Scorer, args: Namespace) -> Step:
    """A step of random ids. Raises UserError where one prompt with its responses is larger than a pass."""
    trees = random_trees(point, policy.model.config.get_text_config().vocab_size, args.seed)
    largest = forest.tree_tokens(trees[:1])
    if largest > args.max_tokens:
        problem = f"P={point.prompt_tokens} with k={point.responses} takes {largest} tokens"
        raise UserError(f"--max-tokens {args.max_tokens}: {problem}; raise it")
    row_tokens = workload.choose_row_tokens(args, policy.attention)
    plan = steps.Plan("shared", args.max_tokens, row_tokens, micro_batch=0, pad_id=0)
    device = models.device_of(policy)
    batches = [batch.to(device) for batch, _ in steps.step_batches(trees, range(len(trees)), plan)]
    return Step(batches, 3 * sum(models.forward_flops(policy, batch) for batch in batches))


def random_trees(point: Point, vocab_size: int, seed: int) -> list[forest.TokenTree]:
    """The point's prompts with their responses, of random ids."""
    rng = np.random.default_rng(seed)

    def draw(count: int) -> tuple[int, ...]:
        return tuple(rng.integers(0, vocab_size, count).tolist())

    trees = []
    for _ in range(point.batch):
        prompt = draw(point.prompt_tokens)
        answers = tuple(draw(point.response_tokens) for _ in range(point.responses))
        trees.append(forest.TokenTree(prompt, (), answers))
    return trees


def step_seconds(policy: models.Scorer, batches: Sequence[ForestBatch]) -> float:
    """Seconds of one forward and backward pass over the batches.

    Gradients are dropped within them, as a step drops them.
    """
    device = models.device_of(policy)
    begin = steps.synchronized_clock(device)
    for batch in batches:
        (-models.score(policy, batch).policy.mean()).backward()
    policy.zero_grad(set_to_none=True)
    return steps.synchronized_clock(device) - begin


def measure(points: Sequence[Point], policy: models.Scorer, args: Namespace) -> dict[Point, Timing]:
    """Time every point: one round to warm up, then `repeats` rounds over all of them."""
    made = {point: make_step(point, policy, args) for point in points}
    seconds: dict[Point, list[float]] = {point: [] for point in made}
    begin = time.perf_counter()
    for number in range(args.repeats + 1):
        for point, step in made.items():
            taken = step_seconds(policy, step.batches)
            if number:
                seconds[point].append(taken)
        elapsed = time.perf_counter() - begin
        print(f"round {number} of {args.repeats} after {elapsed:.0f} s", file=sys.stderr, flush=True)
    timings = {}
    for point, taken in seconds.items():
        timings[point] = Timing(statistics.median(taken), min(taken), max(taken), made[point].flops)
    return timings


# --- predictions --------------------------------------------------------------------------------------------


def per_unit(work: Sequence[float], seconds: Sequence[float]) -> float:
    """The c of seconds = c * work that fits best in relative terms (least squares of logarithms).

    Large points do not outvote small ones.
    """
    return statistics.geometric_mean(s / w for s, w in zip(seconds, work))


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """The slope of the straight line closest to y, least squares."""
    return statistics.linear_regression(x, y).slope


def percent(measured: float, predicted: float) -> float:
    """How far the measured value lies above the predicted one, in percent of it."""
    return 100 * (measured / predicted - 1)


def analyse(name: str, points: Sequence[Point], measured: dict[Point, Timing]) -> dict[str, Any]:
    """A sweep's points with both predictions and their deviations (%), and its slope beside theirs."""
    x = [getattr(point, name) for point in points]
    seconds = [measured[point].seconds for point in points]
    tokens = [point.tokens for point in points]
    flops = [measured[point].flops for point in points]
    predictions = {"tokens": predict(tokens, seconds), "flops": predict(flops, seconds)}
    rows = []
    for i, point in enumerate(points):
        predicted = {kind: values[i] for kind, values in predictions.items()}
        rows.append({name: x[i], **describe(point, measured[point], predicted)})
    fitted = slope(x, seconds)
    slopes = {kind: slope(x, values) for kind, values in predictions.items()}
    return {
        "points": rows,
        "slope": fitted,
        "slope_predicted": slopes,
        "slope_deviation_percent": {kind: percent(fitted, value) for kind, value in slopes.items()},
    }


def predict(work: Sequence[float], seconds: Sequence[float]) -> list[float]:
    """Seconds in proportion to the work, as close to the measured ones as they come."""
    unit = per_unit(work, seconds)
    return [unit * amount for amount in work]


def describe(point: Point, timing: Timing, predicted: dict[str, float]) -> dict[str, float]:
    """One point of a sweep as the JSON has it: measured and predicted seconds, tokens, deviations (%)."""
    row = {
        "seconds": timing.seconds,
        "min": timing.min,
        "max": timing.max,
        "tokens": point.tokens,
        "unshared_tokens": point.unshared_tokens,
    }
    for kind, value in predicted.items():
        row[f"predicted_{kind}"] = value
    for kind, value in predicted.items():
        row[f"deviation_{kind}_percent"] = percent(timing.seconds, value)
    return row


# --- showing ------------------------------------------------------------------------------------------------


def table(name: str, sweep: dict[str, Any]) -> str:
    """One sweep as Markdown."""
    lines = [
        f"| {name} | P + kR tokens | k(P + R) tokens | s a step (min - max) "
        "| by P + kR, s | deviation | by FLOPs, s | deviation |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for p in sweep["points"]:
        lines.append(
            f"| {p[name]} | {p['tokens']} | {p['unshared_tokens']} "
            f"| {p['seconds']:.4g} ({p['min']:.4g} - {p['max']:.4g}) "
            f"| {p['predicted_tokens']:.4g} | {p['deviation_tokens_percent']:+.1f}% "
            f"| {p['predicted_flops']:.4g} | {p['deviation_flops_percent']:+.1f}% |"
        )
    by = sweep["slope_predicted"]
    off = sweep["slope_deviation_percent"]
    lines.append(
        f"| slope | | | {sweep['slope']:.4g} | {by['tokens']:.4g} | {off['tokens']:+.1f}% "
        f"| {by['flops']:.4g} | {off['flops']:+.1f}% |"
    )
    return "\n".join(lines)


def draw(sweeps: dict[str, dict], path: Path) -> None:
    """A PNG of one panel a sweep: medians with least and greatest over two lines.

    The lines are P + kR and k(P + R) at the same seconds a token.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(sweeps), figsize=(4.2 * len(sweeps), 3.6), constrained_layout=True)
    for axis, (name, sweep) in zip(axes, sweeps.items()):
        points = sweep["points"]
        x = [p[name] for p in points]
        shared = [p["predicted_tokens"] for p in points]
        unshared = [p["predicted_tokens"] * p["unshared_tokens"] / p["tokens"] for p in points]
        measured = [p["seconds"] for p in points]
        below = [p["seconds"] - p["min"] for p in points]
        above = [p["max"] - p["seconds"] for p in points]
        axis.plot(x, shared, "-", color="tab:blue", label="P + kR")
        axis.plot(x, unshared, ":", color="tab:gray", label="k(P + R)")
        axis.errorbar(x, measured, [below, above], fmt="o", color="tab:orange", capsize=3, label="measured")
        axis.set(xlabel=name.replace("_", " "), ylabel="seconds a step", xlim=(0, None), ylim=(0, None))
    axes[0].legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    """Measure all sweeps; print their tables and one line of JSON."""
    args = parse()
    import_the_rest()
    setup_logging()
    device = workload.open_device(args)
    policy = workload.open_policy(args, device)
    sweeps = sweep_points(args)
    # the base stands in every sweep, and is measured once
    points = list(dict.fromkeys(itertools.chain(*sweeps.values())))
    models.check_lengths(policy, max(point.prompt_tokens + point.response_tokens for point in points))
    measured = measure(points, policy, args)
    analysed = {name: analyse(name, sweep, measured) for name, sweep in sweeps.items()}
    for name, sweep in analysed.items():
        print(table(name, sweep), end="\n\n")
    if args.plot:
        draw(analysed, args.plot)
    result = {
        "model": args.random_shape or args.model,
        "device": str(device),
        "dtype": args.dtype,
        "attention": policy.attention,
        "threads": args.threads,
        "base": args.base,
        "response_tokens": args.response_tokens,
        "repeats": args.repeats,
        **models.versions(),
        "sweeps": analysed,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    run_entry(main)
