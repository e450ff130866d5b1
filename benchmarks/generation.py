"""Sampling speed of the local generator beside transformers' own `generate` and, where asked for, vLLM.

    python benchmarks/generation.py --threads 2
    python benchmarks/generation.py --model outputs/sft/best --prompts 16 --samples 8 --new-tokens 64
    python benchmarks/generation.py --peers transformers,vllm --repeats 5

Contract: every system continues the same prompts the same number of times, from the whole distribution at
temperature 1, up to the same number of tokens, with the same tokens ending a response and up to
`--batch-size` responses at work. Systems take turns in one process, after one short round that is not timed;
a ratio is formed within a round. The last line of stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

sys.path[:0] = [str(Path(__file__).resolve().parent.parent), str(Path(__file__).resolve().parent)]

from options import DTYPES, EMBEDDED_MODEL, Parser, not_negative, positive  # noqa: E402

from utils import UserError, run_entry, setup_logging  # noqa: E402

if TYPE_CHECKING:  # slow to import, and needed for their names alone
    import models
    import trees

OURS, TRANSFORMERS, VLLM = "grove", "transformers", "vllm"
PEERS = (TRANSFORMERS, VLLM)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options. Raises UserError for a mistake."""
    parser = Parser(__doc__)
    parser.add_argument("--model", default=EMBEDDED_MODEL, help="an HF folder, a hub name or an embedded one")
    parser.add_argument("--data", default="opinions/republican", help="whose prompts are continued")
    parser.add_argument("--split", default="test", help="of the data; `all` for a file")
    parser.add_argument("--prompts", type=positive, default=16, help="the first so many")
    parser.add_argument("--samples", type=positive, default=8, help="responses to each prompt")
    parser.add_argument("--new-tokens", type=positive, default=64, help="of a response at most")
    parser.add_argument("--batch-size", type=positive, default=64, help="responses at work at once")
    parser.add_argument("--threads", type=positive, default=2)
    parser.add_argument("--repeats", type=positive, default=3, help="timed rounds")
    parser.add_argument("--peers", default=TRANSFORMERS, help=f"comma-separated, of {', '.join(PEERS)}")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="float32")
    parser.add_argument("--seed", type=not_negative, default=0)
    args = parser.parse_args(argv)
    args.peers = [name for name in args.peers.split(",") if name]
    unknown = [name for name in args.peers if name not in PEERS]
    if unknown:
        parser.error(f"--peers: no peer {unknown[0]}; choose of {', '.join(PEERS)}")
    args.attention = "segments"  # as an evaluation loads a model
    args.random_shape, args.activation_checkpointing, args.compile = None, False, False
    return args


def import_the_rest() -> None:
    """What takes seconds to import, once the options are known to be right."""
    global data, groups, models, torch, workload
    import torch
    import workload

    import groups
    import models
    import preference_datasets as data


# --- the systems --------------------------------------------------------------------------------------------


class Job(NamedTuple):
    """What every system is asked for."""

    prompts: list[trees.Ids]
    samples: int
    sampling: models.Sampling  # with all ends of a response
    batch_size: int
    seed: int


System = Callable[[Job], list[int]]  # the tokens of every response, without what ends it


def ours(policy: models.Scorer) -> System:
    """Continuous batches over shared prompts."""

    def sample(job: Job) -> list[int]:
        lengths = []
        draws = [(i, number) for i in range(len(job.prompts)) for number in range(job.samples)]

        def done(draw: models.Draw, ids: list[int], finish: models.Finish) -> None:
            lengths.append(len(ids))

        models.generate_draws(policy, job.prompts, draws, job.sampling, job.seed, done, job.batch_size)
        return lengths

    return sample


def by_transformers(policy: models.Scorer) -> System:
    """Batches of similar length, padded on the left, each until its last response has ended."""

    def sample(job: Job) -> list[int]:
        from transformers import GenerationConfig

        policy.model.generation_config = GenerationConfig(
            do_sample=True,
            temperature=job.sampling.temperature,
            top_k=0,
            top_p=1.0,
            max_new_tokens=job.sampling.max_new_tokens,
            pad_token_id=job.sampling.pad_id,
            eos_token_id=list(job.sampling.stop_ids),
        )
        torch.manual_seed(job.seed)
        rows = sorted((ids for ids in job.prompts for _ in range(job.samples)), key=len)
        lengths = []
        for first in range(0, len(rows), job.batch_size):
            lengths += _padded_batch(policy, rows[first : first + job.batch_size], job)
        return lengths

    return sample


def _padded_batch(policy: models.Scorer, rows: Sequence[trees.Ids], job: Job) -> list[int]:
    width, device = max(map(len, rows)), models.device_of(policy)
    gaps = [width - len(row) for row in rows]
    ids = torch.tensor(
        [[job.sampling.pad_id] * gap + list(row) for gap, row in zip(gaps, rows)], device=device
    )
    mask = torch.tensor([[0] * gap + [1] * (width - gap) for gap in gaps], device=device)
    with torch.no_grad(), torch.autocast(device.type, policy.compute_dtype, enabled=policy.casts):
        out = policy.generate(input_ids=ids, attention_mask=mask)
    responses = out[:, width:].tolist()
    ends = job.sampling.stop_ids
    return [next((i for i, id in enumerate(row) if id in ends), len(row)) for row in responses]


