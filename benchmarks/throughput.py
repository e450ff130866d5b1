"""Training speed and peak memory of this project on one workload: any loss, view, model, data and device, in three modes.

    python benchmarks/throughput.py --data ranked.jsonl --loss dpo --pairs all --prompts 16 --batch-size 8 --threads 2
    python benchmarks/throughput.py --data random --random-shape llama-1b --dtype bfloat16 --max-tokens 16384 --warmup-steps 3 --steps 20

Contract: every step runs the project's own parts (plan, pack, score, loss, backward, clip, AdamW), and all modes train on the
same examples in the same order, so their losses agree. `shared`: text that responses share stands once; `packed`: rows are
packed, nothing is shared; `padded`: every response is a row of its own, padded to the longest of its micro-batch; `plain`: the
same rows, read as is usual, from the logits and log-softmax of all places. The last line of stdout is one JSON object. Its
`seconds` are those of the optimizer steps: loading, tokenization, the reference pass and warm-up steps are not in them.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]

from workload import (  # noqa: E402
    PAIRS,
    RANDOM,
    Parser,
    add_data_options,
    add_model_options,
    bound_loss,
    check_trees,
    choose_row_tokens,
    open_device,
    open_policy,
    positive,
    random_groups,
    random_trees,
    read_groups,
    text_trees,
)

from ranks import World  # noqa: E402
from utils import UserError, run_entry, setup_logging  # noqa: E402

MODES = ("shared", "packed", "padded", "plain")
BY_ROWS = ("padded", "plain")


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
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
    if args.view and args.pairs:
        parser.error("--view and --pairs say the same thing; give one of them")
    if args.micro_batch and args.mode not in BY_ROWS:
        parser.error(
            "--micro-batch belongs to --mode padded and plain; the other modes split a step by --max-tokens"
        )
    return args


# --- steps -----------------------------------------------------------------------------------------------------------


PER_ANSWER = (
    "answers",
    "rewards",
    "reference",
    "truncated",
)  # the fields of a tree that hold an entry an answer


class Plan(NamedTuple):
    """How the examples of a step become forward passes."""

    mode: str
    max_tokens: int
    row_tokens: int
    micro_batch: int  # examples of one forward pass in the modes padded and plain
    pad_id: int


class Work(NamedTuple):
    """What timed steps did. Tokens are those of one forward pass over the examples, without KTO's mismatched pairs."""

    seconds: float
    host_seconds: float  # planning and packing, within `seconds`
    examples: int
    prompts: int
    tokens: int  # real ones in the rows, shared ones once
    padded_tokens: int  # places in the rows
    unshared_tokens: int  # one response at a time
    sequence_tokens: int  # the same with each response's last token, from which nothing is predicted
    flops: int  # useful ones, forward and backward
    loss_mean: float  # over examples, each before its own step's update


def step_batches(trees: Sequence, examples: Sequence[int], plan: Plan) -> Iterator[tuple[Any, list]]:
    """The packed batches of one step; in the modes padded and plain each with the trees whose answers its rows are."""
    import forest

    if plan.mode not in BY_ROWS:
        share = plan.mode == "shared"
        for rows in forest.plan_step(trees, examples, plan.max_tokens, plan.row_tokens, 1, share):
            yield forest.pack(trees, rows, plan.pad_id, share), []
        return
    for first in range(0, len(examples), plan.micro_batch):
        members = [trees[i] for i in examples[first : first + plan.micro_batch]]
        singles = [
            t._replace(**{name: getattr(t, name)[k : k + 1] for name in PER_ANSWER})
            for t in members
            for k, answer in enumerate(t.answers)
            if answer
        ]
        yield forest.pack(singles, [[i] for i in range(len(singles))], plan.pad_id, share=False), members


def as_tables(scores, members: Sequence):
    """Scores of single responses (S, 1) as the (N, K) tables of the trees they came from; others as they are."""
    import torch

    if not members:
        return scores
    index, device = [], scores.policy.device  # (N, K) row of each answer, -1 where there is none
    width, row = max(len(t.answers) for t in members), itertools.count()
    for tree in members:
        index.append(
            [next(row) if answer else -1 for answer in (*tree.answers, *[()] * (width - len(tree.answers)))]
        )
    index = torch.tensor(index, device=device)
    valid, first = index >= 0, index.masked_fill(index < 0, index.numel()).min(1).values
    tables = {
        k: getattr(scores, k)[index.clamp_min(0), 0].masked_fill(~valid, 0.0)
        for k in ("policy", "reference", "length", "reward")
    }
    per_tree = {
        k: None if getattr(scores, k) is None else getattr(scores, k)[first]
        for k in ("class_logps", "class_probs", "belief_logp", "belief_length")
    }
    return scores._replace(**tables, **per_tree, valid=valid)


