"""Rows that people labelled, and pairs without rewards under losses that take rewards."""

import math
from collections import Counter

import pytest
import torch
from data_helpers import decode, prepared, settings_of, write
from helpers import CPU, PAD, tiny_policy
from hypothesis import given, settings
from hypothesis import strategies as st

import losses
import models
import preference_datasets as data
import schedule
from groups.record import Group, Response
from groups.rows import Drops
from schedule import Packing
from utils import UserError

PACKING = Packing(2048, 256, pad_id=PAD)
LABELS = st.lists(st.booleans(), min_size=1, max_size=5)


def labelled(labels):
    """A group of responses with these labels."""
    return Group(
        "x", "Say", tuple(Response(str(i)) for i in range(len(labels))), labels=tuple(labels), where="here"
    )


@settings(max_examples=40, deadline=None)
@given(LABELS)
def test_every_labelled_response_is_a_side_of_its_own(labels):
    examples = data.view([labelled(labels)], "binary")
    assert [example.columns.index(None) for example in examples] == [1 if label else 0 for label in labels]
    assert [max(c for c in example.columns if c is not None) for example in examples] == list(
        range(len(labels))
    )
    assert {example.rewards for example in examples} == {()}


@settings(max_examples=40, deadline=None)
@given(LABELS)
def test_every_desirable_response_is_a_target_and_none_is_dropped_in_silence(labels):
    dropped = Drops()
    examples = data.view([labelled(labels)], "target", dropped=dropped)
    assert [example.columns for example in examples] == [(i,) for i, label in enumerate(labels) if label]
    assert dropped == ({} if any(labels) else {"without_a_desirable_response": 1})
    assert dropped.first == ({} if any(labels) else {"without_a_desirable_response": "here"})


@pytest.mark.parametrize("view", ["pairs", "ranked", "pairs.all", "pairs.best_vs_worst"])
def test_labels_are_no_pairs(view):
    with pytest.raises(
        UserError, match="here: field responses: .* labels; set responses=binary, and a loss of single"
    ):
        data.view([labelled([True, False])], view)


@pytest.fixture
def unpaired(tmp_path):
    """Rows of one labelled response each, every third of them undesirable."""
    rows = [{"prompt": f"Say {i}", "completion": f"yes {i}", "label": i % 3 > 0} for i in range(18)]
    return f"datasets=[{write(tmp_path / 'unpaired.jsonl', *rows)}]"


def test_a_labelled_file_is_trained_on_by_its_labels(unpaired):
    ours = prepared(unpaired, "eval_fraction=0.3", loss="kto")
    trees = [tree for split in ("train", "eval") for tree in ours.trees[split]]
    assert len(trees) == 18
    for tree in trees:
        is_desirable = int(decode(tree.prompt).split()[-1]) % 3 > 0
        assert [bool(answer) for answer in tree.answers] == [is_desirable, not is_desirable]


def test_a_labelled_file_under_sft_gives_its_desirable_responses(unpaired):
    ours = prepared(unpaired, "eval_fraction=0.3", "responses=target", loss="sft")
    trees = [tree for split in ("train", "eval") for tree in ours.trees[split]]
    assert sorted(int(decode(tree.prompt).split()[-1]) for tree in trees) == [i for i in range(18) if i % 3]
    dropped = Counter()
    for audit in next(iter(ours.audit.values())).values():
        dropped.update(audit["dropped"])
    assert dropped == {"without_a_desirable_response": 6}


# --- pairs without rewards ----------------------------------------------------------------------------------


@pytest.fixture
def pairs(tmp_path):
    rows = [{"prompt": f"Say {i}", "chosen": f"good {i}", "rejected": "bad" * (1 + i % 3)} for i in range(12)]
    return f"datasets=[{write(tmp_path / 'pairs.jsonl', *rows)}]"


