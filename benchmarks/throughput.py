"""Training speed and peak memory of this project on one workload: any loss, view, model, data and device.

    python benchmarks/throughput.py --data ranked.jsonl --loss dpo --pairs all --batch-size 8 --threads 2
    python benchmarks/throughput.py --data random --random-shape llama-1b --dtype bfloat16 --steps 20

Contract: every step runs the project's own parts (plan, pack, score, loss, backward, clip, AdamW), and all
modes train on the same examples in the same order, so their losses agree. `shared`: text that responses share
stands once; `packed`: rows are packed, nothing is shared; `padded`: every response is a row of its own,
padded to the longest of its micro-batch; `plain`: the same rows, read as is usual, from the logits and
log-softmax of all places. The last line of stdout is one JSON object. Its `seconds` are those of the
optimizer steps: loading, tokenization, the reference pass and warm-up steps are not in them.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

sys.path[:0] = [str(Path(__file__).resolve().parent.parent), str(Path(__file__).resolve().parent)]

from options import (  # noqa: E402
    BY_ROWS,
    MODES,
    PAIRS,
    RANDOM,
    Parser,
    add_data_options,
    add_model_options,
    positive,
)

from machine import peak_resident  # noqa: E402
from utils import UserError, run_entry, setup_logging  # noqa: E402

if TYPE_CHECKING:  # slow to import, and needed for its name alone
    from transformers import PreTrainedTokenizerBase


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options. Raises UserError for a mistake."""
    parser = Parser(__doc__)
    add_data_options(parser)
    add_model_options(parser)
    parser.add_argument("--loss", default="dpo", help="a file of config/loss; its keys are the defaults")
    parser.add_argument(
        "--loss-key",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="over the loss's file; may be repeated",
    )
    parser.add_argument(
        "--view", help="which responses an example compares; the loss's file says where absent"
    )
    parser.add_argument("--pairs", choices=PAIRS, help="short for --view pairs.NAME")
    parser.add_argument("--mode", choices=MODES, default="shared")
    parser.add_argument(
        "--micro-batch",
        type=positive,
        help="examples of one forward pass in the modes padded and plain; the whole step where absent",
    )
    parser.add_argument(
        "--steps", type=positive, help="timed optimizer steps; those of one epoch where absent"
    )
    parser.add_argument("--lr", type=float, default=1e-6)
    args = parser.parse_args(argv)
    check_options(parser, args)
    return args


def check_options(parser: Parser, args: argparse.Namespace) -> None:
    """Raises UserError where two options do not go together."""
    if args.view and args.pairs:
        parser.error("--view and --pairs say the same thing; give one of them")
    if args.micro_batch and args.mode not in BY_ROWS:
        parser.error(
            "--micro-batch belongs to --mode padded and plain; the other modes split a step by --max-tokens"
        )


# --- all of it ----------------------------------------------------------------------------------------------


def import_the_rest() -> None:
    """What takes seconds to import, once the options are known to be right."""
    global data, models, steps, torch, workload
    import steps
    import torch
    import workload

    import models
    import preference_datasets as data


def main() -> None:
    """Measure one workload and print what came out as one line of JSON."""
    args = parse()
    import_the_rest()
    loss_fn, needs, view = workload.bound_loss(args.loss, args.loss_key)
    view = args.view or (f"pairs.{args.pairs}" if args.pairs else view)
    groups = workload.make_groups(args)
    examples = data.view(groups, view, args.seed)
    setup_logging()
    device = workload.open_device(args)
    tokenizer = None if args.data == RANDOM else models.load_tokenizer(args.model)
    policy = workload.open_policy(args, device)
    trees = workload.make_trees(groups, examples, tokenizer, policy, args)
    workload.check_trees(trees, needs, args, view)
    models.check_lengths(policy, args.max_length)
    plan = make_plan(args, policy.attention, tokenizer)
    probe = models.parity_probe(policy, trees[:1], plan.pad_id, args.mode == "shared")
    mismatched = data.mismatch(trees, trees, args.seed, args.max_length) if needs.mismatched else []
    cold = warm = None
    if needs.reference:
        filled, cold, warm = steps.timed_reference(policy, [*trees, *mismatched], plan)
        trees, mismatched = filled[: len(trees)], filled[len(trees) :]
    optimizer = torch.optim.AdamW(policy.parameters(), lr=args.lr, weight_decay=0.0, fused=True)
    training = steps.Training(policy, optimizer, loss_fn, trees, mismatched, args.batch_size, args.seed)
    measured = measure(training, plan, args)
    result = {
        **described(args, view, policy, device),
        **summary(measured.work, measured.matmul),
        "matmul_size": matmul_size(device),
        "reference_seconds_cold": rounded(cold),
        "reference_seconds_warm": rounded(warm),
        "parity_nats": probe,
        **measured.peaks,
    }
    print(json.dumps(result))


