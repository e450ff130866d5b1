"""What all losses share: they stay finite, have a value at step 0, and say which key or value is wrong."""

import itertools
import math

import pytest
import torch
from loss_helpers import P, R, S, beliefs, make, ranked, slopes

import losses

SWEPO = [
    {"beta": 1.0, "alpha": 0.5, "power": power, "weighting": weighting, "positives": positives}
    for power, weighting, positives in itertools.product(
        (0, 1, 2), ("exp", "power", "signed"), ("above_mean", "best")
    )
]
INNER = [
    ("dpo", {}),
    ("kto", {}),
    ("ipo", {}),
    ("swepo", {"alpha": 1.0}),
    ("nca", {"temperature": 1.0}),
]
GDPO = [{"beta": 1.0, "preference": name, "preference_keys": keys} for name, keys in INNER]
EVERY = [
    ("sft", {}),
    ("dpo", {"beta": 1.0}),
    ("dpo", {"beta": 1.0, "label_smoothing": 0.1}),
    ("ipo", {"beta": 1.0}),
    ("kto", {"beta": 1.0}),
    ("slic", {"beta": 1.0, "delta": 1.0, "nll_weight": 0.1}),
    ("slic", {"beta": 1.0, "delta": 1.0, "nll_weight": 0.0, "reference_free": False}),
    ("simpo", {"beta": 2.0, "gamma": 1.0}),
    ("orpo", {"odds_weight": 0.1}),
    ("plackett_luce", {"beta": 1.0}),
    ("lipo", {"beta": 1.0}),
    ("nca", {"beta": 1.0, "temperature": 1.0}),
    ("infonca", {"beta": 1.0, "temperature": 1.0}),
    ("infonca", {"beta": 1.0, "temperature": 0}),
    *(("swepo", keys) for keys in SWEPO),
    *(("gdpo", keys) for keys in GDPO),
]


def of_dtype(scores, dtype):
    """The scores with their floating columns in this dtype."""
    columns = []
    for column in scores:
        is_number = column is not None and column.is_floating_point()
        columns.append(column.to(dtype) if is_number else column)
    return losses.Scores(*columns)


@pytest.mark.parametrize("name,keys", EVERY)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_loss_stays_finite_for_huge_log_ratios(name, keys, dtype):
    losses.bind(name, keys)
    extra = {"reward": torch.tensor([[3.0, 1.0]]), "kl": torch.tensor(1000.0), **beliefs([-1.0] * 6, P)}
    for ratios in ((1000.0, -1000.0), (-1000.0, 1000.0)):
        scores = of_dtype(make([ratios], **extra), dtype)
        scores = scores._replace(policy=scores.policy.requires_grad_())
        values = losses.LOSSES[name](scores, **keys)
        values.sum().backward()
        assert values.dtype == dtype
        assert values.isfinite().all()
        assert scores.policy.grad.isfinite().all()


@pytest.mark.parametrize(
    "name,keys",
    [
        ("infonca", {"temperature": 1.0}),
        ("nca", {"temperature": 1.0}),
        ("swepo", {"alpha": 0.3}),
        ("swepo", {"alpha": 0.3, "positives": "best", "weighting": "power"}),
        ("plackett_luce", {}),
        ("lipo", {"reward_scale": 0.5}),
    ],
)
def test_ragged_k_equals_each_prompt_alone_and_large_ratios_stay_finite(name, keys):
    loss = losses.LOSSES[name]
    rows, rewards = [R, [*R[:2], 99.0, -99.0]], [S, [*S[:2], 1e6, -1e6]]
    padded = ranked(rows, rewards, [[True] * 4, [True, True, False, False]])
    alone = [loss(ranked([R], [S]), 0.3, **keys).item(), loss(ranked([R[:2]], [S[:2]]), 0.3, **keys).item()]
    assert loss(padded, 0.3, **keys).tolist() == pytest.approx(alone)
    of_large = slopes(loss, ranked([[1000.0, -1000.0, 0.0]], [[1.0, 5.0, 3.5]]), beta=1.0, **keys)
    assert all(map(math.isfinite, of_large))
    padded = padded._replace(policy=padded.policy.requires_grad_())
    loss(padded, 0.3, **keys).sum().backward()
    assert padded.policy.grad.isfinite().all()
    assert not padded.policy.grad[1, 2:].any()


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

        def bound(scores, loss=loss, keys=keys):
            return loss(scores, 0.1, **keys)

        assert losses.at_reference(bound, scores).item() == pytest.approx(value)


WRONG = [
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
    ("slic", {"beta": 1.0, "delta": -1.0, "nll_weight": 0}, "delta=-1.0: must be 0 or more"),
    ("orpo", {}, "loss.odds_weight: orpo needs this key"),
    ("orpo", {"beta": 0.1, "odds_weight": 1}, "loss.beta: orpo takes no such key; it takes odds_weight"),
    ("gdpo", {"beta": 0.1, "preference": "sft"}, "loss.preference=sft: choose one of dpo, infonca, ipo,"),
    ("gdpo", {"beta": 0.1, "preference": "orpo"}, "loss.preference=orpo: choose one of"),
    ("gdpo", {"beta": 0.1, "preference": "gdpo"}, "loss.preference=gdpo: choose one of"),
    ("gdpo", {"beta": 0.1, "preference": 3}, "loss.preference=3: must be a name"),
    ("gdpo", {"beta": 0.1, "preference": "simpo"}, "loss.preference_keys.gamma: simpo needs this key"),
    ("gdpo", {"beta": 0.1, "kl_direction": "up"}, "choose one of forward, reverse, js"),
]


@pytest.mark.parametrize("name,keys,message", WRONG)
def test_binding_a_wrong_key_or_value_says_which(name, keys, message):
    with pytest.raises(ValueError, match=message):
        losses.bind(name, keys)
