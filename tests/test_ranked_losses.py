"""InfoNCA, NCA and Swepo against their papers' equations, in plain floats."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_tables import logsigmoid, make, slopes

import losses


def ranked(log_ratios, rewards, valid=None):
    valid = [[True] * len(row) for row in log_ratios] if valid is None else valid
    return make(log_ratios, reward=torch.tensor(rewards, dtype=torch.float64), valid=torch.tensor(valid))


def softmax(values):
    top = max(values)
    weights = [math.exp(v - top) for v in values]
    return [w / sum(weights) for w in weights]


R, S = [0.7, -2.0, 1.5, 0.2], [7.5, 2.0, 4.0, 6.0]


def test_infonca_equation_gradient_and_value_at_step_0():
    t, p = softmax([v / 2 for v in S]), softmax([0.3 * r for r in R])
    assert losses.infonca(ranked([R], [S]), 0.3, 2.0).item() == pytest.approx(
        -sum(a * math.log(b) for a, b in zip(t, p))
    )
    assert slopes(losses.infonca, ranked([R], [S]), beta=0.3, temperature=2.0) == pytest.approx(
        [b - a for a, b in zip(t, p)]
    )
    assert losses.infonca(ranked([[0.0] * 4], [S]), 0.3, 2.0).item() == pytest.approx(math.log(4))


def test_infonca_of_two_is_dpo_and_cdpo():
    pair = ranked([[1.5, -0.5]], [[3.0, 1.0]])
    assert losses.infonca(pair, 0.2, 1e-3).item() == pytest.approx(losses.dpo(pair, 0.2).item())
    assert losses.infonca(pair, 0.2, 0).item() == pytest.approx(losses.dpo(pair, 0.2).item(), rel=1e-12)
    smoothing = 1 / (1 + math.exp((3.0 - 1.0) / 4))
    assert losses.infonca(pair, 0.2, 4.0).item() == pytest.approx(losses.dpo(pair, 0.2, smoothing).item())


def test_nca_equation_gradient_and_stationary_point():
    t, s = softmax(S), [0.3 * r for r in R]
    expected = -sum(a * logsigmoid(b) for a, b in zip(t, s)) - sum(logsigmoid(-b) for b in s) / 4
    assert losses.nca(ranked([R], [S]), 0.3, 1.0).item() == pytest.approx(expected)
    sigmoid = [1 / (1 + math.exp(-b)) for b in s]
    found = slopes(losses.nca, ranked([R], [S]), beta=0.3, temperature=1.0)
    assert found == pytest.approx([g * (a + 0.25) - a for a, g in zip(t, sigmoid)])
    rest = [math.log(4 * a) / 0.3 for a in t]
    assert slopes(losses.nca, ranked([rest], [S]), beta=0.3, temperature=1.0) == pytest.approx(
        [0.0] * 4, abs=1e-12
    )


@pytest.mark.parametrize("weighting", ["exp", "power", "signed"])
@pytest.mark.parametrize("positives", ["above_mean", "best"])
@pytest.mark.parametrize("power", [0, 1, 2])
@pytest.mark.parametrize("standardize", [False, True])
def test_swepo_equation_gradient_and_value_at_step_0(weighting, positives, power, standardize):
    mean = sum(S) / 4
    scale = math.sqrt(sum((v - mean) ** 2 for v in S) / 4) if standardize else 1.0
    d = [(v - mean) / scale for v in S]
    log_w = {
        "exp": [0.3 * abs(x) ** power for x in d],
        "power": [power * math.log(abs(x)) for x in d],
        "signed": [0.3 * x**power for x in d],
    }
    positive = [x > 0 for x in d] if positives == "above_mean" else [v == max(S) for v in S]
    keys = dict(
        beta=0.2, alpha=0.3, power=power, weighting=weighting, positives=positives, standardize=standardize
    )

    def by_hand(ratios):
        e = [math.exp(0.2 * r + w) for r, w in zip(ratios, log_w[weighting])]
        return -math.log(sum(x for x, y in zip(e, positive) if y) / sum(e))

    assert losses.swepo(ranked([R], [S]), **keys).item() == pytest.approx(by_hand(R)) and by_hand(R) > 0
    assert losses.swepo(ranked([[0.0] * 4], [S]), **keys).item() == pytest.approx(by_hand([0.0] * 4))
    z = [0.2 * r + w for r, w in zip(R, log_w[weighting])]
    over_all, over_positive = softmax(z), softmax([v if y else -1e9 for v, y in zip(z, positive)])
    found = slopes(losses.swepo, ranked([R], [S]), **keys)
    assert found == pytest.approx([a - b for a, b in zip(over_all, over_positive)]) and sum(
        found
    ) == pytest.approx(0, abs=1e-12)
    assert all((g < 0) == y for g, y in zip(found, positive))  # up on Y+, down on Y-


@pytest.mark.parametrize("weighting", ["exp", "power"])
@pytest.mark.parametrize("power", [0, 1, 2])
def test_swepo_of_two_is_dpo(weighting, power):
    pair = ranked([[1.5, -0.5]], [[3.0, 1.0]])
    assert losses.swepo(pair, 0.2, 0.7, power, weighting).item() == pytest.approx(
        losses.dpo(pair, 0.2).item()
    )


def test_swepo_unweighted_against_the_best_is_infonca_with_one_hot_targets():
    one_hot = losses.infonca(ranked([R], [S]), 0.2, 1e-3).item()
    assert losses.swepo(ranked([R], [S]), 0.2, 0.5, 0, positives="best").item() == pytest.approx(one_hot)
    assert losses.infonca(ranked([R], [S]), 0.2, 0).item() == pytest.approx(one_hot)


def test_infonca_rests_where_the_softmax_of_implied_rewards_is_the_target():
    """InfoNCA's stationary point, and that no other is: the slopes p - t vanish just there (up to a shift of
    all).
    """
    rest = [math.log(t) / 0.3 + 7.0 for t in softmax(S)]
    assert slopes(losses.infonca, ranked([rest], [S]), beta=0.3, temperature=1.0) == pytest.approx(
        [0.0] * 4, abs=1e-12
    )


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-20, 20), min_size=4, max_size=4),
    st.lists(st.integers(0, 10), min_size=4, max_size=4).filter(lambda v: len(set(v)) > 1),
    st.floats(0, 1),
    st.sampled_from([0, 1, 2]),
)
def test_swepo_gradient_lifts_positives_lowers_negatives_and_sums_to_zero(ratios, rewards, alpha, power):
    """dL/ds_i is the weighted softmax over Y minus that over Y+, so Y- goes down, Y+ goes up, and L > 0
    vanishes with Y-'s mass.
    """
    scores = ranked([ratios], [[float(r) for r in rewards]])
    found = slopes(losses.swepo, scores, beta=0.3, alpha=alpha, power=power)
    mean = sum(rewards) / 4
    assert sum(found) == pytest.approx(0, abs=1e-9)
    assert all(g <= 1e-12 if r > mean else g >= -1e-12 for g, r in zip(found, rewards))
    z = [0.3 * r + alpha * abs(v - mean) ** power for r, v in zip(ratios, rewards)]
    lost, kept = (
        sum(w for w, v in zip(softmax(z), rewards) if (v > mean) == positive) for positive in (False, True)
    )
    expected = (
        -math.log1p(-lost) if lost < 0.5 else -math.log(kept)
    )  # 1 - lost has no digits left where lost is close to 1
    assert losses.swepo(scores, 0.3, alpha, power).item() == pytest.approx(expected, rel=1e-5, abs=1e-9)


def test_theorem_1_the_mean_over_k_samples_misses_by_at_most_sigma_over_root_k():
    """Swepo's theorem 1 is about sampling: E|mean over k acceptable responses - expectation| <= sigma /
    sqrt(k).
    """
    rng = np.random.default_rng(0)
    for attribute in (rng.integers(0, 2, 50), rng.exponential(size=50), rng.normal(size=50) ** 3):
        p = rng.dirichlet(np.ones(50))
        mean = p @ attribute
        sigma = math.sqrt(p @ (attribute - mean) ** 2)
        for k in (1, 2, 4, 8, 16):
            draws = rng.choice(attribute, (20_000, k), p=p).mean(1)
            missed, error = np.abs(draws - mean).mean(), np.abs(draws - mean).std() / math.sqrt(20_000)
            assert missed <= sigma / math.sqrt(k) + 3 * error
            assert missed > 0.3 * sigma / math.sqrt(k)  # and the rate is no better than that


def test_lemma_4_the_first_step_of_equal_groups():
    """N+ equal positives and N- equal negatives: each positive's beta r has slope -N- w- e^s- / (N+ (N+ w+
    e^s+ + N- w- e^s-)).
    """
    rewards, s = [5.0, 5.0, 5.0, 2.0, 2.0], [0.4] * 3 + [-0.3] * 2
    mean = sum(rewards) / 5
    w_plus, w_minus = math.exp(0.3 * (5 - mean)), math.exp(0.3 * (mean - 2))
    plus, minus = 3 * w_plus * math.exp(0.4), 2 * w_minus * math.exp(-0.3)
    found = slopes(losses.swepo, ranked([[v / 0.1 for v in s]], [rewards]), beta=0.1, alpha=0.3)
    assert found[:3] == pytest.approx([-minus / (3 * (plus + minus))] * 3)


@pytest.mark.parametrize(
    "name,keys",
    [
        ("infonca", {"temperature": 1.0}),
        ("nca", {"temperature": 1.0}),
        ("swepo", {"alpha": 0.3}),
        ("swepo", {"alpha": 0.3, "positives": "best", "weighting": "power"}),
    ],
)
def test_ragged_k_equals_each_prompt_alone_and_large_ratios_stay_finite(name, keys):
    loss = losses.LOSSES[name]
    padded = ranked(
        [R, [*R[:2], 99.0, -99.0]], [S, [*S[:2], 1e6, -1e6]], [[True] * 4, [True, True, False, False]]
    )
    alone = [loss(ranked([R], [S]), 0.3, **keys).item(), loss(ranked([R[:2]], [S[:2]]), 0.3, **keys).item()]
    assert loss(padded, 0.3, **keys).tolist() == pytest.approx(alone)
    found = slopes(loss, ranked([[1000.0, -1000.0, 0.0]], [[1.0, 5.0, 3.5]]), beta=1.0, **keys)
    assert all(map(math.isfinite, found))
    padded = padded._replace(policy=padded.policy.requires_grad_())
    loss(padded, 0.3, **keys).sum().backward()
    assert padded.policy.grad.isfinite().all() and not padded.policy.grad[1, 2:].any()