def make_plan(
    args: argparse.Namespace, attention: str, tokenizer: PreTrainedTokenizerBase | None
) -> steps.Plan:
    """How the mode makes passes of a step's examples."""
    return steps.Plan(
        args.mode,
        args.max_tokens,
        workload.choose_row_tokens(args, attention),
        args.micro_batch or args.batch_size,
        tokenizer.pad_token_id if tokenizer else 0,
    )


class Measured(NamedTuple):
    """What timed steps did, FLOP/s of a large matrix product beside them, and the memory that they took."""

    work: steps.Work
    matmul: float
    peaks: dict[str, float | None]


def measure(training: steps.Training, plan: steps.Plan, args: argparse.Namespace) -> Measured:
    """Take the timed steps after the warm-up. Raises UserError where their loss is not finite."""
    policy = training.policy
    device = models.device_of(policy)
    rate = functools.partial(models.matmul_rate, device, policy.compute_dtype, matmul_size(device))
    rate_before = rate()
    if args.warmup_steps:
        steps.run_steps(training, plan, args.warmup_steps)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    work = steps.run_steps(training, plan, args.steps or training.order.steps_per_epoch)
    memory = peaks(device)  # before another product takes some
    if not abs(work.loss_mean) < float("inf"):
        problem = f"the loss is {work.loss_mean}, so the times mean nothing"
        raise UserError(f"--loss {args.loss}: {problem}; lower --lr")
    return Measured(work, max(rate_before, rate()), memory)


def matmul_size(device: torch.device) -> int:
    """A product of 2048 is over on a GPU before its launch is paid for."""
    return 8192 if device.type == "cuda" else 2048


def described(
    args: argparse.Namespace, view: str, policy: models.Scorer, device: torch.device
) -> dict[str, Any]:
    """What was measured."""
    return {
        "system": "grove",
        "loss": args.loss,
        "view": view,
        "mode": args.mode,
        "model": args.random_shape or models.resolve_name(args.model),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "threads": args.threads,
        "dtype": args.dtype,
        "attention": policy.attention,
        "compile": args.compile,
        **models.versions(),
    }


def peaks(device: torch.device) -> dict[str, float | None]:
    """The most memory held so far: resident (10^6 KiB), and on CUDA what torch held (10^9 bytes)."""
    peak_cuda = torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else None
    peak_rss = peak_resident() / 1.024e9
    return {"peak_rss_gb": rounded(peak_rss), "peak_cuda_gb": rounded(peak_cuda)}


def summary(work: steps.Work, matmul: float) -> dict[str, Any]:
    """Rates of timed steps; `matmul` is the FLOP/s that utilisation is relative to.

    `pairs` counts examples, of any view.
    """
    rate = work.flops / work.seconds
    return {
        "pairs": work.examples,
        "prompts": work.prompts,
        "seconds": rounded(work.seconds),
        "host_seconds": rounded(work.host_seconds),
        "pairs_per_second": rounded(work.examples / work.seconds),
        "prompts_per_second": rounded(work.prompts / work.seconds),
        "tokens": work.tokens,
        "sequence_tokens": work.sequence_tokens,
        "tokens_per_second": rounded(work.tokens / work.seconds),
        "padding_fraction": rounded(1 - work.tokens / work.padded_tokens),
        "saved_by_sharing": rounded(1 - work.tokens / work.unshared_tokens),
        "flops_per_second": rate,
        "matmul_flops_per_second": matmul,
        "mfu": rounded(rate / matmul),
        "loss_mean": work.loss_mean,
    }


def rounded(value: float | None) -> float | None:
    """To four places; None stays."""
    return None if value is None else round(value, 4)


if __name__ == "__main__":
    run_entry(main)
