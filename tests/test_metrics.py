"""Metrics against their definitions."""

import math

import numpy as np
import pytest
import torch

import losses
import metrics


def test_metrics_split_margins_by_majority():
    scores = losses.Scores(
        policy=torch.tensor([[-1.0, -3.0], [-2.0, -2.5]]),
        reference=torch.zeros(2, 2),
        length=None,
        reward=torch.zeros(2, 2),
        valid=torch.ones(2, 2, dtype=torch.bool),
    )
    found = metrics.example_metrics(scores, torch.zeros(2), torch.tensor([1, 0]), beta=0.1)
    mean = lambda name: (found[name][0][found[name][1]]).mean().item()  # noqa: E731
    assert mean("rewards_{}/margins") == pytest.approx(0.125)
    assert mean("rewards_{}/margins_majority") == pytest.approx(0.2)
    assert mean("rewards_{}/margins_minority") == pytest.approx(0.05)
    assert mean("rewards_{}/accuracies") == 1.0


SLIDE = [0.06, 0.56, 0.24, 0.08, 0.06]


def test_js_distance_is_the_root_of_the_divergence_in_nats():
    p, q = np.array([0.2, 0.8]), np.array([0.5, 0.5])
    m = (p + q) / 2
    divergence = 0.5 * (p * np.log(p / m)).sum() + 0.5 * (q * np.log(q / m)).sum()
    assert metrics.js_distance(p, q) == pytest.approx(math.sqrt(divergence))
    assert metrics.js_distance([1, 0], [0, 1]) == pytest.approx(math.sqrt(math.log(2)))
    assert metrics.js_distance([3, 1], [0.75, 0.25]) == 0.0
    assert metrics.js_distance([[1, 0], [1, 1]], [[1, 0], [1, 1]]).tolist() == [0.0, 0.0]
    for bad in ([-0.1, 1.1], [0.0, 0.0]):
        with pytest.raises(ValueError):
            metrics.js_distance(bad, [0.5, 0.5])


@pytest.mark.parametrize("samples,expected", [(8, 0.27), (16, 0.19)])
def test_the_sampling_floor_is_the_published_one(samples, expected):
    assert metrics.js_distance_floor(SLIDE, samples) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(
    "text,parsed",
    [
        ("4<Somewhat good job>The European one.", ("4", "Somewhat good job", "The European one.")),
        ("4<A>b > c <d>", ("4", "A", "b > c <d>")),
        (" 2 A film to forget.", ("2", None, "A film to forget.")),
        ("Well, 4<x>", (None, None, "Well, 4<x>")),
        ("", (None, None, "")),
        ("3<never closed", ("3", None, "<never closed")),
    ],
)
def test_parsing_a_response(text, parsed):
    assert tuple(metrics.parse_response(text, "012345")) == parsed


@pytest.mark.parametrize(
    "text,labels,options,parsed",
    [
        ("10<Good>x", ("1", "10"), ("Good",), ("10", "Good", "x")),
        ("1<Good>x", ("1", "10"), ("Good",), ("1", "Good", "x")),
        ("10<Good>x", ("0", "1", "2"), ("Good",), (None, None, "10<Good>x")),
        ("100<Good>x", ("1", "10"), ("Good",), (None, None, "100<Good>x")),
        ("40 years ago", "012345", ("Good",), (None, None, "40 years ago")),
        ("4The film", "012345", ("Good",), ("4", None, "The film")),
        ("Apples", ("A", "B"), ("Good",), (None, None, "Apples")),
        ("A<Good>x", ("A", "B"), ("Good",), ("A", "Good", "x")),
        ("410 of 10", "012345", (), ("4", None, "10 of 10")),  # the class alone, then an answer
        ("4<b>bold</b>", "012345", (), ("4", None, "<b>bold</b>")),
        ("4<More (>5)>x > y", "012345", ("More (>5)", "More"), ("4", "More (>5)", "x > y")),
        ("4<More>x", "012345", ("More (>5)", "More"), ("4", "More", "x")),
    ],
)
def test_parsing_a_response_to_a_prompt_whose_options_are_known(text, labels, options, parsed):
    assert tuple(metrics.parse_response(text, labels, options)) == parsed


