"""GDPO: calibration to a group's distribution, beliefs, and a preference loss, each by its equation."""

import math

import pytest
import torch
from loss_helpers import LOG_Q, P, beliefs, kl, logsigmoid, make

import losses

KL_OVER_VOCABULARY = sum(p * (math.log(p) - q) for p, q in zip(P, LOG_Q) if p)


def one_belief(log_q, p):
    """Scores of one example whose class log-probs and target distribution are these."""
    return make([[0.0]], **beliefs(log_q, p))


def test_forward_calibration_is_kl_over_the_vocabulary():
    value = losses.calibration(one_belief(LOG_Q, P)).item()
    assert value == pytest.approx(KL_OVER_VOCABULARY, rel=1e-12)
    mass = sum(math.exp(q) for q in LOG_Q)
    over_classes = losses.calibration(one_belief(LOG_Q, P), kl_support="classes").item()
    # KL over the vocabulary = over the classes - log(class mass)
    assert value == pytest.approx(over_classes - math.log(mass), rel=1e-12)


def test_calibration_vanishes_at_the_group_and_its_gradient_is_q_minus_p():
    p = [0.1, 0.2, 0.7]
    values = [[0.3, -1.0, 2.0, 0.5]]  # of three classes and one other token
    logits = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    scores = one_belief([0.0] * 3, p)._replace(class_logps=logits.log_softmax(-1)[:, :3])
    losses.calibration(scores).sum().backward()
    q = logits.detach().softmax(-1)[0]
    expected = q - torch.tensor([*p, 0.0], dtype=torch.float64)
    assert logits.grad[0].tolist() == pytest.approx(expected.tolist(), rel=1e-9)
    for direction in ("forward", "reverse", "js"):
        same = one_belief([math.log(v) for v in p], p)
        assert losses.calibration(same, direction).item() == pytest.approx(0.0, abs=1e-12)


def test_reverse_and_js_calibration():
    q, p = [0.5, 0.3, 0.2], [0.2, 0.2, 0.6]
    scores = one_belief([math.log(v) for v in q], p)
    assert losses.calibration(scores, "reverse").item() == pytest.approx(kl(q, p))
    middle = [(a + b) / 2 for a, b in zip(q, p)]
    js = 0.5 * kl(q, middle) + 0.5 * kl(p, middle)
    assert losses.calibration(scores, "js").item() == pytest.approx(js)
    missing = one_belief([-1e4] * 3, p)  # q is nowhere on the classes
    assert losses.calibration(missing, "js").item() == pytest.approx(math.log(2))
    assert losses.calibration(missing, "reverse").item() == 0
    # q > 0 where p* = 0
    assert losses.calibration(one_belief(LOG_Q, P), "reverse").item() == math.inf


def test_gdpo_is_the_sum_of_its_three_terms():
    scores = make([[-10.0, -14.0]], [[-11.0, -12.0]], **beliefs(LOG_Q, P))
    calibration, preference = KL_OVER_VOCABULARY, -logsigmoid(0.1 * 3.0)
    terms = calibration + 3.0 / 4
    assert losses.gdpo(scores, 0.1).item() == pytest.approx(terms + preference)
    with_kl = scores._replace(kl=torch.tensor(0.4), reward=torch.tensor([[1.0, 0.0]]))
    for name, keys in (
        ("dpo", {"label_smoothing": 0.2}),
        ("ipo", {}),
        ("kto", {}),
        ("swepo", {"alpha": 1.0}),
        ("nca", {"temperature": 1.0}),
    ):
        inner = losses.LOSSES[name](with_kl, 0.1, **keys).item()
        whole = losses.gdpo(with_kl, 0.1, preference=name, preference_keys=keys).item()
        assert whole == pytest.approx(terms + inner)
    summed = losses.gdpo(scores, 0.1, belief_reduction="sum").item()
    assert summed == pytest.approx(calibration + 3.0 + preference)
    factors = {"calibration_weight": 2.0, "belief_weight": 0.5, "preference_weight": 3.0}
    weighted = losses.gdpo(scores, 0.1, **factors).item()
    assert weighted == pytest.approx(2 * calibration + 0.5 * 3.0 / 4 + 3 * preference)


@pytest.mark.parametrize("preference", ["dpo", "kto", "ipo"])
def test_gdpo_with_the_accepted_answers_likelihood_and_its_gradient(preference):
    scores = make([[-12.0, -30.0]], [[-10.0, -20.0]], **beliefs(LOG_Q, P), length=torch.tensor([[6.0, 9.0]]))
    scores = scores._replace(kl=torch.tensor(0.4))
    scores.policy.requires_grad_()

    def slope(weight):
        value = losses.gdpo(scores, 0.1, preference=preference, answer_weight=weight)
        (gradient,) = torch.autograd.grad(value.sum(), scores.policy)
        return value.item(), gradient[0]

    (plain, without), (whole, gradient) = slope(0.0), slope(0.6)
    assert whole == pytest.approx(plain + 0.6 * 12 / 6)
    assert (gradient - without).tolist() == pytest.approx([-0.6 / 6, 0.0])


def test_gdpo_terms_of_weight_zero_are_not_read():
    nan = float("nan")
    unread = make([[nan, nan]], [[nan, nan]], **beliefs(LOG_Q, P))._replace(belief_logp=None)
    calibration_only = unread._replace(policy=torch.zeros(1, 2))
    value = losses.gdpo(calibration_only, 0.1, preference_weight=0.0, belief_weight=0.0).item()
    assert math.isfinite(value)
    preference_only = make([[-1.0, -2.0]])
    value = losses.gdpo(preference_only, 0.1, calibration_weight=0.0, belief_weight=0.0).item()
    assert value == pytest.approx(-logsigmoid(0.1))
