"""Win rates against plain optimisation, and against AlpacaEval 2's figures where they are at hand."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize

import metrics

CHECK = Path(__file__).parent.parent.parent / "shared" / "data" / "lcwr_check.json"


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def fitted(features, preferences, weights):
    """The coefficients of a logistic model of shares, by a general optimiser."""

    def loss(beta):
        logits = features @ beta
        nll = np.logaddexp(0, logits) - preferences * logits
        return (weights * nll).sum(), features.T @ (weights * (sigmoid(logits) - preferences))

    start = np.zeros(features.shape[1])
    return minimize(loss, start, jac=True, method="BFGS", options={"gtol": 1e-10}).x


def answers(n=60, seed=0):
    """Preferences of a judge who likes long answers to easy questions, and lengths."""
    rng = np.random.default_rng(seed)
    lengths, baseline = rng.integers(100, 900, n), rng.integers(100, 900, n)
    difficulty = rng.normal(size=n)
    logits = 0.004 * (lengths - baseline) + difficulty - 0.5
    return sigmoid(logits + rng.normal(size=n)), lengths, baseline, difficulty


def test_a_win_rate_is_the_mean_of_the_verdicts_and_counts_no_others():
    found = metrics.win_rate([1, 0, None, 0.5, 1])
    assert found["value"] == 0.625
    assert found["n"] == 4
    assert found == metrics.summarize([1, 0, 0.5, 1])
    assert metrics.win_rate([None])["value"] is None
    by_question = metrics.win_rate([1, None, 0, 1], clusters="aabb", weights=[2, 1, 1, 1])
    assert by_question == metrics.summarize([1, 0, 1], clusters="abb", weights=[2, 1, 1])
    with pytest.raises(ValueError, match="from 0 to 1"):
        metrics.win_rate([1.5])


@pytest.mark.parametrize("with_difficulty", [True, False])
def test_the_length_controlled_win_rate_is_the_fitted_models_at_equal_length(with_difficulty):
    preferences, lengths, baseline, difficulty = answers()
    gaps = baseline - lengths
    columns = [np.tanh(gaps / gaps.std(ddof=1)), np.ones(60)]
    at_equal_length = [np.zeros(60), np.ones(60)]
    if with_difficulty:
        columns.append(difficulty)
        at_equal_length.append(difficulty)
    beta = fitted(np.stack(columns, 1), preferences, np.ones(60))
    expected = sigmoid(np.stack(at_equal_length, 1) @ beta).mean()
    found = metrics.length_controlled_win_rate(
        preferences, lengths, baseline, difficulty if with_difficulty else None
    )
    assert found["value"] == pytest.approx(expected, abs=1e-6)
    assert found["low"] < found["value"] < found["high"]
    assert found["n"] == 60


def test_gamed_baselines_enter_the_fit_by_their_weight():
    preferences, lengths, baseline, difficulty = answers()
    gamed = metrics.Gamed([2.0, -2.0, 1.0], [0.2, 0.6, 0.4], [0.1, -0.3, 0.5], weight=0.5)
    gaps = baseline - lengths
    own = np.stack([np.tanh(gaps / gaps.std(ddof=1)), np.ones(60), difficulty], 1)
    others = np.stack([np.tanh(gamed.std_length_differences), np.zeros(3), gamed.difficulty], 1)
    beta = fitted(
        np.concatenate([own, others]),
        np.concatenate([preferences, gamed.preferences]),
        np.repeat([1, 0.5], [60, 3]),
    )
    expected = sigmoid(np.stack([np.ones(60), difficulty], 1) @ beta[1:]).mean()
    found = metrics.length_controlled_win_rate(preferences, lengths, baseline, difficulty, gamed)
    assert found["value"] == pytest.approx(expected, abs=1e-6)
    with pytest.raises(ValueError, match="difficulty"):
        metrics.length_controlled_win_rate(preferences, lengths, baseline, None, gamed)


def test_a_prompt_without_a_verdict_is_no_part_of_the_fit():
    preferences, lengths, baseline, difficulty = answers()
    holes = [None, *preferences[1:]]
    found = metrics.length_controlled_win_rate(holes, lengths, baseline, difficulty)
    assert found == metrics.length_controlled_win_rate(
        preferences[1:], lengths[1:], baseline[1:], difficulty[1:]
    )


@pytest.mark.parametrize(
    "preferences,lengths,expected",
    [
        ([1] * 20, range(20), 1),  # no finite fit but for the ridge
        ([0] * 20, range(20), 0),
        ([1] * 10 + [0] * 10, [9] * 10 + [1] * 10, 0.5),  # length tells everything
        ([1, 0, 1, 1] * 5, [5] * 20, 0.75),  # length tells nothing: the plain win rate
    ],
)
def test_fits_without_a_maximum_are_finite(preferences, lengths, expected):
    found = metrics.length_controlled_win_rate(preferences, lengths, [5] * 20)
    assert found["value"] == pytest.approx(expected, abs=1e-5)
    assert 0 <= found["low"] <= found["high"] <= 1


def test_one_question_has_no_interval_and_none_has_no_value():
    one = metrics.length_controlled_win_rate([0.3, 0.5], [9, 8], [5, 5], clusters="aa")
    assert (one["low"], one["high"], one["n"]) == (None, None, 2)
    assert metrics.length_controlled_win_rate([None], [1], [1])["value"] is None


@pytest.mark.skipif(not CHECK.exists(), reason="needs the shared data")
def test_win_rates_are_those_of_alpaca_eval():
    check = json.loads(CHECK.read_text())
    difficulty = check["instruction_difficulty"]
    rows = check["gamed"]["rows"]
    gamed = metrics.Gamed(
        [gap for row in rows for gap in row["std_delta_len"]],
        [preference for row in rows for preference in row["preference"]],
        difficulty * len(rows),
        check["gamed"]["weight_per_row"],
    )
    assert len(check["models"]) == 6
    for model in check["models"].values():
        known = model["recomputed"]
        won = metrics.win_rate(model["preference"])
        assert 100 * won["value"] == pytest.approx(known["win_rate"], abs=1e-6)
        assert won["n"] == model["n"]
        given = (model["preference"], model["output_len"], check["baseline_output_len"])
        for name, more in (("v1", (difficulty, gamed)), ("noreg", (difficulty,)), ("minimal", ())):
            value = 100 * metrics.length_controlled_win_rate(*given, *more, resamples=5)["value"]
            assert value == pytest.approx(known["mle"][name]["length_controlled_winrate"], abs=1e-4)
            if name == "v1":
                assert value == pytest.approx(model["published"]["length_controlled_winrate"], abs=1.0)
