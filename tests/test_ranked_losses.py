"""Losses of K responses with rewards: equations in plain floats, gradients, lemmas, and their values at K =
2.
"""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_helpers import R, S, logsigmoid, ranked, sigmoid, slopes, softmax

import losses

FOUR = ranked([R], [S])
FOUR_AT_STEP_0 = ranked([[0.0] * 4], [S])
PAIR = ranked([[1.5, -0.5]], [[3.0, 1.0]])

# --- InfoNCA and NCA ----------------------------------------------------------------------------------------


def test_infonca_equation_gradient_and_value_at_step_0():
    t, p = softmax([v / 2 for v in S]), softmax([0.3 * r for r in R])
    expected = -sum(a * math.log(b) for a, b in zip(t, p))
    assert losses.infonca(FOUR, 0.3, 2.0).item() == pytest.approx(expected)
    of_loss = slopes(losses.infonca, FOUR, beta=0.3, temperature=2.0)
    assert of_loss == pytest.approx([b - a for a, b in zip(t, p)])
    assert losses.infonca(FOUR_AT_STEP_0, 0.3, 2.0).item() == pytest.approx(math.log(4))


def test_infonca_of_two_is_dpo_and_cdpo():
    dpo = losses.dpo(PAIR, 0.2).item()
    assert losses.infonca(PAIR, 0.2, 1e-3).item() == pytest.approx(dpo)
    assert losses.infonca(PAIR, 0.2, 0).item() == pytest.approx(dpo, rel=1e-12)
    smoothing = 1 / (1 + math.exp((3.0 - 1.0) / 4))
    assert losses.infonca(PAIR, 0.2, 4.0).item() == pytest.approx(losses.dpo(PAIR, 0.2, smoothing).item())


def test_infonca_rests_where_the_softmax_of_implied_rewards_is_the_target():
    """InfoNCA's stationary point, and that no other is: the slopes p - t vanish just there (up to a shift of
    all).
    """
    rest = [math.log(t) / 0.3 + 7.0 for t in softmax(S)]
    at_rest = slopes(losses.infonca, ranked([rest], [S]), beta=0.3, temperature=1.0)
    assert at_rest == pytest.approx([0.0] * 4, abs=1e-12)


def test_nca_equation_gradient_and_stationary_point():
    t, s = softmax(S), [0.3 * r for r in R]
    expected = -sum(a * logsigmoid(b) for a, b in zip(t, s)) - sum(logsigmoid(-b) for b in s) / 4
    assert losses.nca(FOUR, 0.3, 1.0).item() == pytest.approx(expected)
    of_loss = slopes(losses.nca, FOUR, beta=0.3, temperature=1.0)
    assert of_loss == pytest.approx([sigmoid(b) * (a + 0.25) - a for a, b in zip(t, s)])
    rest = [math.log(4 * a) / 0.3 for a in t]
    at_rest = slopes(losses.nca, ranked([rest], [S]), beta=0.3, temperature=1.0)
    assert at_rest == pytest.approx([0.0] * 4, abs=1e-12)


# --- Swepo --------------------------------------------------------------------------------------------------


def log_weights(deviations, weighting, power):
    """The logs of Swepo's weights by hand, with alpha = 0.3."""
    if weighting == "exp":
        return [0.3 * abs(d) ** power for d in deviations]
    if weighting == "power":
        return [power * math.log(abs(d)) for d in deviations]
    return [0.3 * d**power for d in deviations]


@pytest.mark.parametrize("weighting", ["exp", "power", "signed"])
@pytest.mark.parametrize("positives", ["above_mean", "best"])
@pytest.mark.parametrize("power", [0, 1, 2])
@pytest.mark.parametrize("standardize", [False, True])
def test_swepo_equation_gradient_and_value_at_step_0(weighting, positives, power, standardize):
    mean = sum(S) / 4
    scale = math.sqrt(sum((v - mean) ** 2 for v in S) / 4) if standardize else 1.0
    deviations = [(v - mean) / scale for v in S]
    log_w = log_weights(deviations, weighting, power)
    positive = [d > 0 for d in deviations] if positives == "above_mean" else [v == max(S) for v in S]
    keys = {
        "beta": 0.2,
        "alpha": 0.3,
        "power": power,
        "weighting": weighting,
        "positives": positives,
        "standardize": standardize,
    }

    def by_hand(ratios):
        e = [math.exp(0.2 * r + w) for r, w in zip(ratios, log_w)]
        return -math.log(sum(x for x, y in zip(e, positive) if y) / sum(e))

    assert by_hand(R) > 0
    assert losses.swepo(FOUR, **keys).item() == pytest.approx(by_hand(R))
    assert losses.swepo(FOUR_AT_STEP_0, **keys).item() == pytest.approx(by_hand([0.0] * 4))
    z = [0.2 * r + w for r, w in zip(R, log_w)]
    over_all, over_positive = softmax(z), softmax([v if y else -1e9 for v, y in zip(z, positive)])
    of_loss = slopes(losses.swepo, FOUR, **keys)
    assert of_loss == pytest.approx([a - b for a, b in zip(over_all, over_positive)])
    assert sum(of_loss) == pytest.approx(0, abs=1e-12)
    assert [slope < 0 for slope in of_loss] == positive  # up on Y+, down on Y-