def test_class_shares_leave_out_what_counts_as_no_class():
    sampled = [metrics.parse_response(t, "AB") for t in ("A<a>b", "A<a>b", "B<c>d", "nothing")]
    assert metrics.class_shares(sampled, "AB", None).tolist() == pytest.approx([2 / 3, 1 / 3])
    assert metrics.class_shares(sampled[3:], "AB", None).tolist() == [0, 0]


def test_class_shares_count_the_unparsable_as_class_0():
    sampled = [metrics.parse_response(t, "012345") for t in ("4<a>b", "4<a>b", "1<c>d", "nothing")]
    assert metrics.class_shares(sampled, "012345", "0").tolist() == [0.25, 0.25, 0, 0, 0.5, 0]


def test_class_belief_consistency():
    known = {"Too little": "4", "Too much": "2"}

    def check(text):
        return metrics.class_belief_consistent(metrics.parse_response(text, "012345"), known)

    assert check("4<Too little>x") is True and check("4<too LITTLE>x") is True
    assert check("2<Too little>x") is False
    assert check("4<Something else>x") is None and check("4 plain") is None


def test_majority_share():
    assert metrics.majority_share(np.array([0.06, 0.56, 0.38]), [0.06, 0.56, 0.38]) == pytest.approx(1.0)
    assert metrics.majority_share(np.array([0.0, 1.0, 0.0]), [0.06, 0.56, 0.38]) == pytest.approx(1 / 0.56)


def test_summaries_carry_n_and_an_interval_that_covers_the_mean():
    values = np.random.default_rng(0).normal(1.0, 0.5, 200)
    found = metrics.summarize(values)
    assert found["n"] == 200 and found["value"] == pytest.approx(values.mean())
    half = 1.96 * 0.5 / math.sqrt(200)
    assert found["high"] - found["low"] == pytest.approx(2 * half, rel=0.2)
    assert metrics.summarize([])["value"] is None


def by_prompts(values, resamples=2000, seed=0):
    """The interval of values that are all independent, as it was first written."""
    drawn = np.random.default_rng(seed).integers(0, len(values), (resamples, len(values)))
    return np.percentile(values[drawn].mean(1), [2.5, 97.5]).tolist()


@pytest.mark.parametrize("count", [1, 2, 7, 8, 39, 200])
def test_an_interval_of_single_values_is_that_of_a_plain_bootstrap_to_the_bit(count):
    values = np.random.default_rng(count).normal(size=count)
    for clusters in (None, range(count), [f"q{i}" for i in range(count)]):
        found = metrics.summarize(values, clusters=clusters)
        assert [found["low"], found["high"]] == by_prompts(values)


def test_values_of_one_question_are_drawn_together():
    rng = np.random.default_rng(0)
    of_questions = rng.normal(size=40)
    values = np.repeat(of_questions, 5)
    clusters = np.repeat(np.arange(40), 5).tolist()
    found = metrics.summarize(values, clusters=clusters)
    alone = metrics.summarize(of_questions)
    assert found["n"] == 200
    assert found["value"] == pytest.approx(alone["value"])
    assert [found["low"], found["high"]] == pytest.approx([alone["low"], alone["high"]])
    plain = metrics.summarize(values)
    assert found["high"] - found["low"] > 1.8 * (plain["high"] - plain["low"])
    shuffled = rng.permutation(200)
    again = metrics.summarize(values[shuffled], clusters=[clusters[i] for i in shuffled])
    assert again["high"] - again["low"] == pytest.approx(found["high"] - found["low"], rel=0.1)


def test_clusters_of_any_size_weigh_as_many_values_as_they_have():
    values, clusters = [1.0, 1.0, 1.0, 0.0], ["a", "a", "a", "b"]
    found = metrics.summarize(values, clusters=clusters)
    assert (found["value"], found["low"], found["high"]) == (0.75, 0.0, 1.0)


def test_one_question_alone_says_nothing_of_the_spread():
    found = metrics.summarize([0.1, 0.5, 0.9], clusters=["q", "q", "q"])
    assert (found["low"], found["high"], found["n"]) == (None, None, 3)
    with pytest.raises(ValueError, match="give one a value"):
        metrics.summarize([0.1, 0.5], clusters=["q"])


def test_a_weight_of_two_is_the_prompt_twice():
    once = metrics.summarize([1.0, 4.0, 2.0], clusters=["a", "b", "c"], weights=[1, 2, 1])
    twice = metrics.summarize([1.0, 4.0, 4.0, 2.0], clusters=["a", "b", "b", "c"])
    assert once == {**twice, "n": 3}
    assert once["value"] == 11 / 4


