"""The tiny language: sums over all responses equal sampling, fits go where theory says, and so do pages."""

import copy
import json
import math
import sys

import numpy as np
import pytest
import torch

from experiments import bias, bias_collapse, bias_lengths, bias_numbers, tiny
from experiments.bias_lengths import Arm, Draws, Shape
from experiments.bias_numbers import Interval, verdict
from losses import Scores, swepo
from utils import UserError

SMALL = Shape(prompts=3, longest=3, concentration=1.0, width=16, lr=1e-2, steps=200)


@pytest.fixture(scope="module")
def world():
    return bias_lengths.make_world(SMALL, seed=0, is_apart=False)


@pytest.fixture(scope="module")
def uniform(world):
    return bias_lengths.uniform_policy(world, SMALL, seed=0)


def shares_of(policy, world):
    return np.exp(tiny.log_shares(policy, tiny.whole_space(world.space, world.words))[0])


def fitted(arm, world, uniform, draws):
    """The shares (P, R) that an arm learns from these draws."""
    policy = copy.deepcopy(uniform)
    tiny.fit(policy, *bias_lengths.task_of(arm, world, draws), SMALL.lr, SMALL.steps)
    return shares_of(policy, world)


# --- sums over all responses --------------------------------------------------------------------------------


@torch.no_grad()
def sampled_lengths(policy, world, prompt, count):
    """How often the model writes each length, word by word; what is not of the language is left out."""
    words = world.words
    end, word = words.eos_token_id, words.convert_tokens_to_ids("w")
    generator = torch.Generator().manual_seed(0)
    ids = torch.full((count, 1), words.convert_tokens_to_ids(prompt))
    for _ in range(world.truth.shape[1] + 1):
        chances = policy(ids)[:, -1].softmax(-1)
        ids = torch.cat([ids, torch.multinomial(chances, 1, generator=generator)], 1)
    counts = np.zeros(world.truth.shape[1])
    for row in ids[:, 1:].tolist():
        length = row.index(end) if end in row else 0
        if length and set(row[:length]) == {word}:
            counts[length - 1] += 1
    return counts


def test_the_sum_over_all_responses_equals_sampling(world, uniform):
    policy = copy.deepcopy(uniform)
    task = bias_lengths.task_of(Arm("", "likelihood"), world, bias_lengths.draw(world, 8, seed=1))
    tiny.fit(policy, *task, SMALL.lr, 20)  # on its way: neither uniform nor certain
    shares = shares_of(policy, world)[0]
    counts = sampled_lengths(policy, world, "q0", 4000)
    assert counts.sum() > 1000
    spread = np.sqrt(shares * (1 - shares) / counts.sum())
    assert (np.abs(counts / counts.sum() - shares) < 5 * spread).all()


@torch.no_grad()
def test_the_sum_over_all_responses_equals_the_product_of_next_token_probabilities(world, uniform):
    logs = np.log(shares_of(uniform, world))[1]
    ids = world.words("q1 w w w", return_tensors="pt")["input_ids"]
    steps = uniform(ids)[0].log_softmax(-1)
    word, end = world.words.convert_tokens_to_ids("w"), world.words.eos_token_id
    by_hand = [float(steps[:n, word].sum() + steps[n, end]) for n in (1, 2, 3)]
    assert np.allclose(logs - logs[0], np.array(by_hand) - by_hand[0], atol=1e-4)


# --- theorem 1, and where the losses go ---------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 4, 16])
def test_the_mean_of_k_draws_is_off_by_at_most_sigma_over_the_root_of_k(k):
    many = bias_lengths.make_world(SMALL._replace(prompts=2000, longest=6), seed=0, is_apart=False)
    of_mean, _ = bias_lengths.sampling_bias(many, bias_lengths.draw(many, k, seed=0))
    assert of_mean <= many.sigma / math.sqrt(k)


def test_likelihood_learns_the_draws_own_distribution(world, uniform):
    draws = bias_lengths.draw(world, 8, seed=1)
    learned = fitted(Arm("", "likelihood"), world, uniform, draws)
    assert np.abs(learned - bias_lengths.counted(draws.accepted, 3)).max() < 0.03


def test_sft_as_a_mean_over_tokens_learns_shares_divided_by_length(world, uniform):
    draws = Draws(np.array([[0, 1, 2, 2]] * 3), np.zeros((3, 4), int))
    expected = np.array([1 / 2, 1 / 3, 2 / 4])
    learned = fitted(Arm("", "sft"), world, uniform, draws)
    assert np.abs(learned - expected / expected.sum()).max() < 0.03


def test_dpo_on_all_pairs_learns_the_ratio_of_frequencies(world, uniform):
    draws = Draws(np.array([[0, 0, 1, 2]] * 3), np.array([[0, 1, 2, 2]] * 3))
    learned = fitted(Arm("", "dpo.all"), world, uniform, draws)
    assert np.abs(learned - np.array([2, 1, 0.5]) / 3.5).max() < 0.05


def test_swepo_goes_to_a_point_mass_on_the_largest_ratio(world, uniform):
    draws = Draws(np.array([[0, 0, 1, 2]] * 3), np.array([[0, 1, 2, 2]] * 3))
    learned = fitted(Arm("", "swepo"), world, uniform, draws)
    assert learned[:, 0].min() > 0.8