def by_vllm(args: argparse.Namespace) -> System:
    """vLLM's Python API. Raises UserError where it is not installed."""
    try:
        import vllm
    except ImportError as error:
        raise UserError("--peers vllm: not installed here; pip install vllm, or leave it out") from error
    weights, _ = DTYPES[args.dtype]
    engine = vllm.LLM(
        models.resolve_name(args.model),
        dtype=weights,
        max_num_seqs=args.batch_size,
        generation_config="vllm",
        seed=args.seed,
    )

    def sample(job: Job) -> list[int]:
        settings = vllm.SamplingParams(
            n=job.samples,
            temperature=job.sampling.temperature,
            max_tokens=job.sampling.max_new_tokens,
            stop_token_ids=list(job.sampling.stop_ids),
            seed=job.seed,
            detokenize=False,
        )
        prompts = [{"prompt_token_ids": list(ids)} for ids in job.prompts]
        ends = job.sampling.stop_ids
        lengths = []
        for output in engine.generate(prompts, settings, use_tqdm=False):
            lengths += [sum(id not in ends for id in one.token_ids) for one in output.outputs]
        return lengths

    return sample


# --- measuring ----------------------------------------------------------------------------------------------


class Timed(NamedTuple):
    """One system's part of one round."""

    seconds: float
    cpu_seconds: float  # of this process, all threads: what a busy machine changes less
    responses: int
    tokens: int


def timed(system: System, job: Job) -> Timed:
    """Let a system do the job."""
    start, cpu = time.perf_counter(), time.process_time()
    lengths = system(job)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return Timed(time.perf_counter() - start, time.process_time() - cpu, len(lengths), sum(lengths))


def measure(systems: dict[str, System], job: Job, repeats: int) -> dict[str, list[Timed]]:
    """Rounds in which every system does the job once, each round with a seed of its own."""
    short = job._replace(sampling=job.sampling._replace(max_new_tokens=min(4, job.sampling.max_new_tokens)))
    for system in systems.values():
        system(short)
    rounds: dict[str, list[Timed]] = {name: [] for name in systems}
    for number in range(repeats):
        for name, system in systems.items():
            rounds[name].append(timed(system, job._replace(seed=job.seed + number)))
    return rounds


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and greatest."""
    return {
        "median": round(statistics.median(values), 4),
        "low": round(min(values), 4),
        "high": round(max(values), 4),
    }


def summary(rounds: dict[str, list[Timed]]) -> dict[str, Any]:
    """Rates of every system, and how many times ours is faster than each peer, round by round."""
    systems = {}
    for name, of_system in rounds.items():
        systems[name] = {
            "responses_per_second": spread([t.responses / t.seconds for t in of_system]),
            "tokens_per_second": spread([t.tokens / t.seconds for t in of_system]),
            "seconds": [round(t.seconds, 3) for t in of_system],
            "cpu_seconds": [round(t.cpu_seconds, 3) for t in of_system],
            "tokens_a_response": round(statistics.mean(t.tokens / t.responses for t in of_system), 2),
        }
    result: dict[str, Any] = {"systems": systems}
    for name in rounds:
        if name != OURS:
            pairs = list(zip(rounds[OURS], rounds[name]))
            result[f"over_{name}"] = spread([b.seconds / a.seconds for a, b in pairs])
            result[f"over_{name}_by_cpu_time"] = spread([b.cpu_seconds / a.cpu_seconds for a, b in pairs])
    return result


def make_job(args: argparse.Namespace, policy: models.Scorer) -> Job:
    """The prompts of the data, and how to continue them."""
    tokenizer = models.load_tokenizer(args.model)
    several = data.load_groups(args.data, args.split, args.seed)[: args.prompts]
    if not several:
        raise UserError(f"--data {args.data}: split {args.split} is empty; give another --split")
    prompts = [groups.prompt_ids(tokenizer, group, groups.Limits(2**20, None)) for group in several]
    models.check_room(policy, prompts, args.new_tokens)
    ends = models.end_ids(policy, groups.stop_ids(tokenizer))
    sampling = models.Sampling(
        args.new_tokens, tokenizer.pad_token_id, tokenizer.eos_token_id, stop_ids=tuple(ends)
    )
    return Job(prompts, args.samples, sampling, args.batch_size, args.seed)


def main() -> None:
    """Measure, and print what came out as one line of JSON."""
    args = parse()
    import_the_rest()
    setup_logging()
    device = workload.open_device(args)
    policy = workload.open_policy(args, device)
    job = make_job(args, policy)
    systems = {OURS: ours(policy)}
    if TRANSFORMERS in args.peers:
        systems[TRANSFORMERS] = by_transformers(policy)
    if VLLM in args.peers:
        systems[VLLM] = by_vllm(args)
    described = {
        "model": models.resolve_name(args.model),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "threads": args.threads,
        "dtype": args.dtype,
        "prompts": len(job.prompts),
        "samples": args.samples,
        "new_tokens": args.new_tokens,
        "batch_size": args.batch_size,
        **models.versions(),
    }
    print(json.dumps({**described, **summary(measure(systems, job, args.repeats))}))


if __name__ == "__main__":
    run_entry(main)
