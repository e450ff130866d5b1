"""Reference log-probs: cached by content, computed again where the cache is damaged."""

import pytest
from helpers import CPU, PAD, byte_tokenizer, tiny_policy

import models
import preference_datasets as data
import reference
from schedule import Packing

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

    live = fill(trees)
    assert live[0].reference == pytest.approx(models.score_one_by_one(policy, trees[0]), abs=1e-2)
    passes = []
    score = models.score
    monkeypatch.setattr(models, "score", lambda *a: passes.append(1) or score(*a))
    assert fill(trees[::-1]) == live[::-1]  # another order
    single = [tree._replace(answers=tree.answers[:1]) for tree in trees]
    assert [tree.reference for tree in fill(single)] == [tree.reference[:1] for tree in live]  # a smaller k
    some = fill(trees, wanted=[5, 2])
    assert [i for i, tree in enumerate(some) if tree.reference] == [2, 5]
    assert some[5] == live[5]
    assert not passes

    (file,) = (tmp_path / "cache" / "reference").iterdir()
    content = bytearray(file.read_bytes())
    content[-20] ^= 255
    file.write_bytes(content)
    assert fill(trees) == live
    assert passes  # damaged: computed again, and repaired
    passes.clear()
    assert fill(trees) == live
    assert not passes
    file.write_bytes(file.read_bytes()[:100])
    assert fill(trees) == live
    assert passes


def test_a_fingerprint_is_of_the_weights():
    fingerprint = models.fingerprint(tiny_policy())
    assert fingerprint == models.fingerprint(tiny_policy())
    assert fingerprint != models.fingerprint(tiny_policy(seed=1))