def scores_of(*overrides, loss):
    """What the loss sees of all train examples, with another reference than the policy, and its keys."""
    bound, _ = settings_of(*overrides, loss=loss)
    trees = prepared(*overrides, loss=loss).trees["train"]
    trees = [tree._replace(reference=(-20.0 - i, -21.0)) for i, tree in enumerate(trees)]
    work = schedule.packs_of(schedule.Data(trees), range(len(trees)), PACKING, CPU)
    (batch,) = work.packs
    with torch.no_grad():
        return models.score(tiny_policy(), batch), bound.loss.keys


@pytest.mark.parametrize("temperature", [0, 1e-6, 0.1, 1.0, 30.0, 1e6])
@pytest.mark.parametrize("loss", ["infonca", "nca"])
def test_a_pair_without_rewards_has_all_of_its_target_on_the_preferred_one(pairs, loss, temperature):
    given_keys = ["responses=pairs", f"loss.temperature={temperature}"]
    scores, keys = scores_of(pairs, *given_keys, loss=loss)
    targets = losses.soft_targets(scores, temperature)
    assert targets.tolist() == [[1.0, 0.0]] * len(targets)
    values = losses.LOSSES[loss](scores, **keys)
    assert values.isfinite().all()
    if loss == "infonca":
        assert values.tolist() == pytest.approx(losses.dpo(scores, keys["beta"]).tolist(), rel=1e-5)


@pytest.mark.parametrize("weighting", ["exp", "power"])
@pytest.mark.parametrize("positives", ["above_mean", "best"])
def test_swepo_of_a_pair_without_rewards_is_dpo(pairs, weighting, positives):
    given_keys = [
        "responses=pairs",
        f"loss.weighting={weighting}",
        f"loss.positives={positives}",
        "loss.alpha=3",
    ]
    scores, keys = scores_of(pairs, *given_keys, loss="swepo")
    values = losses.swepo(scores, **keys)
    assert values.tolist() == pytest.approx(losses.dpo(scores, keys["beta"]).tolist(), rel=1e-5)


@pytest.mark.parametrize("scale", [0.01, 0.1, 1.0, 7.0])
def test_lipo_of_a_pair_without_rewards_has_gains_of_1_and_0(pairs, scale):
    scores, keys = scores_of(pairs, "responses=pairs", f"loss.reward_scale={scale}", loss="lipo")
    weight = 1 / math.log(2) - 1 / math.log(3)
    expected = [weight * value for value in losses.dpo(scores, keys["beta"]).tolist()]
    assert losses.lipo(scores, **keys).tolist() == pytest.approx(expected, rel=1e-5)


def test_plackett_luce_of_a_pair_without_rewards_is_dpo(pairs):
    scores, keys = scores_of(pairs, "responses=pairs", loss="plackett_luce")
    values = losses.plackett_luce(scores, **keys)
    assert values.tolist() == pytest.approx(losses.dpo(scores, keys["beta"]).tolist(), rel=1e-5)


def test_rewards_that_are_there_stay_as_they_are(tmp_path):
    """Rows with rewards beside a row with a pair alone."""
    scored = [
        {"prompt": f"Say {i}", "responses": [{"text": "a", "reward": 3}, {"text": "b", "reward": 1}]}
        for i in range(5)
    ]
    bare = [
        {"prompt": f"Tell {i}", "responses": [{"text": "a"}, {"text": "b"}], "pairs": [[1, 0]]}
        for i in range(5)
    ]
    file = write(tmp_path / "x.jsonl", *scored, *bare)
    ours = prepared(f"datasets=[{file}]", "responses=pairs", "eval_fraction=0.2", loss="nca")
    for tree in ours.trees["train"]:
        assert tree.rewards == (
            (3.0, 1.0) if decode(tree.prompt).startswith("Say") else (losses.ONE_HOT, 0.0)
        )


@pytest.mark.parametrize("loss", ["dpo", "sft", "kto"])
def test_losses_without_rewards_get_none_made_up(pairs, loss):
    trees = prepared(pairs, "eval_fraction=0.3", loss=loss).trees["train"]
    assert {tree.rewards for tree in trees} == {()}
