"""Losses of any number of responses with rewards: the papers' equations.

Contract: every loss is `name(scores, **keys) -> (N,)`, a pure function of `Scores`, declared beside it;
examples of a batch may differ in their number of responses. s = beta (policy - reference) is the implied
reward. A pair without rewards is a loss's pair of a reward that its declaration makes up.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F

from objectives.declared import Keys, Needs, NotNegative, Positive, declare
from objectives.scores import Scores, better, deviations, implied_rewards

ONE_HOT = 1e3  # a difference of rewards, in temperatures, beside which a softmax is exactly 1 and 0
SAME_RANK = 0.01  # nats of log-ratio: closer ones are not ranked by their rounding, as at step 0
RANKED = Needs(columns="several", rewards=True, pair_reward=1.0)


def _soft_target_needs(keys: Keys) -> Needs:
    """A pair's soft targets are all on its preferred response."""
    return RANKED._replace(pair_reward=ONE_HOT * max(1.0, keys["temperature"]))


def soft_targets(scores: Scores, temperature: float) -> torch.Tensor:
    """t = softmax(reward / temperature) over the responses of each example, (N, K); 0 where there is none.

    Temperature 0 is the limit: all mass on the best response, shared equally where several are best.
    """
    if temperature == 0:
        level = deviations(scores).masked_fill(~scores.valid, -math.inf)
        best = (level == level.max(-1, keepdim=True).values).to(scores.policy.dtype)
        return best / best.sum(-1, keepdim=True)
    return (scores.reward / temperature).masked_fill(~scores.valid, -math.inf).softmax(-1)


@declare(_soft_target_needs)
def infonca(scores: Scores, beta: Positive, temperature: NotNegative) -> torch.Tensor:
    """InfoNCA, arXiv 2402.05369: -sum_i t_i log softmax(beta r)_i with soft targets t from the rewards.
    Returns (N,).
    """
    log_p = implied_rewards(scores, beta).log_softmax(-1).masked_fill(~scores.valid, 0.0)
    return -(soft_targets(scores, temperature) * log_p).sum(-1)


@declare(_soft_target_needs)
def nca(scores: Scores, beta: Positive, temperature: NotNegative) -> torch.Tensor:
    """NCA, arXiv 2402.05369: -sum_i t_i log sigmoid(beta r_i) - (1/K) sum_i log sigmoid(-beta r_i). Returns
    (N,).
    """
    s = implied_rewards(scores, beta).masked_fill(~scores.valid, 0.0)
    count = scores.valid.sum(-1, keepdim=True)
    terms = soft_targets(scores, temperature) * F.logsigmoid(s) + F.logsigmoid(-s) / count
    return -terms.masked_fill(~scores.valid, 0.0).sum(-1)


@declare(RANKED)  # two responses have equal weights, whatever their rewards
def swepo(
    scores: Scores,
    beta: Positive,
    alpha: float,
    power: Literal[0, 1, 2] = 1,
    weighting: Literal["exp", "power", "signed"] = "exp",
    positives: Literal["above_mean", "best"] = "above_mean",
    standardize: bool = False,
) -> torch.Tensor:
    """Swepo, arXiv 2412.04628: contrast all K scored responses at once, weighted by their deviation from the
    mean. Returns (N,).

    -log(sum over Y+ of w e^(beta r) / sum over Y of w e^(beta r)), Y+ = {dS > 0} or, with positives="best",
    the best response. log w = alpha |dS|^power (exp, eq. 5-14), power log |dS| (power, eq. 15-16), or alpha
    dS^power (signed); no gradient. An example whose rewards are all equal has no Y+ and must have been left
    out: its loss is infinite.
    """
    deviation = deviations(scores, standardize).detach()
    if weighting == "exp":
        log_w = alpha * deviation.abs() ** power
    elif weighting == "signed":
        log_w = alpha * deviation**power
    else:
        log_w = power * deviation.abs().log() if power else torch.zeros_like(deviation)
    z = implied_rewards(scores, beta) + log_w
    if positives == "above_mean":
        positive = deviation > 0
    else:
        level = deviation.masked_fill(~scores.valid, -math.inf)
        positive = F.one_hot(level.argmax(-1), level.shape[-1]).bool()
    return z.logsumexp(-1) - z.masked_fill(~positive, -math.inf).logsumexp(-1)


@declare(RANKED)  # its order is all that a ranking has
def plackett_luce(scores: Scores, beta: Positive) -> torch.Tensor:
    """The Plackett-Luce model of a ranking, arXiv 2305.18290 appendix A.3; as a loss it is ListMLE. Returns
    (N,).

    sum_i [log(e^(s_i) + sum over responses j of lower reward of e^(s_j)) - s_i]: every response in turn is
    chosen among itself and those below it. Responses of equal reward are in no order and do not compete. Two
    responses make it DPO, and at step 0 it is log K! where no rewards are equal.
    """
    s = implied_rewards(scores, beta).masked_fill(~scores.valid, 0.0)
    itself = torch.eye(s.shape[-1], dtype=torch.bool, device=s.device)
    contenders = s[:, None, :].masked_fill(~(better(scores) | itself), -math.inf)  # (N, K, K)
    return (contenders.logsumexp(-1) - s).sum(-1)


def _lipo_needs(keys: Keys) -> Needs:
    """A pair's gains are 1 and 0."""
    return RANKED._replace(pair_reward=1 / keys["reward_scale"])


@declare(_lipo_needs)
def lipo(scores: Scores, beta: Positive, reward_scale: Positive = 1.0) -> torch.Tensor:
    """LiPO-lambda, arXiv 2402.01878: -sum over pairs of S_i > S_j of w_ij log sigmoid(s_i - s_j). Returns
    (N,).

    w_ij = |G_i - G_j| |1 / D_i - 1 / D_j|, without gradient: gains G = 2^(reward_scale S) - 1 and discounts
    D = log(1 + rank), the ranks 1, 2, ... those of the implied rewards. The paper's labels lie in [0, 1], and
    reward_scale brings rewards there. Log-ratios within SAME_RANK nats of one another at step 0 keep the
    order of the columns, so that rounding ranks none. The ranks of two responses are 1 and 2, so it is then
    DPO times a constant of their rewards.
    """
    s = implied_rewards(scores, beta).masked_fill(~scores.valid, 0.0)
    gain = torch.exp2(reward_scale * scores.reward.masked_fill(~scores.valid, 0.0))
    discount = 1 / torch.log1p(_ranks(scores).to(s.dtype))
    weight = _differences(gain).abs() * _differences(discount).abs()
    terms = weight * F.logsigmoid(_differences(s))
    return -terms.masked_fill(~better(scores), 0.0).sum((-2, -1))


def _ranks(scores: Scores) -> torch.Tensor:
    """(N, K) ranks of the responses by log-ratio, from 1 on; those that an example lacks come last."""
    ratio = (scores.policy - scores.reference).detach()
    level = torch.round(ratio / SAME_RANK).masked_fill(~scores.valid, -math.inf)
    order = level.argsort(dim=-1, descending=True, stable=True)
    return order.argsort(dim=-1) + 1


def _differences(values: torch.Tensor) -> torch.Tensor:
    """(N, K) -> (N, K, K): the value of i less that of j."""
    return values[:, :, None] - values[:, None, :]
