"""Rewards at the mean and equal rewards: decided once, in float64, for data, losses and metrics."""

import itertools
import math
from collections import Counter
from decimal import Decimal

import pytest
import torch
from data_helpers import group_of
from loss_helpers import ranked

import forest
import losses
import metrics
import preference_datasets as data
import trees

TENTHS = [Decimal(tenth) / 10 for tenth in range(1, 11)]
KEYS = {"beta": 0.1, "alpha": 1.0, "power": 0}


def group_with(rewards):
    responses = [{"text": str(i), "reward": float(reward)} for i, reward in enumerate(rewards)]
    return group_of({"prompt": "p", "responses": responses})


def batch_of(*of_prompts):
    """A packed batch of examples with these rewards; the answers' tokens say nothing."""
    members = []
    for number, rewards in enumerate(of_prompts):
        answers = tuple((i + 3, 1) for i in range(len(rewards)))
        members.append(forest.TokenTree((number, 2), (), answers, tuple(map(float, rewards))))
    return forest.pack(members, [[i] for i in range(len(members))], 0)


def scores_of(batch):
    """Scores at step 0: policy and reference are one."""
    nothing = torch.zeros_like(batch.reward)
    return losses.Scores(nothing, nothing, batch.length, batch.reward, batch.valid, deviation=batch.deviation)


def above_mean(rewards):
    """Y+ in exact arithmetic."""
    mean = sum(map(Decimal, rewards)) / len(rewards)
    return [Decimal(reward) > mean for reward in rewards]


def test_every_group_of_one_decimal_rewards_is_parted_as_by_hand():
    groups = [*itertools.product(TENTHS, repeat=3), *itertools.combinations_with_replacement(TENTHS, 4)]
    groups = [rewards for rewards in groups if len(set(rewards)) > 1]
    for rewards in groups:
        assert [d > 0 for d in trees.deviations(list(map(float, rewards)))] == above_mean(rewards), rewards
    batch = batch_of(*groups)
    expected = torch.zeros(len(groups), 4, dtype=torch.bool)
    for i, rewards in enumerate(groups):
        expected[i, : len(rewards)] = torch.tensor(above_mean(rewards))
    scores = scores_of(batch)
    assert torch.equal(losses.deviations(scores) > 0, expected)
    assert torch.equal(losses.deviations(scores._replace(deviation=None)) > 0, expected)
    by_hand = (batch.valid.sum(1) / expected.sum(1)).log()
    assert torch.allclose(losses.swepo(scores, **KEYS), by_hand)
    assert torch.allclose(losses.swepo(scores, **KEYS, standardize=True), by_hand)


def test_the_view_binary_goes_by_the_same_decision():
    for rewards in itertools.product(TENTHS[4:8], repeat=3):
        if len(set(rewards)) > 1:
            examples = data.view([group_with(rewards)], "binary")
            assert [e.columns[0] is not None for e in examples] == above_mean(rewards), rewards


