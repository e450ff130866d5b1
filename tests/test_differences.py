"""Paired differences of checkpoints: intervals, p-values, pairs."""

import itertools
import math

import numpy as np
import pytest

import metrics
from evaluation import differences
from groups import Group


def by_hand(sums):
    """The exact two-sided p of a sign-flip test."""
    totals = [
        sum(s * x for s, x in zip(signs, sums)) for signs in itertools.product((1, -1), repeat=len(sums))
    ]
    return np.mean([abs(total) >= abs(sum(sums)) - 1e-12 for total in totals])


def test_a_difference_is_that_of_the_means_with_the_exact_p_of_all_sign_flips():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=9) + 0.5, rng.normal(size=9)
    found = metrics.summarize_difference(a, b)
    assert found["value"] == pytest.approx(a.mean() - b.mean())
    assert found["p"] == pytest.approx(by_hand(a - b))
    plain = metrics.summarize(a - b)
    assert {key: found[key] for key in plain} == plain


def test_phrasings_of_a_question_change_sides_together():
    rng = np.random.default_rng(1)
    a, b, questions = rng.normal(size=12), rng.normal(size=12), np.repeat(list("wxyz"), 3).tolist()
    weights = rng.integers(1, 4, 12).astype(float)
    found = metrics.summarize_difference(a, b, questions, weights)
    sums = [(weights * (a - b))[i : i + 3].sum() for i in range(0, 12, 3)]
    assert found["p"] == pytest.approx(by_hand(sums))
    assert found["value"] == pytest.approx(np.average(a - b, weights=weights))
    twice = metrics.summarize_difference([*a, *a], [*b, *b], [*questions, *questions])
    once = metrics.summarize_difference(a, b, questions)
    assert {**twice, "n": 12} == pytest.approx(once)  # the same questions asked again tell nothing new


def test_many_questions_are_flipped_at_random_and_agree_with_the_normal_test():
    rng = np.random.default_rng(2)
    gaps = rng.normal(0.12, 1, 300)
    found = metrics.summarize_difference(gaps, np.zeros(300))
    z = abs(gaps.sum()) / np.sqrt((gaps**2).sum())
    from_normal = 2 * (1 - normal_cdf(z))
    assert found["p"] == pytest.approx(from_normal, abs=0.01)
    assert found == metrics.summarize_difference(gaps, np.zeros(300))
    far = metrics.summarize_difference(np.ones(50), np.zeros(50))
    assert far["p"] == 1e-4  # one of 10,000, the observed signs
    assert (far["value"], far["low"], far["high"]) == (1, 1, 1)


def normal_cdf(z):
    return (1 + math.erf(z / math.sqrt(2))) / 2


def test_equal_checkpoints_differ_by_nothing():
    found = metrics.summarize_difference([0.1, 0.2, 0.7], [0.1, 0.2, 0.7])
    assert found == {"value": 0, "low": 0, "high": 0, "p": 1.0, "n": 3}


def test_what_one_side_lacks_is_left_out_and_one_question_says_nothing():
    found = metrics.summarize_difference([1.0, None, 3.0], [0.5, 1.0, None])
    assert found == {"value": 0.5, "low": None, "high": None, "p": None, "n": 1}
    one = metrics.summarize_difference([1.0, 2.0], [0.0, 0.0], clusters="aa")
    assert (one["value"], one["p"], one["n"]) == (1.5, None, 2)
    assert metrics.summarize_difference([None], [1.0])["value"] is None
    with pytest.raises(ValueError, match="as many"):
        metrics.summarize_difference([1.0], [1.0, 2.0])


def test_holm_steps_down_and_never_below_what_came_before():
    assert metrics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert metrics.holm([0.6, None, 0.7]) == [1.0, None, 1.0]
    assert metrics.holm([0.04]) == [0.04]
    assert metrics.holm([]) == []


def test_the_areas_of_two_checkpoints_are_compared_on_the_same_resamples():
    rng = np.random.default_rng(0)
    desirable = rng.random(80) < 0.5
    good, bad = rng.normal(size=80) + 2 * desirable, rng.normal(size=80)
    found = metrics.summarize_contrast_difference(metrics.auc, good, bad, desirable, range(80))
    ones = np.ones(80)
    expected = metrics.auc(good, desirable, ones) - metrics.auc(bad, desirable, ones)
    assert found["value"] == pytest.approx(expected)
    assert 0 < found["low"] < expected < found["high"]
    assert found["p"] < 0.01
    same = metrics.summarize_contrast_difference(metrics.auc, good, 3 * good, desirable, range(80))
    assert same == {"value": 0, "low": 0, "high": 0, "p": 1.0, "n": 80}  # another scale, the same order
    alone = metrics.summarize_contrast_difference(metrics.auc, good, bad, np.ones(80, bool), range(80))
    assert alone["value"] is None


# --- of checkpoints -----------------------------------------------------------------------------------------


def groups_of(n):
    return [Group(str(i), "x", (), question=f"q{i // 2}") for i in range(n)]


def test_all_pairs_of_a_few_checkpoints_are_compared_and_many_with_the_last():
    assert differences.pairs_of(["a", "b", "c"]) == [("b", "a"), ("c", "a"), ("c", "b")]
    assert len(differences.pairs_of("abcdef")) == 15
    assert differences.pairs_of("abcdefg") == [("g", earlier) for earlier in "abcdef"]
    assert differences.pairs_of(["alone"]) == []


def test_differences_are_the_later_minus_the_earlier_one_on_shared_prompts_with_holm_by_metric():
    rng = np.random.default_rng(0)
    values = {name: dict(enumerate(rng.normal(size=8))) for name in "abc"}
    del values["c"][7]
    by_checkpoint = {name: {"m": held} for name, held in values.items()}
    by_checkpoint["a"]["only_here"] = {0: 1.0}
    found = differences.of_means(by_checkpoint, groups_of(8), "beliefs")
    assert [(d.metric, d.kind, d.a, d.b, d.n) for d in found] == [
        ("m", "beliefs", "b", "a", 8),
        ("m", "beliefs", "c", "a", 7),
        ("m", "beliefs", "c", "b", 7),
    ]
    first = found[0]
    gaps = [values["b"][i] - values["a"][i] for i in range(8)]
    assert first.value == pytest.approx(np.mean(gaps))
    assert first.p == pytest.approx(by_hand([gaps[i] + gaps[i + 1] for i in range(0, 8, 2)]))
    assert [d.p_holm for d in found] == metrics.holm([d.p for d in found])


def test_responses_of_other_token_counts_are_not_compared_a_token():
    by_checkpoint = {"a": {"nll": {0: 1.0, 1: 2.0}}, "b": {"nll": {0: 1.5, 1: 4.0}}}
    sizes = {"a": {0: 3, 1: 5}, "b": {0: 3, 1: 6}}
    (found,) = differences.of_means(by_checkpoint, groups_of(2), "target", sizes)
    assert (found.value, found.n) == (0.5, 1)
    other = {"a": {0: 3, 1: 5}, "b": {0: 4, 1: 6}}
    assert differences.of_means(by_checkpoint, groups_of(2), "target", other) == []
