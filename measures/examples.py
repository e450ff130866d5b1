"""What is logged of every loss, in training, validation and evaluation.

Contract: tables of (N, K) log-probs and rewards go in, a column of one value an example comes out, with the
examples that it holds for.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from losses import Scores, reward_deviations

Column = tuple[torch.Tensor, torch.Tensor]  # (N,) values, (N,) bool of the examples they hold for


def example_metrics(
    scores: Scores, loss: torch.Tensor, is_majority: torch.Tensor, beta: float
) -> dict[str, Column]:
    """What is logged for every loss: name -> ((N,) values, (N,) bool of the examples it holds for). {} is the
    split's name.

    `loss` is (N,); `is_majority` (N,) is 1, 0, or -1 for no beliefs. Implied rewards are beta * (policy -
    reference). `rejected` averages over the responses that are not preferred; `set_accuracies` asks for all
    of Y+ above all of Y-, `kendall_tau` compares the order of implied rewards with that of the rewards (ties
    in the rewards left out), and `negative_mass` is the share of softmax(implied rewards) on Y-. Y+ holds the
    responses above the mean reward, or column 0 where there are no rewards. `kl_reference` is the mean of
    reference - policy in nats a response: it estimates KL(reference || policy) where the responses are the
    reference's own, and is a drift elsewhere. `kl_mismatched` is KTO's. `logps_{}/belief` is the accepted
    belief's log-prob, a sum over its tokens.
    """
    policy, valid = scores.policy.detach(), scores.valid
    everyone, first = torch.ones_like(loss, dtype=torch.bool), valid[:, 0]
    columns = {"loss/{}": (loss, everyone), "logps_{}/chosen": (policy[:, 0], first)}
    if scores.kl is not None:
        columns["kl_mismatched_{}"] = (scores.kl.expand_as(loss), everyone)
    known = torch.where(valid, scores.reference, 0.0).isfinite().all(1)
    ratio = (policy - scores.reference).masked_fill(~valid, 0.0)
    columns["kl_reference_{}"] = (-ratio.sum(1) / valid.sum(1).clamp_min(1), known)
    if valid.shape[1] > 1:
        compared = Compared(policy, beta * ratio, scores.reward, valid, known, scores.deviation)
        columns |= _comparisons(compared, is_majority)
    if scores.belief_logp is not None:
        columns["logps_{}/belief"] = (scores.belief_logp.detach(), scores.belief_length > 0)
    if scores.class_logps is not None:
        columns |= _class_metrics(scores.class_logps.detach(), scores.class_probs)
    return columns


def _class_metrics(log_q: torch.Tensor, p: torch.Tensor) -> dict[str, Column]:
    """The model's belief classes, log q over the vocabulary (N, C), against p* (N, C), all 0 where there is
    none.
    """
    held = p.sum(1) > 0
    q = log_q.softmax(1)
    mixture = 0.5 * (p + q)
    divergence = (0.5 * (torch.xlogy(p, p) + torch.xlogy(q, q)) - torch.xlogy(mixture, mixture)).sum(1)
    return {
        "js_distance_{}": (divergence.clamp_min(0).sqrt(), held),
        "class_mass_{}": (log_q.exp().sum(1), held),
        "kl_{}": ((torch.xlogy(p, p) - p * log_q).sum(1), held),
    }


class Compared(NamedTuple):
    """Examples of several responses."""

    policy: torch.Tensor  # (N, K) log-probs
    implied: torch.Tensor  # (N, K) implied rewards
    reward: torch.Tensor  # (N, K)
    valid: torch.Tensor  # (N, K) bool
    known: torch.Tensor  # (N,) bool: all reference log-probs are there
    deviation: torch.Tensor | None  # (N, K) of rewards from their mean, as the data decided


def _comparisons(compared: Compared, is_majority: torch.Tensor) -> dict[str, Column]:
    """The metrics of examples with several responses: implied rewards against the preference."""
    policy, implied, reward, valid, known, deviation = compared
    others = valid[:, 1:]

    def mean_others(table: torch.Tensor) -> torch.Tensor:
        return torch.where(others, table, 0.0).sum(1) / others.sum(1).clamp_min(1)

    some, both = others.any(1), valid[:, 0] & others.any(1)
    chosen, rejected = implied[:, 0], mean_others(implied[:, 1:])
    columns = {"logps_{}/rejected": (mean_others(policy[:, 1:]), some)}
    values = {
        "chosen": (chosen, known & valid[:, 0]),
        "rejected": (rejected, known & some),
        "margins": (chosen - rejected, known & both),
        "accuracies": (mean_others((implied[:, :1] > implied[:, 1:]).float()), known & both),
    }
    for name, (value, mask) in values.items():
        columns[f"rewards_{{}}/{name}"] = (value, mask)
        for label, flag in (("majority", 1), ("minority", 0)):
            columns[f"rewards_{{}}/{name}_{label}"] = (value, mask & (is_majority == flag))
    for name, value in order_metrics(implied, reward, valid, deviation).items():
        columns[f"rewards_{{}}/{name}"] = (value, known & both)
    return columns


def order_metrics(
    implied: torch.Tensor,
    reward: torch.Tensor,
    valid: torch.Tensor,
    deviation: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """set_accuracies, kendall_tau and negative_mass (N,) of implied (N, K) rewards; see `example_metrics`.

    deviation: (N, K) of the rewards from their mean, as the data decided; None: computed from `reward`.
    """
    if deviation is None:
        deviation = reward_deviations(reward, valid)
    level = _reward_levels(deviation)
    positive, negative = valid & (level > 0), valid & (level <= 0)
    worst = torch.where(positive, implied, torch.inf).amin(1)  # of Y+
    best = torch.where(negative, implied, -torch.inf).amax(1)  # of Y-
    above = (level[:, :, None] > level[:, None, :]) & valid[:, :, None] & valid[:, None, :]  # (N, K, K)
    signs = torch.where(above, torch.sign(implied[:, :, None] - implied[:, None, :]), 0.0).sum((1, 2))
    mass = torch.where(valid, implied, -torch.inf).softmax(1)
    return {
        "set_accuracies": (worst > best).to(implied.dtype),
        "kendall_tau": signs / above.sum((1, 2)).clamp_min(1),
        "negative_mass": torch.where(negative, mass, 0.0).sum(1),
    }


def _reward_levels(deviation: torch.Tensor) -> torch.Tensor:
    """Deviations (N, K) as levels: above 0 is Y+. Where all rewards are equal, 1 for column 0, else 0."""
    is_first = torch.arange(deviation.shape[1], device=deviation.device) == 0
    is_equal = (deviation == 0).all(1, keepdim=True)
    return torch.where(is_equal, is_first.to(deviation.dtype), deviation)
