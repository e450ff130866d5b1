"""Sampling: continuations of prompts, drawn from the model's whole distribution.

Contract: a sample is a function of (weights, seed, the prompt's token ids, its number, temperature), up to
rounding: not of the batch, its size, the order, other prompts or the number of ranks. No setting for
generation that a model ships counts, except the tokens that end a response.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import torch

import forest
from models.batching import Batching
from models.cache_probe import obstacle, segments_attention
from models.draws import Finish, Request, Sampling
from models.packed_weights import can_pack, packed_weights
from models.scorer import Scorer
from models.transformers_sampling import sample_by_transformers
from utils import log

Draw = tuple[int, int]  # (prompt: its index in the call, number: among the prompt's samples)
OnSample = Callable[[Draw, list[int], Finish], None]  # of a draw: its ids without what ended it

NO_SAMPLING = ("_from_model_config", "transformers_version", "use_cache", "cache_implementation")


@torch.no_grad()
def generate_draws(
    policy: Scorer,
    prompts: Sequence[forest.Ids],
    draws: Sequence[Draw],
    sampling: Sampling,
    seed: int,
    done: OnSample,
    batch_size: int,
) -> None:
    """Sample a continuation for every draw; `done` is called as each ends, in any order.

    A response ends with `eos_id`, a stop id or any token that the model names as an end (finish "stop"), else
    after `max_new_tokens` ("length"). Up to `batch_size` are at work at once. Prompts must fit the model, see
    `check_room`. A call for all ranks where the policy is sharded: those with few draws, or none, make the
    passes that others need. Raises UserError where logits are not finite.
    """
    ends = end_ids(policy, (sampling.eos_id, *sampling.stop_ids))
    sampling = sampling._replace(stop_ids=tuple(ends))
    requests = [Request(i, tuple(prompts[prompt]), number) for i, (prompt, number) in enumerate(draws)]

    def on_end(index: int, ids: list[int], finish: Finish) -> None:
        done(draws[index], ids, finish)

    work = (policy, requests, sampling, seed, batch_size, on_end)
    longest = max(map(len, prompts), default=1) + sampling.max_new_tokens
    with torch.compiler.set_stance("force_eager"):
        reason = obstacle(policy, prompts[0] if prompts else (), sampling.pad_id, longest)
        if not reason:
            rows = min(batch_size, len(requests))
            steps = len(requests) * sampling.max_new_tokens // max(rows, 1)
            packed = can_pack(policy, rows, steps)
            weights = packed_weights(policy, rows) if packed else policy.casting_once()
            with segments_attention(policy), weights:
                Batching(*work).run()
            return
        name = type(policy.model).__name__
        log.warning("model %s: sampled by transformers' own generate, which is slower: %s", name, reason)
        sample_by_transformers(*work)


def generate(policy: Scorer, prompts: Sequence[forest.Ids], sampling: Sampling, seed: int) -> list[list[int]]:
    """One continuation a prompt, all at work at once; token ids without what ends them.

    A prompt that stands there several times is continued by its samples 0, 1, ... Otherwise as
    `generate_draws`.
    """
    times: Counter[forest.Ids] = Counter()
    draws = []
    for i, prompt in enumerate(prompts):
        draws.append((i, times[tuple(prompt)]))
        times[tuple(prompt)] += 1
    responses: dict[int, list[int]] = {}

    def done(draw: Draw, ids: list[int], finish: Finish) -> None:
        responses[draw[0]] = ids

    generate_draws(policy, prompts, draws, sampling, seed, done, max(len(prompts), 1))
    return [responses[i] for i in range(len(prompts))]


def end_ids(policy: Scorer, known: Sequence[int]) -> list[int]:
    """Every token that ends a response: those that are known, then those that the model's files name."""
    ends = list(known)
    text_config = policy.model.config.get_text_config()
    for settings in (getattr(policy.model, "generation_config", None), text_config):
        named = getattr(settings, "eos_token_id", None)
        ends += named if isinstance(named, list | tuple) else [named]
    return [end for end in dict.fromkeys(ends) if end is not None]


def ignored_settings(policy: Scorer) -> dict[str, object]:
    """What the model's generation_config sets of how to sample, by name: none of it counts."""
    if policy.model.generation_config is None:
        return {}
    named = policy.model.generation_config.to_diff_dict()
    return {
        name: value
        for name, value in sorted(named.items())
        if name not in NO_SAMPLING and not name.endswith("_token_id") and not name.startswith("output_")
    }