class Plain:
    """Reads log-probs as is usual: logits of all places, their log-softmax, the entries that are asked for."""

    def __init__(self, policy):
        self.policy = policy

    def __call__(self, input_ids, position_ids, end, positions, source, target, *_):
        logps = (
            self.policy(input_ids).float().log_softmax(-1)
        )  # rows are padded on the right, so causality needs no mask
        return logps.flatten(0, 1)[positions[source], target]


def mismatched_log_ratio(policy, trees: Sequence, examples: Sequence[int], plan: Plan) -> tuple[Any, int]:
    """Mean log-ratio (nats) of the step's mismatched pairs, which KTO asks for, and its FLOPs; (None, 0) where there are none."""
    import torch

    import models

    if not trees:
        return None, 0
    device, flops, reader = (
        next(policy.parameters()).device,
        0,
        Plain(policy) if plan.mode == "plain" else policy,
    )
    total = torch.zeros((), device=device)
    with torch.no_grad():
        for batch, members in step_batches(trees, examples, plan):
            flops += models.forward_flops(policy, batch)
            scores = as_tables(models.score(reader, batch.to(device)), members)
            total += (scores.policy - scores.reference).sum()
    return total / len(examples), flops


def run_steps(
    policy,
    optimizer,
    trees: Sequence,
    mismatched: Sequence,
    loss_fn: Callable,
    plan: Plan,
    batch_size: int,
    seed: int,
    steps: int,
) -> Work:
    """Take `steps` optimizer steps from step 0 of the order that `seed` gives, and say what they did and how long they took."""
    import torch

    import forest
    import models

    device, prompt_of = next(policy.parameters()).device, [tree.group for tree in trees]
    reader = Plain(policy) if plan.mode == "plain" else policy
    per_epoch = forest.steps_per_epoch(len(trees), batch_size)
    loss_sum, done, flops, num_examples, host, prompts = (
        torch.zeros((), device=device),
        [0] * 4,
        0,
        0,
        0.0,
        set(),
    )
    begin = synchronized_clock(device)
    for step in range(steps):
        start = time.perf_counter()
        examples = forest.step_examples(prompt_of, batch_size, seed, step, "prompts")
        batches = list(step_batches(trees, examples, plan))
        host += time.perf_counter() - start
        kl, once = mismatched_log_ratio(policy, mismatched, examples, plan)
        flops += once
        for batch, members in batches:
            flops += 3 * models.forward_flops(policy, batch)
            counts = (
                batch.num_tokens,
                batch.input_ids.numel(),
                batch.num_tokens_unshared,
                int(batch.valid.sum()),
            )
            done = [a + b for a, b in zip(done, counts)]
            losses = loss_fn(as_tables(models.score(reader, batch.to(device)), members)._replace(kl=kl))
            (losses.sum() / len(examples)).backward()
            loss_sum += losses.detach().sum()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 10.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        num_examples += len(examples)
        prompts |= {(step // per_epoch, prompt_of[i]) for i in examples}
    seconds = synchronized_clock(device) - begin
    tokens, padded, unshared, answers = done
    return Work(
        seconds,
        host,
        num_examples,
        len(prompts),
        tokens,
        padded,
        unshared,
        unshared + answers,
        flops,
        loss_sum.item() / num_examples,
    )


def synchronized_clock(device) -> float:
    """Seconds, once the device has finished what it was given."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


# --- the reference pass ----------------------------------------------------------------------------------------------


@contextmanager
def empty_cache() -> Iterator[None]:
    """A cache folder of its own, so that the first reference pass is a cold one."""
    before = os.environ.get("GROVE_CACHE")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GROVE_CACHE"] = folder
        try:
            yield
        finally:
            os.environ.pop("GROVE_CACHE")
            if before is not None:
                os.environ["GROVE_CACHE"] = before


def timed_reference(policy, trees: Sequence, plan: Plan) -> tuple[list, float, float]:
    """Trees with reference log-probs, and the seconds of a cold and a warm pass, both with the hash of the weights."""
    import models
    import reference

    device, seconds = next(policy.parameters()).device, []
    with empty_cache():
        for _ in range(2):
            begin = synchronized_clock(device)
            found = reference.reference_logps(
                policy,
                trees,
                models.fingerprint(policy),
                plan.pad_id,
                plan.max_tokens,
                plan.row_tokens,
                World(0, 1, device, None),
                plan.mode == "shared",
            )
            seconds.append(synchronized_clock(device) - begin)
    return found, *seconds


# --- all of it -------------------------------------------------------------------------------------------------------


def main() -> None:
    args = parse()
    loss_fn, needs, view = bound_loss(args.loss, args.loss_key)
    view = args.view or (f"pairs.{args.pairs}" if args.pairs else view)
    import preference_datasets as data

    groups = (
        random_groups(args.prompts, args.responses)
        if args.data == RANDOM
        else read_groups(args.data, args.prompts, args.responses)
    )
    examples = data.view(groups, view, args.seed)
    import torch

    import forest
    import models

    setup_logging()
    device = open_device(args)
    tokenizer = None if args.data == RANDOM else models.load_tokenizer(args.model)
    policy = open_policy(args, device)
    vocab_size = policy.model.config.get_text_config().vocab_size
    trees = (
        random_trees(groups, examples, args.max_length, vocab_size, args.seed)
        if tokenizer is None
        else text_trees(groups, examples, tokenizer, args.max_length)
    )
    check_trees(trees, needs, args, view)
    models.check_lengths(policy, args.max_length)
    plan = Plan(
        args.mode,
        args.max_tokens,
        choose_row_tokens(args, policy.attention),
        args.micro_batch or args.batch_size,
        tokenizer.pad_token_id if tokenizer else 0,
    )
    probe = models.parity_probe(policy, trees[:1], plan.pad_id, args.mode == "shared")
    mismatched = data.mismatch(trees, trees, args.seed, args.max_length) if needs.mismatched else []
    cold = warm = None
    if needs.reference:
        filled, cold, warm = timed_reference(policy, [*trees, *mismatched], plan)
        trees, mismatched = filled[: len(trees)], filled[len(trees) :]

    optimizer = torch.optim.AdamW(policy.parameters(), lr=args.lr, weight_decay=0.0, fused=True)
    steps = functools.partial(
        run_steps, policy, optimizer, trees, mismatched, loss_fn, plan, args.batch_size, args.seed
    )
    size = (
        8192 if device.type == "cuda" else 2048
    )  # a product of 2048 is over on a GPU before its launch is paid for
    rate = functools.partial(models.matmul_rate, device, policy.compute_dtype, size)
    rate_before = rate()
    if args.warmup_steps:
        steps(args.warmup_steps)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    work = steps(args.steps or forest.steps_per_epoch(len(trees), args.batch_size))
    peak_cuda = torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else None
    peak_rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    if not abs(work.loss_mean) < float("inf"):
        raise UserError(
            f"--loss {args.loss}: the loss is {work.loss_mean}, so the times mean nothing; lower --lr"
        )
    matmul = max(rate_before, rate())
    name = args.random_shape or models.resolve_name(args.model)
    print(
        json.dumps(
            {
                "system": "grove",
                "loss": args.loss,
                "view": view,
                "mode": args.mode,
                "model": name,
                "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
                "threads": args.threads,
                "dtype": args.dtype,
                "attention": policy.attention,
                "compile": args.compile,
                **models.versions(),
                **summary(work, matmul),
                "matmul_size": size,
                "reference_seconds_cold": rounded(cold),
                "reference_seconds_warm": rounded(warm),
                "parity_nats": probe,
                "peak_rss_gb": rounded(peak_rss),
                "peak_cuda_gb": rounded(peak_cuda),
            }
        )
    )


def summary(work: Work, matmul: float) -> dict[str, Any]:
    """Rates of timed steps; `matmul` is the FLOP/s that utilisation is relative to. `pairs` counts examples, of any view."""
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
    return None if value is None else round(value, 4)


if __name__ == "__main__":
    run_entry(main)
