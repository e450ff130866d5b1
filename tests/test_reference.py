"""Reference log-probs: cached by content, computed again where the cache is damaged."""

import pytest
import torch
from helpers import CPU, PAD, byte_tokenizer, tiny_policy

import losses
import models
import preference_datasets as data
import reference
from schedule import Packing
from utils import UserError

PACKING = Packing(2048, 256, pad_id=PAD)


@pytest.fixture
def trees():
    groups = data.load_groups("opinions/republican", "eval")[:3]
    return data.tokenize(groups, data.view(groups, "conditioned"), byte_tokenizer(), data.Limits(512, 256))


def test_reference_log_probs_are_cached_by_content(trees, tmp_path, monkeypatch):
    policy = tiny_policy()
    fingerprint = models.fingerprint(policy)

    def fill(trees, wanted=None):
        return reference.reference_logps(policy, trees, fingerprint, PACKING, CPU, wanted)

    live = list(fill(trees))
    assert live[0].reference == pytest.approx(models.score_one_by_one(policy, trees[0]), abs=1e-2)
    passes = []
    score = models.score
    monkeypatch.setattr(models, "score", lambda *a: passes.append(1) or score(*a))
    assert list(fill(trees[::-1])) == live[::-1]  # another order
    single = [tree._replace(answers=tree.answers[:1]) for tree in trees]
    assert [tree.reference for tree in fill(single)] == [tree.reference[:1] for tree in live]  # a smaller k
    some = fill(trees, wanted=[5, 2])
    assert [i for i, tree in enumerate(some) if tree.reference] == [2, 5]
    assert some[5] == live[5]
    assert not passes

    (folder,) = (tmp_path / "cache" / "reference").iterdir()
    for damaged in (lambda content: content[:-20] + b"?" + content[-19:], lambda content: content[:100]):
        (file,) = folder.iterdir()
        file.write_bytes(damaged(file.read_bytes()))
        assert list(fill(trees)) == live
        assert passes  # damaged: computed again, and repaired
        passes.clear()
        assert list(fill(trees)) == live
        assert not passes


@pytest.mark.parametrize(
    "changed",
    [
        {"rope_parameters": {"rope_type": "default", "rope_theta": 123.0}},
        {"rms_norm_eps": 1e-2},
        {"hidden_act": "relu"},
    ],
)
def test_the_cache_of_another_config_is_not_used(trees, changed):
    """The weights are the same, and the passes are not."""
    first, other = tiny_policy(), tiny_policy(**changed)
    fingerprint = models.fingerprint(first)
    assert models.fingerprint(other) == fingerprint
    for policy in (first, other):
        (filled,) = reference.reference_logps(policy, trees[:1], fingerprint, PACKING, CPU)
        assert filled.reference == pytest.approx(models.score_one_by_one(policy, trees[0]), abs=1e-2)


def test_the_cache_is_named_by_all_that_changes_a_pass(monkeypatch):
    policy = tiny_policy()
    paths = {reference.cache_folder(policy, "f")}
    policy.compute_dtype = torch.bfloat16
    paths.add(reference.cache_folder(policy, "f"))
    policy.attention = "sdpa"
    paths.add(reference.cache_folder(policy, "f"))
    monkeypatch.setattr(reference, "VERSION", 0)
    paths.add(reference.cache_folder(policy, "f"))
    assert len(paths) == 4
    assert reference.cache_folder(tiny_policy(seed=1), "f") == reference.cache_folder(tiny_policy(), "f")


@pytest.mark.parametrize("dtype,off", [(torch.float32, 0.05), (torch.bfloat16, 1.1)])
def test_a_reference_of_other_weights_stops_the_first_step(dtype, off):
    """Off by as many nats over 40 tokens."""
    policy = tiny_policy()
    policy.compute_dtype = dtype
    rows = torch.full((1, 2), -100.0)
    scores = losses.Scores(rows, rows, torch.full((1, 2), 40.0), rows * 0, rows < 0)

    def loss(scores):
        return (scores.policy - scores.reference).sum(1)

    checked = reference.with_step0_check(loss, reference.step0_tolerance(policy))
    checked(scores)
    checked = reference.with_step0_check(loss, reference.step0_tolerance(policy))
    with pytest.raises(UserError, match=f"step 0: .* is off by {off:.2f} nats"):
        checked(scores._replace(policy=rows + off))


def test_a_fingerprint_is_of_the_weights():
    fingerprint = models.fingerprint(tiny_policy())
    assert fingerprint == models.fingerprint(tiny_policy())
    assert fingerprint != models.fingerprint(tiny_policy(seed=1))
