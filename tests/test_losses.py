"""Losses of pairs and singles against their papers' equations, in plain floats, and their keys."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_tables import P, beliefs, logsigmoid, make, slopes

import losses

nats = st.floats(-200, 0)


def test_sft_is_the_token_mean():
    scores = make([[-12.0]], length=torch.tensor([[4.0]]))
    assert losses.sft(scores).tolist() == [3.0]


@settings(max_examples=100, deadline=None)
@given(nats, nats, nats, nats, st.floats(0.01, 2), st.floats(0, 0.49))
def test_dpo_is_equation_7_and_cdpo_its_smoothed_form(w, l, ref_w, ref_l, beta, smoothing):  # noqa: E741
    h = beta * ((w - ref_w) - (l - ref_l))
    expected = -(1 - smoothing) * logsigmoid(h) - smoothing * logsigmoid(-h)
    assert losses.dpo(make([[w, l]], [[ref_w, ref_l]]), beta, smoothing).item() == pytest.approx(
        expected, rel=1e-9, abs=1e-12
    )
    free = losses.dpo(make([[w, l]], [[ref_w, ref_l]]), beta, reference_free=True).item()
    assert free == pytest.approx(-logsigmoid(beta * (w - l)), rel=1e-9, abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(nats, nats, st.floats(0.01, 1))
def test_dpo_gradient_is_minus_beta_sigmoid(w, l, beta):  # noqa: E741
    scores = make([[w, l]])
    scores.policy.requires_grad_()
    losses.dpo(scores, beta).sum().backward()
    slope = -beta / (1 + math.exp(min(beta * (w - l), 700)))
    assert scores.policy.grad.tolist()[0] == pytest.approx([slope, -slope], rel=1e-9, abs=1e-300)


def test_dpo_is_log_2_where_policy_and_reference_agree():
    assert losses.dpo(make([[-3.0, -70.0]], [[-3.0, -70.0]]), 0.1).item() == pytest.approx(
        math.log(2), abs=1e-12
    )


def test_the_closed_form_at_step_0():
    """Whatever the policy says, `at_reference` gives the loss at log-ratios of 0: log 2, 1/2, (1 / 2 beta)^2,
    log K.
    """
    scores = make([[-3.0, -9.0]], [[-4.0, -70.0]], kl=torch.tensor(5.0))
    for loss, keys, value in (
        (losses.dpo, {}, math.log(2)),
        (losses.kto, {}, 0.5),
        (losses.ipo, {}, 25.0),
        (losses.infonca, {"temperature": 1.0}, math.log(2)),
    ):
        assert losses.at_reference(
            lambda s, loss=loss, keys=keys: loss(s, 0.1, **keys), scores
        ).item() == pytest.approx(value)


@pytest.mark.parametrize("smoothing", [0.1, 0.3])
def test_cdpo_is_least_where_beta_h_is_the_log_odds(smoothing):
    best = math.log((1 - smoothing) / smoothing) / 0.1
    at = [losses.dpo(make([[h, 0.0]]), 0.1, smoothing).item() for h in (best - 0.5, best, best + 0.5)]
    assert at[1] < at[0] and at[1] < at[2]


EVERY = [
    ("sft", {}),
    ("dpo", {"beta": 1.0}),
    ("dpo", {"beta": 1.0, "label_smoothing": 0.1}),
    ("ipo", {"beta": 1.0}),
    ("kto", {"beta": 1.0}),
    ("nca", {"beta": 1.0, "temperature": 1.0}),
    ("infonca", {"beta": 1.0, "temperature": 1.0}),
    ("infonca", {"beta": 1.0, "temperature": 0}),
    *(
        ("swepo", {"beta": 1.0, "alpha": 0.5, "power": p, "weighting": w, "positives": b})
        for p in (0, 1, 2)
        for w in ("exp", "power", "signed")
        for b in ("above_mean", "best")
    ),
    *(
        ("gdpo", {"beta": 1.0, "preference": p, "preference_keys": k})
        for p, k in (
            ("dpo", {}),
            ("kto", {}),
            ("ipo", {}),
            ("swepo", {"alpha": 1.0}),
            ("nca", {"temperature": 1.0}),
        )
    ),
]


@pytest.mark.parametrize("name,keys", EVERY)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_loss_stays_finite_for_huge_log_ratios(name, keys, dtype):
    for ratios in ((1000.0, -1000.0), (-1000.0, 1000.0)):
        scores = make(
            [ratios], reward=torch.tensor([[3.0, 1.0]]), kl=torch.tensor(1000.0), **beliefs([-1.0] * 6, P)
        )
        scores = losses.Scores(
            *(v.to(dtype) if v is not None and v.is_floating_point() else v for v in scores)
        )
        scores = scores._replace(policy=scores.policy.requires_grad_())
        losses.bind(name, keys)
        values = losses.LOSSES[name](scores, **keys)
        values.sum().backward()
        assert values.dtype == dtype and values.isfinite().all() and scores.policy.grad.isfinite().all()


def test_ipo_is_equation_17():
    scores = make([[-10.0, -14.0]], [[-11.0, -12.0]], length=torch.tensor([[4.0, 8.0]]))
    assert losses.ipo(scores, 0.1).item() == pytest.approx((3.0 - 5.0) ** 2)
    assert losses.ipo(scores, 0.1, length_normalize=True).item() == pytest.approx((1 / 4 + 2 / 8 - 5.0) ** 2)


def test_kto_equation_gradient_and_missing_sides():
    kl, w, other = 2.0, 3.0, -1.5
    sigmoid = lambda x: 1 / (1 + math.exp(-x))  # noqa: E731
    liked, avoided = 1.5 * (1 - sigmoid(0.2 * (w - kl))), 0.7 * (1 - sigmoid(0.2 * (kl - other)))
    keys = dict(beta=0.2, desirable_weight=1.5, undesirable_weight=0.7)
    both = make([[w, other]], kl=torch.tensor(kl))
    assert losses.kto(both, **keys).item() == pytest.approx((liked + avoided) / 2)
    sides = make(
        [[w, 0.0], [0.0, other]], valid=torch.tensor([[True, False], [False, True]]), kl=torch.tensor(kl)
    )
    assert losses.kto(sides, **keys).tolist() == pytest.approx(
        [liked, avoided]
    )  # the pair is the mean of its sides
    assert losses.kto(make([[w]], kl=torch.tensor(kl)), **keys).tolist() == pytest.approx([liked])
    below = make([[w, other]], kl=torch.tensor(-4.0))
    assert (
        losses.kto(below, **keys).item() == losses.kto(below._replace(kl=torch.tensor(0.0)), **keys).item()
    )  # z0 = max(0, kl)
    s = sigmoid(0.2 * (w - kl))
    assert slopes(losses.kto, sides._replace(kl=sides.kl.requires_grad_()), **keys)[0] == pytest.approx(
        -1.5 * s * (1 - s)
    )
    assert sides.kl.grad is None


@pytest.mark.parametrize(
    "name,keys,message",
    [
        ("dop", {}, "no such loss"),
        ("dpo", {}, "loss.beta: dpo needs this key"),
        ("dpo", {"beta": 0.1, "betaa": 1}, "loss.betaa: dpo takes no such key"),
        ("dpo", {"beta": 0}, "greater than 0"),
        ("nca", {"beta": 0.1, "temperature": -1}, "0 or more"),
        ("kto", {"beta": 0.1, "desirable_weight": -1.0}, "desirable_weight=-1.0: must be 0 or more"),
        ("gdpo", {"beta": 0.1, "preference": "swepo"}, "loss.preference_keys.alpha: swepo needs this key"),
        (
            "gdpo",
            {"beta": 0.1, "preference_keys": {"gamma": 1}},
            "loss.preference_keys.gamma: dpo takes no such key",
        ),
        ("gdpo", {"beta": 0.1, "preference_keys": {"beta": 1}}, "takes loss.beta; remove the key"),
        ("gdpo", {"beta": 0.1, "preference_keys": 3}, "must be a section of keys"),
        ("swepo", {"beta": 0.1, "alpha": 1, "power": 3}, "choose one of 0, 1, 2"),
        ("dpo", {"beta": "x"}, "finite number"),
        ("dpo", {"beta": 0.1, "label_smoothing": 0.7}, r"in \[0, 0.5\)"),
        ("dpo", {"beta": 0.1, "reference_free": 3}, "true or false"),
        ("gdpo", {"beta": 0.1, "kl_direction": "up"}, "choose one of forward, reverse, js"),
    ],
)
def test_binding_a_wrong_key_or_value_says_which(name, keys, message):
    with pytest.raises(ValueError, match=message):
        losses.bind(name, keys)
