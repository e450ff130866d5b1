"""Every loss against the paper's equation in plain floats, its gradient, and its value at step 0."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import losses

nats = st.floats(-200, 0)
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
    """Whatever the policy says, `at_reference` gives the loss at log-ratios of 0: log 2, 1/2, (1 / 2 beta)^2, log K."""
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


def ranked(log_ratios, rewards, valid=None):
    valid = [[True] * len(row) for row in log_ratios] if valid is None else valid
    return make(log_ratios, reward=torch.tensor(rewards, dtype=torch.float64), valid=torch.tensor(valid))


def softmax(values):
    top = max(values)
    weights = [math.exp(v - top) for v in values]
    return [w / sum(weights) for w in weights]


def slopes(loss, scores, **keys):
    scores = scores._replace(policy=scores.policy.clone().requires_grad_())
    loss(scores, **keys).sum().backward()
    return (scores.policy.grad[0] / keys["beta"]).tolist()  # dL / d(beta r)


R, S = [0.7, -2.0, 1.5, 0.2], [7.5, 2.0, 4.0, 6.0]


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
    """InfoNCA's stationary point, and that no other is: the slopes p - t vanish just there (up to a shift of all)."""
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
    """dL/ds_i is the weighted softmax over Y minus that over Y+, so Y- goes down, Y+ goes up, and L > 0 vanishes with Y-'s mass."""
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
    """Swepo's theorem 1 is about sampling: E|mean over k acceptable responses - expectation| <= sigma / sqrt(k)."""
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
    """N+ equal positives and N- equal negatives: each positive's beta r has slope -N- w- e^s- / (N+ (N+ w+ e^s+ + N- w- e^s-))."""
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
    """With b_w ~ p*, b_l uniform over the others, DPO's optimum is pi proportional to pi_ref p*^(1/beta): p* to the tenth power."""
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