@pytest.mark.parametrize("weighting", ["exp", "power"])
@pytest.mark.parametrize("power", [0, 1, 2])
def test_swepo_of_two_is_dpo(weighting, power):
    swepo = losses.swepo(PAIR, 0.2, 0.7, power, weighting).item()
    assert swepo == pytest.approx(losses.dpo(PAIR, 0.2).item())


def test_swepo_unweighted_against_the_best_is_infonca_with_one_hot_targets():
    one_hot = losses.infonca(FOUR, 0.2, 1e-3).item()
    assert losses.swepo(FOUR, 0.2, 0.5, 0, positives="best").item() == pytest.approx(one_hot)
    assert losses.infonca(FOUR, 0.2, 0).item() == pytest.approx(one_hot)


DIFFERENT_REWARDS = st.lists(st.integers(0, 10), min_size=4, max_size=4).filter(lambda v: len(set(v)) > 1)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-20, 20), min_size=4, max_size=4),
    DIFFERENT_REWARDS,
    st.floats(0, 1),
    st.sampled_from([0, 1, 2]),
)
def test_swepo_gradient_lifts_positives_lowers_negatives_and_sums_to_zero(ratios, rewards, alpha, power):
    """dL/ds_i is the weighted softmax over Y minus that over Y+, so Y- goes down, Y+ goes up, and L > 0
    vanishes with Y-'s mass.
    """
    scores = ranked([ratios], [[float(r) for r in rewards]])
    of_loss = slopes(losses.swepo, scores, beta=0.3, alpha=alpha, power=power)
    assert sum(of_loss) == pytest.approx(0, abs=1e-9)
    mean = sum(rewards) / 4
    for slope, reward in zip(of_loss, rewards):
        assert slope <= 1e-12 if reward > mean else slope >= -1e-12
    z = [0.3 * r + alpha * abs(v - mean) ** power for r, v in zip(ratios, rewards)]
    masses = list(zip(softmax(z), rewards))
    kept = sum(mass for mass, reward in masses if reward > mean)
    lost = sum(mass for mass, reward in masses if reward <= mean)
    # 1 - lost has no digits left where lost is close to 1
    expected = -math.log1p(-lost) if lost < 0.5 else -math.log(kept)
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
            misses = np.abs(draws - mean)
            error = misses.std() / math.sqrt(20_000)
            assert misses.mean() <= sigma / math.sqrt(k) + 3 * error
            assert misses.mean() > 0.3 * sigma / math.sqrt(k)  # and the rate is no better than that


def test_lemma_4_the_first_step_of_equal_groups():
    """N+ equal positives and N- equal negatives: each positive's beta r has slope
    -N- w- e^s- / (N+ (N+ w+ e^s+ + N- w- e^s-)).
    """
    rewards, s = [5.0, 5.0, 5.0, 2.0, 2.0], [0.4] * 3 + [-0.3] * 2
    mean = sum(rewards) / 5
    w_plus, w_minus = math.exp(0.3 * (5 - mean)), math.exp(0.3 * (mean - 2))
    plus, minus = 3 * w_plus * math.exp(0.4), 2 * w_minus * math.exp(-0.3)
    of_loss = slopes(losses.swepo, ranked([[v / 0.1 for v in s]], [rewards]), beta=0.1, alpha=0.3)
    assert of_loss[:3] == pytest.approx([-minus / (3 * (plus + minus))] * 3)


# --- Plackett-Luce and LiPO-lambda --------------------------------------------------------------------------


def best_first(values, rewards):
    return [value for _, value in sorted(zip(rewards, values), reverse=True)]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-20, 20), min_size=2, max_size=5), st.floats(0.01, 1), st.randoms())
def test_plackett_luce_is_the_likelihood_of_the_ranking_with_its_gradient(ratios, beta, random):
    rewards = random.sample(range(10), len(ratios))
    scores = ranked([ratios], [[float(v) for v in rewards]])
    s = best_first([beta * r for r in ratios], rewards)
    chances = [softmax(s[k:]) for k in range(len(s))]  # of the responses that are left, best first
    expected = -sum(math.log(of_left[0]) for of_left in chances)
    assert losses.plackett_luce(scores, beta).item() == pytest.approx(expected, rel=1e-9, abs=1e-9)
    of_loss = [sum(chances[k][i - k] for k in range(i + 1)) - 1 for i in range(len(s))]
    ours = slopes(losses.plackett_luce, scores, beta=beta)
    assert best_first(ours, rewards) == pytest.approx(of_loss, abs=1e-9)


