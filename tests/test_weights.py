"""Weights of examples: a row of weight 2 equals the row twice, in training and in validation."""

import functools
import json

import pytest
from data_helpers import decode, group_of, prepared, write
from helpers import CPU, PAD, compose, tiny_policy
from omegaconf import OmegaConf
from tree_helpers import random_trees

import losses
import models
import reference
import schedule
import trainers
from runs.meters import Meter
from schedule import Data, Packing
from utils import UserError

ONE_PACK, SEVERAL = Packing(2048, 256, pad_id=PAD), Packing(45, 45, pad_id=PAD)
LOSSES = ("sft", "dpo", "kto", "swepo", "nca", "gdpo")
WEIGHTS = (2.0, 1.0, 3.0, 1.0, 1.0)


@pytest.fixture(autouse=True)
def no_measuring(monkeypatch):
    monkeypatch.setattr(models, "matmul_rate", lambda *a: 1e9)


def pairs_of(has_beliefs):
    """Five examples of two answers with rewards and classes, that share prompts, with their reference."""
    trees = []
    for i, tree in enumerate(random_trees(4, 5)):
        belief = (tree.belief or (7, 8)) if has_beliefs else ()
        answers = (*tree.answers, (9, i, 4))[:2]
        rewards = (1.0 + i, 0.5)
        trees.append(tree._replace(belief=belief, answers=answers, rewards=rewards, is_majority=i % 2 == 0))
    return trees


def with_reference(trees):
    """The trees with the log-probs of another model."""
    other = tiny_policy(seed=7)
    return list(reference.reference_logps(other, trees, models.fingerprint(other), ONE_PACK, CPU))


def mismatched_of(trees):
    """A pair for KTO of every tree."""
    bare = [tree._replace(answers=((i + 1, 2, 3),), rewards=(), reference=()) for i, tree in enumerate(trees)]
    return with_reference(bare)


def weighted_and_repeated(loss):
    """The same data twice: with weights, and with as many copies."""
    trees = with_reference(pairs_of(loss == "gdpo"))
    mismatched = mismatched_of(trees) if loss == "kto" else None
    kinds = [trees] if mismatched is None else [trees, mismatched]
    weighted = [[tree._replace(weight=w) for tree, w in zip(kind, WEIGHTS)] for kind in kinds]
    repeated = [[tree for tree, w in zip(kind, WEIGHTS) for _ in range(int(w))] for kind in kinds]
    return Data(*weighted), Data(*repeated)


def learner_of(loss, packing):
    """A policy and what it learns by."""
    keys = OmegaConf.to_container(compose(f"loss={loss}").loss)
    del keys["name"]
    loss_fn = functools.partial(losses.LOSSES[loss], **keys)
    return trainers.Learner(tiny_policy(), None, loss_fn, keys.get("beta", 1.0), packing, CPU)


def step_of(data, loss, packing):
    """The loss of one step of all examples, its gradients, KTO's log-ratio, and the metrics."""
    learner = learner_of(loss, packing)
    work = schedule.packs_of(data, range(len(data.trees)), packing, CPU)
    assert (len(work.packs) > 1) == (packing is SEVERAL)
    meter = Meter(learner.policy, CPU)
    value = trainers.backward(learner, work, meter)
    gradients = {name: p.grad for name, p in learner.policy.named_parameters() if p.grad is not None}
    kl = trainers.mismatched_log_ratio(learner, work)
    return value.item(), gradients, kl, meter.read("train"), work.weight


def of_data(metrics):
    """The metrics of the examples, without speeds and sizes."""
    return {name: value for name, value in metrics.items() if "train" in name or "eval" in name}


