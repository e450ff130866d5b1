"""The tables that losses read, and what is computed of them for several losses.

Contract: tables of N examples and K responses; log-probs are sums over tokens, in nats, fp32. Column 0 is the
preferred response; `valid` says which responses an example has.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

import devices

REWARD_ROUNDING = 2.0**-23  # of single precision; the data's tolerance in `trees` is the same


class Scores(NamedTuple):
    """What a loss may look at: N examples, K responses, C belief classes.

    Log-probs are sums over tokens, in nats, fp32.
    """

    policy: torch.Tensor  # (N, K) log pi(y | x), or log pi(y | x, b) where answers stand under a belief
    reference: torch.Tensor  # (N, K) the same under the reference, no gradient; NaN where it was not computed
    length: torch.Tensor  # (N, K) scored tokens of each response; 0 where an example has none
    reward: torch.Tensor  # (N, K)
    valid: torch.Tensor  # (N, K) bool: False where an example has fewer than K responses
    class_logps: torch.Tensor | None = None  # (N, C) log q_k over the vocabulary at the last prompt token
    class_probs: torch.Tensor | None = None  # (N, C) the group's p*
    belief_logp: torch.Tensor | None = None  # (N,) log pi(b | x) of the accepted belief
    belief_length: torch.Tensor | None = None  # (N,) tokens that it sums over
    kl: torch.Tensor | None = None  # () mean log-ratio of mismatched pairs over the whole step, no gradient
    deviation: torch.Tensor | None = (
        None  # (N, K) of rewards from their mean, as the data decided; None: not yet
    )


def log_ratio_margin(scores: Scores, reference_free: bool = False) -> torch.Tensor:
    """h = r_w - r_l (N,) of the two responses of each example; reference_free takes r = log pi."""
    ratio = scores.policy if reference_free else scores.policy - scores.reference
    return ratio[:, 0] - ratio[:, 1]


def token_means(scores: Scores) -> torch.Tensor:
    """(1/T) log pi(y | x), the mean log-prob a token (N, K); of responses that are there."""
    return scores.policy / scores.length


def implied_rewards(scores: Scores, beta: float) -> torch.Tensor:
    """beta * (policy - reference), (N, K); -inf where an example has no such response, so that a softmax
    leaves it out.
    """
    return (beta * (scores.policy - scores.reference)).masked_fill(~scores.valid, -math.inf)


def deviations(scores: Scores, standardize: bool = False) -> torch.Tensor:
    """dS_i = S_i - mean(S) over the responses of each example, (N, K), 0 where there is none; in standard
    deviations if asked.

    What the data decided, in float64 (`trees.deviations`); else computed here, in float64. Exactly 0 for a
    reward at the mean.
    """
    deviation = scores.deviation
    if deviation is None:
        deviation = reward_deviations(scores.reward, scores.valid)
    if standardize:
        count = scores.valid.sum(-1, keepdim=True)
        deviation = deviation / (deviation.square().sum(-1, keepdim=True) / count).sqrt().clamp_min(1e-12)
    return deviation


def reward_deviations(reward: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Deviations (N, K) of rewards (N, K) from their mean in each row, in the dtype of the rewards.

    A reward counts as at the mean, and gets exactly 0, where it is no further from it than a few roundings of
    its dtype (at least of single precision) of the largest reward, or of 1 where all are smaller.
    """
    rounding = max(torch.finfo(reward.dtype).eps, REWARD_ROUNDING)
    exact = devices.wide(reward)
    valid = valid.to(exact.device)
    exact = exact.masked_fill(~valid, 0.0)
    count = valid.sum(-1, keepdim=True).clamp_min(1)
    deviation = (exact - exact.sum(-1, keepdim=True) / count).masked_fill(~valid, 0.0)
    tolerance = rounding * exact.abs().amax(-1, keepdim=True).clamp_min(1.0)
    deviation = deviation.masked_fill(deviation.abs() <= tolerance, 0.0)
    return deviation.to(reward.dtype).to(reward.device)


def better(scores: Scores) -> torch.Tensor:
    """(N, K, K) bool: both responses are there, and the reward of i is above that of j."""
    level = deviations(scores)
    both = scores.valid[:, :, None] & scores.valid[:, None, :]
    return both & (level[:, :, None] > level[:, None, :])