def test_free_log_ratios_under_swepo_flow_as_said():
    """u(y) = 1 / (1 - n(y) t): of responses drawn n = 1, 2 and 3 times, and one rejected."""
    s = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    columns = torch.tensor([0, 1, 1, 2, 2, 2, 3])
    rewards = torch.tensor([[1.0] * 6 + [0.0]], dtype=torch.float64)
    for _ in range(400):
        table = s[columns][None]
        scores = Scores(
            table,
            torch.zeros_like(table),
            torch.ones_like(table),
            rewards,
            torch.ones_like(table, dtype=bool),
        )
        (gradient,) = torch.autograd.grad(swepo(scores, beta=1.0, alpha=0.0).sum(), s)
        s = (s - 1e-2 * gradient).detach().requires_grad_()
    times = (1 - torch.exp(-s.detach()[:3])) / torch.tensor([1, 2, 3])
    assert times[0] > 0.05
    assert torch.allclose(times, times[:1].expand(3), rtol=0.02)


def test_dpo_trained_to_its_end_is_the_collapse_that_theory_says(monkeypatch):
    monkeypatch.setattr(bias_collapse, "BEGIN_STEPS", 100)
    points = list(bias_collapse.measure(2, 16, 1e-2, 150, [0.5], seed=0))
    dpo, gdpo = points
    assert dpo.to_theory < 0.02 and gdpo.to_group < 0.02
    assert max(abs(a - b) for a, b in dpo.log_odds) < 0.2


def test_the_theory_at_beta_1_from_a_uniform_reference_is_the_group_itself():
    share = np.array([[0.1, 0.2, 0.7]])
    assert np.allclose(np.exp(bias_collapse.theory(np.zeros((1, 3)), share, 1.0)), share)


# --- numbers and pages --------------------------------------------------------------------------------------


def made_up(exponent, noise=0.0):
    rows = []
    for seed in (0, 1, 2):
        for k in (1, 4, 16):
            value = (1 + noise * seed) * k**exponent
            rows.append({"arm": "mean of the draws", "k": k, "seed": seed, "bias": [value]})
    return {"rows": rows}


def test_a_slope_is_read_as_it_was_made():
    found = bias_numbers.slope(made_up(-0.5, noise=0.3), "mean of the draws")
    assert found.value == pytest.approx(-0.5) and found.high - found.low < 1e-6


def test_verdicts_go_by_where_the_interval_lies():
    assert verdict(Interval(-0.5, -0.6, -0.4)) == "as 1 / sqrt(k)"
    assert verdict(Interval(-0.2, -0.3, -0.1)) == "falls, more slowly than 1 / sqrt(k)"
    assert verdict(Interval(0.0, -0.1, 0.1)) == "not told apart from flat"
    assert verdict(Interval(0.3, 0.1, 0.5)) == "rises"
    assert verdict(Interval(-0.9, -1.0, -0.8)) == "faster than 1 / sqrt(k)"
    assert verdict(Interval(-0.5, None, None)) == "one seed says nothing"


def run(monkeypatch, folder, *keys):
    places = [f"{name}={folder}" for name in ("output_dir", "results_dir", "docs_dir")]
    monkeypatch.setattr(sys, "argv", ["bias", *places, *keys])
    bias.main()


def test_the_whole_way_and_the_page_again_from_its_files(tmp_path, monkeypatch):
    keys = ("seeds=[0,1]", "counts=[1,2]", "prompts=2", "longest=2", "steps=2", "width=8")
    keys += ("collapse_seeds=[0]", "betas=[1]", "collapse_prompts=1", "collapse_steps=2")
    monkeypatch.setattr(bias_lengths, "BEGIN_STEPS", 2)
    monkeypatch.setattr(bias_collapse, "BEGIN_STEPS", 2)
    run(monkeypatch, tmp_path, *keys)
    page = (tmp_path / "bias.md").read_text()
    assert "$" not in page and "| Swepo " in page and (tmp_path / "bias-k.png").is_file()
    results = json.loads((tmp_path / "bias.json").read_text())
    assert {row["seed"] for row in results["rows"]} == {0, 1}

    (tmp_path / "bias.md").unlink()
    run(monkeypatch, tmp_path, *keys, "tables=true")
    assert (tmp_path / "bias.md").read_text() == page

    monkeypatch.setattr(bias_lengths, "measure", lambda *a: pytest.fail("a seed that is kept was measured"))
    run(monkeypatch, tmp_path, *keys)  # kept seeds
    with pytest.raises(UserError, match="other settings"):
        run(monkeypatch, tmp_path, *keys, "steps=3")


@pytest.mark.parametrize("keys", [("counts=[4,1]",), ("counts=[4]",), ("betas=[x]",), ("step=3",), ("lr=0",)])
def test_wrong_keys_are_refused(tmp_path, monkeypatch, keys):
    with pytest.raises(UserError):
        run(monkeypatch, tmp_path, *keys)
    assert not list(tmp_path.iterdir())
