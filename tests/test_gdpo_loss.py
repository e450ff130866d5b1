"""GDPO's terms against the paper's equations, in plain floats."""

import math

import numpy as np
import pytest
import torch
from loss_tables import P, beliefs, logsigmoid, make

import losses

LOG_Q = [-3.0, -4.0, -1.5, -2.5, -1.0, -6.0]


def test_forward_calibration_is_kl_over_the_vocabulary():
    expected = sum(p * (math.log(p) - q) for p, q in zip(P, LOG_Q) if p)
    value = losses.calibration(make([[0.0]], **beliefs(LOG_Q, P))).item()
    assert value == pytest.approx(expected, rel=1e-12)
    mass = sum(math.exp(q) for q in LOG_Q)
    over_classes = losses.calibration(make([[0.0]], **beliefs(LOG_Q, P)), kl_support="classes").item()
    assert value == pytest.approx(
        over_classes - math.log(mass), rel=1e-12
    )  # KL over the vocabulary = over the classes - log(class mass)


def test_calibration_vanishes_at_the_group_and_its_gradient_is_q_minus_p():
    p = [0.1, 0.2, 0.7]
    logits = torch.tensor(
        [[0.3, -1.0, 2.0, 0.5]], dtype=torch.float64, requires_grad=True
    )  # three classes and one other token
    scores = make([[0.0]], **beliefs([0.0] * 3, p))._replace(class_logps=logits.log_softmax(-1)[:, :3])
    losses.calibration(scores).sum().backward()
    q = logits.detach().softmax(-1)[0]
    assert logits.grad[0].tolist() == pytest.approx(
        (q - torch.tensor([*p, 0.0], dtype=torch.float64)).tolist(), rel=1e-9
    )
    for direction in ("forward", "reverse", "js"):
        same = make([[0.0]], **beliefs([math.log(v) for v in p], p))
        assert losses.calibration(same, direction).item() == pytest.approx(0.0, abs=1e-12)


def test_reverse_and_js_calibration():
    q, p = [0.5, 0.3, 0.2], [0.2, 0.2, 0.6]
    scores = make([[0.0]], **beliefs([math.log(v) for v in q], p))
    assert losses.calibration(scores, "reverse").item() == pytest.approx(
        sum(a * math.log(a / b) for a, b in zip(q, p))
    )
    m = [(a + b) / 2 for a, b in zip(q, p)]
    missing = make([[0.0]], **beliefs([-1e4] * 3, p))  # q is nowhere on the classes
    assert (
        losses.calibration(missing, "js").item() == pytest.approx(math.log(2))
        and losses.calibration(missing, "reverse").item() == 0
    )
    js = 0.5 * sum(a * math.log(a / c) for a, c in zip(q, m)) + 0.5 * sum(
        a * math.log(a / c) for a, c in zip(p, m)
    )
    assert losses.calibration(scores, "js").item() == pytest.approx(js)
    assert (
        losses.calibration(make([[0.0]], **beliefs(LOG_Q, P)), "reverse").item() == math.inf
    )  # q > 0 where p* = 0


def test_gdpo_is_the_sum_of_its_three_terms():
    scores = make([[-10.0, -14.0]], [[-11.0, -12.0]], **beliefs(LOG_Q, P))
    kl = sum(p * (math.log(p) - q) for p, q in zip(P, LOG_Q) if p)
    preference = -logsigmoid(0.1 * 3.0)
    assert losses.gdpo(scores, 0.1).item() == pytest.approx(kl + 3.0 / 4 + preference)
    terms = kl + 3.0 / 4
    with_kl = scores._replace(kl=torch.tensor(0.4), reward=torch.tensor([[1.0, 0.0]]))
    for name, keys in (
        ("dpo", {"label_smoothing": 0.2}),
        ("ipo", {}),
        ("kto", {}),
        ("swepo", {"alpha": 1.0}),
        ("nca", {"temperature": 1.0}),
    ):
        inner = losses.LOSSES[name](with_kl, 0.1, **keys).item()
        assert losses.gdpo(with_kl, 0.1, preference=name, preference_keys=keys).item() == pytest.approx(
            terms + inner
        )
    assert losses.gdpo(scores, 0.1, belief_reduction="sum").item() == pytest.approx(kl + 3.0 + preference)
    weighted = losses.gdpo(
        scores, 0.1, calibration_weight=2.0, belief_weight=0.5, preference_weight=3.0
    ).item()
    assert weighted == pytest.approx(2 * kl + 0.5 * 3.0 / 4 + 3 * preference)


def test_gdpo_terms_of_weight_zero_are_not_read():
    nan = float("nan")
    calibration_only = make([[nan, nan]], [[nan, nan]], **beliefs(LOG_Q, P))._replace(belief_logp=None)
    assert math.isfinite(
        losses.gdpo(
            calibration_only._replace(policy=torch.zeros(1, 2)), 0.1, preference_weight=0.0, belief_weight=0.0
        ).item()
    )
    preference_only = make([[-1.0, -2.0]])
    assert losses.gdpo(
        preference_only, 0.1, calibration_weight=0.0, belief_weight=0.0
    ).item() == pytest.approx(-logsigmoid(0.1))


def test_the_population_optimum_of_dpo_collapses_to_the_majority():
    """With b_w ~ p*, b_l uniform over the others, DPO's optimum is pi proportional to pi_ref p*^(1/beta): p*
    to the tenth power.
    """
    p = np.array([0.06, 0.56, 0.24, 0.08, 0.06])
    logits = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    pairs = [(w, other) for w in range(5) for other in range(5) if w != other]
    weight = torch.tensor([p[w] / 4 for w, _ in pairs], dtype=torch.float64)
    optimizer = torch.optim.LBFGS([logits], max_iter=500, line_search_fn="strong_wolfe", tolerance_grad=1e-12)

    def closure():
        optimizer.zero_grad()
        logp = logits.log_softmax(0)
        scores = losses.Scores(
            policy=torch.stack([torch.stack([logp[w], logp[other]]) for w, other in pairs]),
            reference=torch.full((20, 2), math.log(0.2), dtype=torch.float64),
            length=None,
            reward=None,
            valid=None,
        )
        loss = (weight * losses.dpo(scores, beta=0.1)).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    expected = p**10 / (p**10).sum()
    assert logits.softmax(0).tolist() == pytest.approx(expected.tolist(), abs=1e-4)
    assert logits.softmax(0)[1].item() > 0.999