def test_plackett_luce_at_step_0_is_the_log_of_all_rankings_and_of_two_it_is_dpo():
    assert losses.plackett_luce(FOUR_AT_STEP_0, 0.1).item() == pytest.approx(math.log(24))
    assert losses.plackett_luce(PAIR, 0.2).item() == pytest.approx(losses.dpo(PAIR, 0.2).item(), rel=1e-12)


def test_plackett_luce_leaves_equal_rewards_without_an_order():
    """Swapping two of equal reward changes nothing, and they do not compete."""
    ratios, rewards = [1.5, 0.3, -0.4, 2.0], [5.0, 3.0, 3.0, 1.0]
    value = losses.plackett_luce(ranked([ratios], [rewards]), 0.5).item()
    swapped = [ratios[0], ratios[2], ratios[1], ratios[3]]
    assert losses.plackett_luce(ranked([swapped], [rewards]), 0.5).item() == pytest.approx(value)
    e = [math.exp(0.5 * r) for r in ratios]
    left = [sum(e), e[1] + e[3], e[2] + e[3], e[3]]
    assert value == pytest.approx(sum(math.log(a / b) for a, b in zip(left, e)))
    assert losses.plackett_luce(ranked([[1.0, -2.0]], [[3.0, 3.0]]), 0.5).item() == 0


def lipo_by_hand(ratios, rewards, beta, scale):
    """(value, slopes) of LiPO-lambda, pair by pair."""
    order = sorted(range(len(ratios)), key=lambda i: -ratios[i])
    discount = {i: 1 / math.log(1 + rank) for rank, i in enumerate(order, 1)}
    value, of_loss = 0.0, [0.0] * len(ratios)
    for i, better in enumerate(rewards):
        for j, worse in enumerate(rewards):
            if better > worse:
                gain = 2 ** (scale * better) - 2 ** (scale * worse)
                weight = gain * abs(discount[i] - discount[j])
                margin = beta * (ratios[i] - ratios[j])
                value += weight * math.log1p(math.exp(-margin))
                of_loss[i] -= weight * sigmoid(-margin)
                of_loss[j] += weight * sigmoid(-margin)
    return value, of_loss


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(-200, 200), min_size=2, max_size=5, unique=True),
    st.floats(0.01, 1),
    st.lists(st.integers(0, 10), min_size=5, max_size=5),
)
def test_lipo_weighs_pairs_by_gain_and_rank_with_its_gradient(tenths, beta, rewards):
    ratios = [value / 10 for value in tenths]
    rewards = [float(v) for v in rewards[: len(ratios)]]
    scores = ranked([ratios], [rewards])
    value, of_loss = lipo_by_hand(ratios, rewards, beta, 0.1)
    assert losses.lipo(scores, beta, 0.1).item() == pytest.approx(value, rel=1e-9, abs=1e-12)
    assert slopes(losses.lipo, scores, beta=beta, reward_scale=0.1) == pytest.approx(of_loss, abs=1e-9)


def test_lipo_of_two_is_dpo_times_a_constant_of_their_rewards():
    constant = (2**0.3 - 2**0.1) * (1 / math.log(2) - 1 / math.log(3))
    for ratios in ([1.5, -0.5], [-4.0, 3.0], [0.0, 0.0]):
        pair = ranked([ratios], [[3.0, 1.0]])
        of_dpo = losses.dpo(pair, 0.2).item()
        assert losses.lipo(pair, 0.2, 0.1).item() == pytest.approx(constant * of_dpo, rel=1e-9)
        times = [constant * slope for slope in slopes(losses.dpo, pair, beta=0.2)]
        assert slopes(losses.lipo, pair, beta=0.2, reward_scale=0.1) == pytest.approx(times, rel=1e-9)


def test_lipo_ranks_no_rounding_at_step_0():
    """Policy and reference are one model up to rounding: the ranks are those of the columns."""
    rewards = sorted(S, reverse=True)
    exact = losses.lipo(ranked([[0.0] * 4], [rewards]), 0.1, 0.1).item()
    for noise in ([1e-4, 2e-4, 3e-4, 4e-4], [-1e-4, 1e-4, -1e-4, 1e-4]):
        assert losses.lipo(ranked([noise], [rewards]), 0.1, 0.1).item() == pytest.approx(exact, rel=1e-3)