@pytest.mark.parametrize("offset,scale", [(0, 1), (0, 1e-3), (0, 1e6), (1000, 1), (-1e5, 1), (0, -1)])
def test_the_decision_holds_for_shifted_and_scaled_rewards(offset, scale):
    rewards = [offset + scale * reward for reward in (0.7, 0.6, 0.5)]
    best = 0 if scale > 0 else 2
    (deviation,) = losses.deviations(scores_of(batch_of(rewards))).tolist()
    assert [d > 0 for d in deviation] == [i == best for i in range(3)] and deviation[1] == 0
    assert deviation[best] == pytest.approx(0.1 * abs(scale), rel=1e-3)
    plain = ranked([[0.0] * 3], [rewards])
    assert losses.swepo(plain, **KEYS).item() == pytest.approx(math.log(3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_scores_made_by_hand_are_parted_by_the_rounding_of_their_dtype(dtype):
    scores = ranked([[0.0] * 3], [[0.7, 0.6, 0.5]])._replace(
        reward=torch.tensor([[0.7, 0.6, 0.5]], dtype=dtype)
    )
    assert losses.swepo(scores, **KEYS).item() == pytest.approx(math.log(3), rel=1e-3)


def test_single_precision_in_a_file_is_no_preference():
    rewards = torch.tensor([0.7, 0.6, 0.5]).double().tolist()
    assert trees.deviations(rewards)[1] == 0


def test_rewards_that_nothing_tells_apart_never_reach_a_loss():
    for rewards in ([1.0, 1.00000002], [0.3, 0.1 + 0.2], [1e6, 1e6 + 1e-3, 1e6], [0.0, 1e-12]):
        for view in ("ranked", "pairs", "binary", "pairs.all", "pairs.best_vs_random"):
            dropped = Counter()
            assert data.view([group_with(rewards)], view, dropped=dropped) == []
            assert dropped == Counter(equal_rewards=1)


def test_ties_are_ties_in_pairs_and_in_ranked_examples():
    group = group_with([1.00000002, 1.0, 3.0, 3 + 1e-9])
    assert {e.columns for e in data.view([group], "pairs.all")} == {(2, 0), (2, 1), (3, 0), (3, 1)}
    assert len(data.view([group], "pairs.best_vs_rest")) == 2
    (example,) = data.view([group], "ranked")
    assert len(set(example.rewards)) == 2
    scores = scores_of(batch_of(example.rewards))
    assert losses.soft_targets(scores, 0.0).tolist() == [[0.5, 0.5, 0.0, 0.0]]
    assert data.view([group], "target")[0].columns == (2,)
    audit = data.audit_groups([group], [example])
    assert audit["some_equal_rewards"] == 1 and audit["equal_rewards"] == 0


def test_large_rewards_keep_their_differences():
    near, far = [0.3, 0.1, 0.0], [100000.3, 100000.1, 100000.0]
    for loss, keys in (
        (losses.infonca, {"beta": 0.1, "temperature": 0.5}),
        (losses.nca, {"beta": 0.1, "temperature": 0.5}),
        (losses.swepo, {"beta": 0.1, "alpha": 2.0}),
    ):
        scores = scores_of(batch_of(near, far))
        scores = scores._replace(policy=torch.tensor([[0.2, 0.5, -0.1]] * 2))
        one, other = loss(scores, **keys).tolist()
        assert other == pytest.approx(one, rel=1e-4)


def test_plain_rewards_keep_their_bits():
    rewards = [[7.5, 2.0, 4.0, 6.0], [0.31, 9.2, 3.3]]
    batch = batch_of(*rewards)
    assert batch.reward.tolist()[0] == rewards[0]
    count = batch.valid.sum(-1, keepdim=True)
    plain = batch.reward - batch.reward.sum(-1, keepdim=True) / count
    assert torch.equal(batch.deviation, plain.masked_fill(~batch.valid, 0.0))
    assert forest.pack([forest.TokenTree((1,), (), ((2,), (3,)))], [[0]], 0).deviation is None


def test_one_side_of_a_preference_has_no_mean():
    tree = forest.TokenTree((1,), (), ((2,), ()), (7.5, 0.0))
    batch = forest.pack([tree], [[0]], 0)
    assert batch.deviation.tolist() == [[0.0, 0.0]] and batch.reward.tolist() == [[7.5, 0.0]]


def test_metrics_and_losses_have_one_set_of_the_better():
    batch = batch_of([0.7, 0.6, 0.5])
    implied = torch.tensor([[1.0, 0.0, -1.0]])
    mass = implied.softmax(1)[0, 1:].sum().item()
    for deviation in (batch.deviation, None):
        found = metrics.order_metrics(implied, batch.reward, batch.valid, deviation)
        assert found["negative_mass"].item() == pytest.approx(mass)
        assert found["set_accuracies"].item() == found["kendall_tau"].item() == 1.0
    found = metrics.example_metrics(scores_of(batch), torch.zeros(1), torch.tensor([-1]), 0.1)
    assert found["rewards_{}/negative_mass"][0].item() == pytest.approx(2 / 3)
