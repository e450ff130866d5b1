"""What to sample, the random numbers that belong to a sample, and the token that each of them picks.

Contract: the numbers of a sample depend on (seed, the prompt's token ids, the sample's number) alone, so that
a sample is the same in every batch, and every checkpoint draws with the same numbers (common random numbers:
pairs of checkpoints compare with less noise).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch

import devices
import forest

BLOCK = 256  # tokens whose probabilities are added up before the place of a draw is looked for
NOT_FINITE = -1  # stands for a token where logits are not finite

Finish = Literal["stop", "length"]  # it ended by itself; it was cut at the limit
OnEnd = Callable[[int, list[int], Finish], None]  # of a request's index: its ids without what ended it


class Sampling(NamedTuple):
    """How to continue prompts: for up to `max_new_tokens`, at a temperature (0: greedy)."""

    max_new_tokens: int
    pad_id: int
    eos_id: int
    temperature: float = 1.0
    stop_ids: tuple[int, ...] = ()  # further tokens that end a response: of the chat template


class Request(NamedTuple):
    """One sample to draw."""

    index: int  # among the requests of a call
    prompt: forest.Ids
    number: int  # among the prompt's samples


def longest_first(requests: Sequence[Request]) -> list[Request]:
    """Samples of one prompt side by side, prompts of similar length near each other."""
    return sorted(requests, key=lambda request: (-len(request.prompt), request.prompt, request.number))


def uniforms(seed: int, prompt: forest.Ids, number: int, count: int) -> np.ndarray:
    """(count,) float64 numbers in [0, 1): those of a sample's first `count` tokens.

    Philox in counter mode (Salmon et al. 2011), keyed by a hash, so that it is the same on every machine.
    """
    text = f"{seed} {number} ".encode() + np.asarray(prompt, dtype="<i8").tobytes()
    key = int.from_bytes(hashlib.blake2b(text, digest_size=16).digest(), "little")
    return (np.random.Philox(key=key).random_raw(count) >> np.uint64(11)) * 2.0**-53


def choose(logits: torch.Tensor, numbers: torch.Tensor, temperature: float) -> torch.Tensor:
    """The token (n,) that each row of logits (n, V) gives for its number (n,) in [0, 1).

    The number is looked up in the cumulative softmax at this temperature over the whole vocabulary (inverse
    CDF); 0: the most likely token, the first of several. NOT_FINITE where a row's logits are not finite.
    Where the logits' device has no float64, all is done on the CPU, and the tokens are there.
    """
    logits = logits.to(devices.with_float64(logits.device))
    numbers = numbers.to(logits.device)
    largest = logits.amax(-1)
    if temperature > 0:
        token = _inverse_cdf(logits, largest, numbers, temperature)
    else:
        token = logits.argmax(-1)
    return token.masked_fill(~largest.isfinite(), NOT_FINITE)


def _inverse_cdf(
    logits: torch.Tensor, largest: torch.Tensor, numbers: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Sums of blocks first, then the tokens of one block: one pass over the vocabulary, and few roundings."""
    rows, vocabulary = logits.shape
    width = -(-vocabulary // BLOCK) * BLOCK
    weights = logits.new_empty(rows, width)
    weights[:, vocabulary:] = 0
    of_tokens = torch.sub(logits, largest[:, None], out=weights[:, :vocabulary])
    if temperature != 1:
        of_tokens /= temperature
    of_tokens.exp_()
    blocks = weights.view(rows, -1, BLOCK)
    up_to_block = blocks.sum(-1).cumsum(-1, dtype=torch.float64)  # (n, blocks)
    target = numbers.to(torch.float64) * up_to_block[:, -1]
    block = _first_above(up_to_block, target)
    before = torch.where(block > 0, up_to_block.gather(1, (block - 1).clamp(min=0)[:, None])[:, 0], 0.0)
    of_block = blocks[torch.arange(rows, device=logits.device), block]  # (n, BLOCK)
    inside = _first_above(of_block.cumsum(-1, dtype=torch.float64), target - before)
    return block * BLOCK + inside


def _first_above(cumulative: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The first place (n,) whose cumulative sum (n, m) is above the target (n,).

    Where rounding leaves none, the last that adds something: what has no probability is never drawn.
    """
    last = (cumulative < cumulative[:, -1:]).sum(-1)
    return (cumulative <= target[:, None]).sum(-1).minimum(last)
