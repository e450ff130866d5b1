"""Losses of one response, and of two: the papers' equations.

Contract: every loss is `name(scores, **keys) -> (N,)`, a pure function of `Scores`, declared beside it.
r = policy - reference is the log-ratio, h = r_w - r_l; column 0 is the preferred response.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from objectives.declared import Needs, NotNegative, Positive, Smoothing, declare
from objectives.scores import Scores, log_ratio_margin, token_means


@declare(Needs(columns="any", reference=False))
def sft(scores: Scores) -> torch.Tensor:
    """Negative log-likelihood of the target, mean over its tokens: -(1/T) log pi(y | x). Returns (N,)."""
    return -scores.policy[:, 0] / scores.length[:, 0]


# --- pairs beside a reference -------------------------------------------------------------------------------


@declare(Needs(columns="pair"))
def dpo(
    scores: Scores, beta: Positive, label_smoothing: Smoothing = 0.0, reference_free: bool = False
) -> torch.Tensor:
    """DPO, arXiv 2305.18290 eq. 7: -log sigmoid(beta h). Returns (N,).

    `label_smoothing` e > 0 is conservative DPO (cDPO): -(1 - e) log sigmoid(beta h) - e log sigmoid(-beta h).
    """
    logits = beta * log_ratio_margin(scores, reference_free)
    return -(1 - label_smoothing) * F.logsigmoid(logits) - label_smoothing * F.logsigmoid(-logits)


@declare(Needs(columns="pair"))
def ipo(scores: Scores, beta: Positive, length_normalize: bool = False) -> torch.Tensor:
    """IPO, arXiv 2310.12036 eq. 17: (h - 1 / (2 beta))^2, h from summed log-probs as in the DPO repository.
    Returns (N,).

    length_normalize takes each response's mean log-ratio a token instead, the reading of TRL and of the
    paper's authors.
    """
    ratio = scores.policy - scores.reference
    if length_normalize:
        ratio = ratio / scores.length
    return (ratio[:, 0] - ratio[:, 1] - 1 / (2 * beta)) ** 2


@declare(Needs(columns="side", mismatched=True))
def kto(
    scores: Scores, beta: Positive, desirable_weight: NotNegative = 1.0, undesirable_weight: NotNegative = 1.0
) -> torch.Tensor:
    """KTO, arXiv 2402.01306: w_d (1 - sigmoid(beta (r - z0))) of a desirable response, w_u (1 - sigmoid(beta
    (z0 - r))) of an undesirable one, averaged over the responses of each example. Returns (N,).

    Column 0 is desirable, all others are not; examples with one response leave the other columns invalid. z0
    = max(0, kl), from the mismatched pairs of the whole step, so either kind may be absent from a pack.
    """
    z0 = scores.kl.detach().clamp_min(0.0)
    ratio = (scores.policy - scores.reference).masked_fill(~scores.valid, 0.0)
    # 1 - sigmoid(x) = sigmoid(-x), without cancellation
    desirable = desirable_weight * torch.sigmoid(beta * (z0 - ratio[:, :1]))
    undesirable = undesirable_weight * torch.sigmoid(beta * (ratio - z0))
    terms = torch.cat([desirable, undesirable[:, 1:]], dim=1)
    return terms.masked_fill(~scores.valid, 0.0).sum(-1) / scores.valid.sum(-1)


# --- pairs without a reference ------------------------------------------------------------------------------


@declare(Needs(columns="pair"))
def slic(
    scores: Scores,
    beta: Positive,
    delta: NotNegative,
    nll_weight: NotNegative,
    reference_free: bool = True,
) -> torch.Tensor:
    """SLiC-HF, arXiv 2305.10425: max(0, delta - beta h) - nll_weight log pi(y_w | x), h = log pi(y_w | x) -
    log pi(y_l | x). Returns (N,).

    The paper has beta = 1, and its regularizer is of a target y_ref: the preferred response here. With
    reference_free=False h is of log-ratios: the normalised hinge of RSO, arXiv 2309.06657, at delta = 1.
    """
    hinge = torch.relu(delta - beta * log_ratio_margin(scores, reference_free))
    return hinge - nll_weight * scores.policy[:, 0]


@declare(Needs(columns="pair", reference=False))
def simpo(scores: Scores, beta: Positive, gamma: NotNegative) -> torch.Tensor:
    """SimPO, arXiv 2405.14734 eq. 6: -log sigmoid(beta (m_w - m_l) - gamma), m = (1/T) log pi(y | x) the mean
    log-prob a token. Returns (N,).

    gamma is the paper's target margin, in units of the reward beta m (its released code has gamma / beta).
    """
    mean = token_means(scores)
    return -F.logsigmoid(beta * (mean[:, 0] - mean[:, 1]) - gamma)


@declare(Needs(columns="pair", reference=False))
def orpo(scores: Scores, odds_weight: NotNegative) -> torch.Tensor:
    """ORPO, arXiv 2403.07691 eq. 6 and 7: -m_w - odds_weight log sigmoid(log odds_w - log odds_l). Returns
    (N,).

    m = (1/T) log pi(y | x); odds = P / (1 - P) of P = exp(m); odds_weight is its
    lambda. A response whose every token is certain counts as short of it by a rounding, so that its odds are
    finite.
    """
    mean = token_means(scores)
    logp = mean.clamp_max(-torch.finfo(mean.dtype).eps)
    log_odds = logp - torch.log(-torch.expm1(logp))
    return -mean[:, 0] - odds_weight * F.logsigmoid(log_odds[:, 0] - log_odds[:, 1])
