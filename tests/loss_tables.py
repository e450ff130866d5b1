"""Tables for losses, and formulas in plain floats."""

import math

import torch

import losses

P = [0.06, 0.0, 0.3, 0.14, 0.5, 0.0]


def make(policy, reference=None, **extra):
    policy = torch.tensor(policy, dtype=torch.float64)
    reference = (
        torch.zeros_like(policy) if reference is None else torch.tensor(reference, dtype=torch.float64)
    )
    given = dict(
        length=torch.ones_like(policy),
        reward=torch.zeros_like(policy),
        valid=torch.ones_like(policy, dtype=torch.bool),
    )
    return losses.Scores(policy=policy, reference=reference, **(given | extra))


def logsigmoid(x):
    return -math.log1p(math.exp(-x)) if x > 0 else x - math.log1p(math.exp(x))


def beliefs(log_q, p, belief_logp=-3.0, tokens=4.0):
    as_row = lambda v: torch.tensor([v], dtype=torch.float64)  # noqa: E731
    return dict(
        class_logps=as_row(log_q),
        class_probs=as_row(p),
        belief_logp=as_row(belief_logp),
        belief_length=as_row(tokens),
    )


def slopes(loss, scores, **keys):
    scores = scores._replace(policy=scores.policy.clone().requires_grad_())
    loss(scores, **keys).sum().backward()
    return (scores.policy.grad[0] / keys["beta"]).tolist()  # dL / d(beta r)