def test_equal_weights_change_no_bit():
    values = np.random.default_rng(0).normal(size=37)
    assert metrics.summarize(values, weights=[1.0] * 37) == metrics.summarize(values)


def test_what_weighs_nothing_is_left_out_and_weights_must_fit():
    found = metrics.summarize([1.0, 9.0, 3.0], weights=[1, 0, 1])
    assert found == metrics.summarize([1.0, 3.0])
    assert metrics.summarize([1.0], weights=[0])["value"] is None
    for weights in ([1.0], [1.0, -1.0], [1.0, math.nan]):
        with pytest.raises(ValueError, match="weights of 0 or more"):
            metrics.summarize([1.0, 2.0], weights=weights)


def test_the_area_under_the_roc_curve_counts_pairs_and_halves_ties():
    rng = np.random.default_rng(0)
    values, desirable = rng.integers(0, 6, 40).astype(float), rng.random(40) < 0.4
    weights = rng.integers(1, 4, 40).astype(float)
    won, total = 0.0, 0.0
    for i in np.flatnonzero(desirable):
        for j in np.flatnonzero(~desirable):
            pair = weights[i] * weights[j]
            won += pair * (0.5 * (values[i] == values[j]) + (values[i] > values[j]))
            total += pair
    assert metrics.auc(values, desirable, weights) == pytest.approx(won / total)
    assert math.isnan(metrics.auc(values, np.ones(40, bool), weights))


def test_a_contrast_has_an_interval_over_questions():
    rng = np.random.default_rng(0)
    desirable = rng.random(300) < 0.5
    values = rng.normal(size=300) + desirable
    found = metrics.summarize_contrast(metrics.mean_difference, values, desirable, range(300))
    assert found["n"] == 300
    assert found["value"] == pytest.approx(values[desirable].mean() - values[~desirable].mean())
    half = 1.96 * 2 / math.sqrt(300)
    assert found["high"] - found["low"] == pytest.approx(2 * half, rel=0.2)
    once = metrics.summarize_contrast(metrics.auc, [1, 3, 2], [True, True, False], "abc", weights=[2, 1, 1])
    twice = metrics.summarize_contrast(metrics.auc, [1, 1, 3, 2], [True, True, True, False], "aabc")
    assert once == {**twice, "n": 3}
    assert once["value"] == pytest.approx(1 / 3)


def test_a_contrast_of_one_side_or_one_question_has_no_number_or_interval():
    alone = metrics.summarize_contrast(metrics.auc, [1.0, 2.0], [True, True], "ab")
    assert alone == {"value": None, "low": None, "high": None, "n": 2}
    one = metrics.summarize_contrast(metrics.auc, [1.0, 2.0], [False, True], "aa")
    assert one == {"value": 1.0, "low": None, "high": None, "n": 2}


def test_order_metrics_of_ragged_groups():
    import torch
    from scipy.stats import kendalltau

    implied = torch.tensor([[2.0, 1.0, -1.0, 0.5], [0.0, 3.0, 9.0, 9.0], [1.0, 2.0, 9.0, 9.0]])
    reward = torch.tensor([[9.0, 5.0, 1.0, 2.0], [7.0, 2.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    valid = torch.tensor([[True] * 4, [True, True, False, False], [True, True, False, False]])
    found = metrics.order_metrics(implied, reward, valid)
    assert found["set_accuracies"].tolist() == [1.0, 0.0, 0.0]  # without rewards column 0 is Y+
    assert found["kendall_tau"].tolist() == pytest.approx(
        [kendalltau(implied[0], reward[0]).statistic, -1.0, -1.0]
    )
    e = implied[0].exp()
    assert found["negative_mass"].tolist() == pytest.approx(
        [((e[2] + e[3]) / e.sum()).item(), 1 / (1 + np.exp(-3.0)), 1 / (1 + np.exp(-1.0))]
    )
    tied = metrics.order_metrics(
        torch.tensor([[1.0, 3.0, 0.0]]), torch.tensor([[5.0, 5.0, 1.0]]), torch.ones(1, 3, dtype=torch.bool)
    )
    assert (
        tied["kendall_tau"].item() == 1.0 and tied["set_accuracies"].item() == 1.0
    )  # equal rewards ask for no order
