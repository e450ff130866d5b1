"""Scores made by hand, and plain floats to hold losses against."""

import math

import torch

import losses

P = [0.06, 0.0, 0.3, 0.14, 0.5, 0.0]  # a group's distribution over six classes
LOG_Q = [-3.0, -4.0, -1.5, -2.5, -1.0, -6.0]  # a policy's log-probs of them
R, S = [0.7, -2.0, 1.5, 0.2], [7.5, 2.0, 4.0, 6.0]  # log-ratios and rewards of four responses


def make(policy, reference=None, **extra):
    """Scores of (N, K) log-probs in float64; without a reference its log-probs are 0."""
    policy = torch.tensor(policy, dtype=torch.float64)
    if reference is None:
        reference = torch.zeros_like(policy)
    else:
        reference = torch.tensor(reference, dtype=torch.float64)
    columns = {
        "length": torch.ones_like(policy),
        "reward": torch.zeros_like(policy),
        "valid": torch.ones_like(policy, dtype=torch.bool),
    }
    return losses.Scores(policy=policy, reference=reference, **(columns | extra))


def ranked(log_ratios, rewards, valid=None):
    """Scores of responses with rewards."""
    valid = [[True] * len(row) for row in log_ratios] if valid is None else valid
    return make(log_ratios, reward=torch.tensor(rewards, dtype=torch.float64), valid=torch.tensor(valid))


def beliefs(log_q, p, belief_logp=-3.0, tokens=4.0):
    """The columns that calibration and the belief term read, of one example."""
    return {
        "class_logps": as_row(log_q),
        "class_probs": as_row(p),
        "belief_logp": as_row(belief_logp),
        "belief_length": as_row(tokens),
    }


def as_row(value):
    return torch.tensor([value], dtype=torch.float64)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def logsigmoid(x):
    return -math.log1p(math.exp(-x)) if x > 0 else x - math.log1p(math.exp(x))


def softmax(values):
    top = max(values)
    exponentials = [math.exp(v - top) for v in values]
    return [e / sum(exponentials) for e in exponentials]


def kl(p, q):
    """KL(p || q) in nats; 0 log 0 = 0."""
    return sum(a * math.log(a / b) for a, b in zip(p, q) if a)


def slopes(loss, scores, **keys):
    """dL / d(beta r) of the first example's responses."""
    scores = scores._replace(policy=scores.policy.clone().requires_grad_())
    loss(scores, **keys).sum().backward()
    return (scores.policy.grad[0] / keys["beta"]).tolist()
