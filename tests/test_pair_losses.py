"""Losses of one response or of two: the papers' equations in plain floats, gradients, values at step 0."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_helpers import logsigmoid, make, sigmoid, slopes

import losses

NATS = st.floats(-200, 0)


def test_sft_is_the_token_mean():
    scores = make([[-12.0]], length=torch.tensor([[4.0]]))
    assert losses.sft(scores).tolist() == [3.0]


@settings(max_examples=100, deadline=None)
@given(NATS, NATS, NATS, NATS, st.floats(0.01, 2), st.floats(0, 0.49))
def test_dpo_is_equation_7_and_cdpo_its_smoothed_form(w, l, ref_w, ref_l, beta, smoothing):  # noqa: E741
    scores = make([[w, l]], [[ref_w, ref_l]])
    h = beta * ((w - ref_w) - (l - ref_l))
    expected = -(1 - smoothing) * logsigmoid(h) - smoothing * logsigmoid(-h)
    assert losses.dpo(scores, beta, smoothing).item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    free = losses.dpo(scores, beta, reference_free=True).item()
    assert free == pytest.approx(-logsigmoid(beta * (w - l)), rel=1e-9, abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(NATS, NATS, st.floats(0.01, 1))
def test_dpo_gradient_is_minus_beta_sigmoid(w, l, beta):  # noqa: E741
    scores = make([[w, l]])
    scores.policy.requires_grad_()
    losses.dpo(scores, beta).sum().backward()
    slope = -beta / (1 + math.exp(min(beta * (w - l), 700)))
    assert scores.policy.grad.tolist()[0] == pytest.approx([slope, -slope], rel=1e-9, abs=1e-300)


def test_dpo_is_log_2_where_policy_and_reference_agree():
    scores = make([[-3.0, -70.0]], [[-3.0, -70.0]])
    assert losses.dpo(scores, 0.1).item() == pytest.approx(math.log(2), abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(NATS, NATS, NATS, st.integers(1, 60), st.floats(0.01, 3))
def test_dpo_with_the_preferred_responses_likelihood_and_its_gradient(won, lost, ref_won, tokens, weight):
    scores = make([[won, lost]], [[ref_won, 0.0]], length=torch.tensor([[float(tokens), 7.0]]))
    scores.policy.requires_grad_()
    loss = losses.dpo(scores, 0.1, nll_weight=weight)
    loss.sum().backward()
    h = 0.1 * ((won - ref_won) - lost)
    assert loss.item() == pytest.approx(-logsigmoid(h) - weight * won / tokens, rel=1e-9, abs=1e-12)
    slope = -0.1 * sigmoid(-h)
    assert scores.policy.grad.tolist()[0] == pytest.approx([slope - weight / tokens, -slope], rel=1e-9)


@pytest.mark.parametrize("smoothing", [0.1, 0.3])
def test_cdpo_is_least_where_beta_h_is_the_log_odds(smoothing):
    best = math.log((1 - smoothing) / smoothing) / 0.1
    below, least, above = (
        losses.dpo(make([[h, 0.0]]), 0.1, smoothing).item() for h in (best - 0.5, best, best + 0.5)
    )
    assert least < below
    assert least < above


def test_the_population_optimum_of_dpo_collapses_to_the_majority():
    """With b_w ~ p*, b_l uniform over the others, DPO's optimum is pi proportional to pi_ref p*^(1/beta): p*
    to the tenth power.
    """
    p = np.array([0.06, 0.56, 0.24, 0.08, 0.06])
    logits = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    pairs = [(w, other) for w in range(5) for other in range(5) if w != other]
    weight = torch.tensor([p[w] / 4 for w, _ in pairs], dtype=torch.float64)
    reference = torch.full((20, 2), math.log(0.2), dtype=torch.float64)
    optimizer = torch.optim.LBFGS([logits], max_iter=500, line_search_fn="strong_wolfe", tolerance_grad=1e-12)

    def closure():
        optimizer.zero_grad()
        policy = logits.log_softmax(0)[torch.tensor(pairs)]
        scores = losses.Scores(policy=policy, reference=reference, length=None, reward=None, valid=None)
        loss = (weight * losses.dpo(scores, beta=0.1)).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    expected = p**10 / (p**10).sum()
    assert logits.softmax(0).tolist() == pytest.approx(expected.tolist(), abs=1e-4)
    assert logits.softmax(0)[1].item() > 0.999


def test_ipo_is_equation_17():
    scores = make([[-10.0, -14.0]], [[-11.0, -12.0]], length=torch.tensor([[4.0, 8.0]]))
    assert losses.ipo(scores, 0.1).item() == pytest.approx((3.0 - 5.0) ** 2)
    of_means = losses.ipo(scores, 0.1, length_normalize=True).item()
    assert of_means == pytest.approx((1 / 4 + 2 / 8 - 5.0) ** 2)


def test_kto_equation_gradient_and_missing_sides():
    kl, w, other = 2.0, 3.0, -1.5
    z0 = torch.tensor(kl)
    liked = 1.5 * (1 - sigmoid(0.2 * (w - kl)))
    avoided = 0.7 * (1 - sigmoid(0.2 * (kl - other)))
    keys = {"beta": 0.2, "desirable_weight": 1.5, "undesirable_weight": 0.7}
    both = make([[w, other]], kl=z0)
    assert losses.kto(both, **keys).item() == pytest.approx((liked + avoided) / 2)
    sides = make([[w, 0.0], [0.0, other]], valid=torch.tensor([[True, False], [False, True]]), kl=z0)
    # the pair is the mean of its sides
    assert losses.kto(sides, **keys).tolist() == pytest.approx([liked, avoided])
    assert losses.kto(make([[w]], kl=z0), **keys).tolist() == pytest.approx([liked])
    below, at_zero = both._replace(kl=torch.tensor(-4.0)), both._replace(kl=torch.tensor(0.0))
    assert losses.kto(below, **keys).item() == losses.kto(at_zero, **keys).item()  # z0 = max(0, kl)
    s = sigmoid(0.2 * (w - kl))
    slope = slopes(losses.kto, sides._replace(kl=sides.kl.requires_grad_()), **keys)[0]
    assert slope == pytest.approx(-1.5 * s * (1 - s))
    assert sides.kl.grad is None


# --- without a reference ------------------------------------------------------------------------------------

TOKENS = st.integers(1, 40)


def with_lengths(w, l, tokens_w, tokens_l):  # noqa: E741
    """Scores of one pair with these log-probs and lengths, whose reference nobody computed."""
    nan = float("nan")
    length = torch.tensor([[tokens_w, tokens_l]], dtype=torch.float64)
    return make([[w, l]], [[nan, nan]], length=length)


def gradient(loss, scores, **keys):
    """dL / d log pi of the first example's responses."""
    scores = scores._replace(policy=scores.policy.clone().requires_grad_())
    loss(scores, **keys).sum().backward()
    return scores.policy.grad[0].tolist()