@pytest.mark.parametrize("packing", [ONE_PACK, SEVERAL], ids=["one_pack", "several"])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_row_of_weight_two_is_the_row_twice_in_training(loss, packing):
    weighted, repeated = weighted_and_repeated(loss)
    value, gradients, kl, metrics, weight = step_of(weighted, loss, packing)
    of_copies = step_of(repeated, loss, packing)
    assert weight == of_copies[4] == sum(WEIGHTS)
    assert value == pytest.approx(of_copies[0], rel=1e-5)
    assert gradients.keys() == of_copies[1].keys()
    for name, gradient in gradients.items():
        difference = (gradient - of_copies[1][name]).norm() / of_copies[1][name].norm().clamp_min(1e-6)
        assert difference < 1e-4, name
    assert (kl is None) == (loss != "kto")
    if kl is not None:
        assert kl.item() == pytest.approx(of_copies[2].item(), rel=1e-5)
    assert of_data(metrics) == pytest.approx(of_data(of_copies[3]), rel=1e-4, abs=1e-6)
    assert "loss/train" in metrics


@pytest.mark.parametrize("loss", LOSSES)
def test_weights_change_the_loss(loss):
    """The tests here would not see a weight that nothing reads."""
    weighted, _ = weighted_and_repeated(loss)
    alike = Data(*([tree._replace(weight=1.0) for tree in kind] for kind in weighted if kind))
    one, other = step_of(weighted, loss, ONE_PACK), step_of(alike, loss, ONE_PACK)
    assert abs(one[0] - other[0]) > 1e-4


@pytest.mark.parametrize("loss", LOSSES)
def test_a_row_of_weight_two_is_the_row_twice_in_validation(loss):
    weighted, repeated = weighted_and_repeated(loss)
    for packing in (ONE_PACK, SEVERAL):
        learner = learner_of(loss, packing)
        once = of_data(trainers.validate(learner, weighted, 9))
        twice = of_data(trainers.validate(learner, repeated, 9))
        assert once == pytest.approx(twice, rel=1e-4, abs=1e-6)
        assert "loss/eval" in once


def test_mean_losses_are_weighted_over_batches_of_validation():
    weighted, repeated = weighted_and_repeated("dpo")
    learner = learner_of("dpo", ONE_PACK)
    once, twice = (
        of_data(trainers.validate(learner, data, size)) for data, size in ((weighted, 2), (repeated, 3))
    )
    assert once == pytest.approx(twice, rel=1e-4, abs=1e-6)


# --- in the own format --------------------------------------------------------------------------------------

ROW = {"prompt": "Say", "responses": [{"text": "a", "reward": 1}, {"text": "b", "reward": 0}]}


@pytest.mark.parametrize("weight", [2, 0.5, "3", 1e6, 1e-9])
def test_a_weight_is_a_number_above_zero(weight):
    assert group_of({**ROW, "weight": weight}).weight == float(weight)


def test_a_row_without_a_weight_counts_once():
    for weight in (None, float("nan"), ""):  # as tables write a cell that holds nothing
        assert group_of({**ROW, "weight": weight}).weight == group_of(ROW).weight == 1.0


@pytest.mark.parametrize("weight", [0, -1, "x", "nan", True, [2], {}, 1e7, float("inf"), 10**400])
def test_a_bad_weight_is_refused_with_its_row(tmp_path, weight):
    line = json.dumps({**ROW, "weight": weight})
    file = write(tmp_path / "x.jsonl", {**ROW, "prompt": "Else"}, line)
    with pytest.raises(UserError, match="x.jsonl, row 2: field weight: .*give how many rows") as caught:
        prepared(f"datasets=[{file}]", "eval_fraction=0.5")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("loss", ["dpo", "kto"])
def test_a_weight_reaches_every_example_of_its_row(tmp_path, loss):
    rows = [{**ROW, "prompt": f"Say {i}", "weight": 1 + i} for i in range(9)]
    ours = prepared(f"datasets=[{write(tmp_path / 'x.jsonl', *rows)}]", "eval_fraction=0.3", loss=loss)
    kinds = [ours.trees, ours.mismatched] if loss == "kto" else [ours.trees]
    for trees in kinds:
        of_all = [tree for split in ("train", "eval") for tree in trees[split]]
        assert {tree.weight for tree in of_all} == {float(i) for i in range(1, 10)}
        assert all(tree.weight == 1 + int(decode(tree.prompt)[-1]) for tree in of_all)