@settings(max_examples=60, deadline=None)
@given(NATS, NATS, st.floats(0.01, 2), st.floats(0, 5), st.floats(0, 2))
def test_slic_is_a_hinge_on_the_margin_and_the_likelihood_of_the_preferred(
    w,
    l,  # noqa: E741
    beta,
    delta,
    weight,
):
    scores = with_lengths(w, l, 3, 4)
    short = delta - beta * (w - l)  # of the margin
    keys = {"beta": beta, "delta": delta, "nll_weight": weight}
    value = losses.slic(scores, **keys).item()
    assert value == pytest.approx(max(0, short) - weight * w, rel=1e-9, abs=1e-12)
    slope = beta if short > 0 else 0.0
    assert gradient(losses.slic, scores, **keys) == pytest.approx([-slope - weight, slope])


def test_slic_beside_a_reference_is_the_normalised_hinge():
    scores = make([[-10.0, -14.0]], [[-11.0, -12.0]])
    for beta, expected in ((0.1, 1 - 0.1 * 3.0), (0.5, 0.0)):
        value = losses.slic(scores, beta, 1.0, 0.0, reference_free=False).item()
        assert value == pytest.approx(expected)


@settings(max_examples=60, deadline=None)
@given(NATS, NATS, TOKENS, TOKENS, st.floats(0.1, 5), st.floats(0, 3))
def test_simpo_is_equation_6_with_its_gradient(w, l, tokens_w, tokens_l, beta, gamma):  # noqa: E741
    scores = with_lengths(w, l, tokens_w, tokens_l)
    logit = beta * (w / tokens_w - l / tokens_l) - gamma
    value = losses.simpo(scores, beta, gamma).item()
    assert value == pytest.approx(-logsigmoid(logit), rel=1e-9, abs=1e-12)
    slope = -beta / (1 + math.exp(min(logit, 700)))
    expected = [slope / tokens_w, -slope / tokens_l]
    assert gradient(losses.simpo, scores, beta=beta, gamma=gamma) == pytest.approx(
        expected, rel=1e-9, abs=1e-300
    )


@settings(max_examples=60, deadline=None)
@given(st.floats(-200, -0.01), st.floats(-200, -0.01), TOKENS, TOKENS, st.floats(0, 2))
def test_orpo_is_the_likelihood_and_the_odds_ratio_with_its_gradient(
    w,
    l,  # noqa: E741
    tokens_w,
    tokens_l,
    weight,
):
    scores = with_lengths(w, l, tokens_w, tokens_l)
    p_w, p_l = math.exp(w / tokens_w), math.exp(l / tokens_l)
    log_odds_ratio = (w / tokens_w - math.log1p(-p_w)) - (l / tokens_l - math.log1p(-p_l))
    value = losses.orpo(scores, weight).item()
    assert value == pytest.approx(-w / tokens_w - weight * logsigmoid(log_odds_ratio), rel=1e-9)
    slope = -weight / (1 + math.exp(min(log_odds_ratio, 700)))  # d log odds / d log P = 1 / (1 - P)
    expected = [(slope / (1 - p_w) - 1) / tokens_w, -slope / (1 - p_l) / tokens_l]
    assert gradient(losses.orpo, scores, odds_weight=weight) == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_orpo_of_responses_of_which_the_model_is_certain_is_finite():
    for dtype in (torch.float32, torch.float64):
        policy = torch.tensor([[0.0, 0.0], [-1e-30, -3.0]], dtype=dtype, requires_grad=True)
        scores = make([[0.0, 0.0]] * 2)._replace(policy=policy, length=torch.ones(2, 2, dtype=dtype))
        values = losses.orpo(scores, 0.5)
        values.sum().backward()
        assert values.isfinite().all()
        assert policy.grad.isfinite().all()
        assert values[0].item() == pytest.approx(0.5 * math.log(2))
