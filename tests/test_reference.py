"""Reference log-probs: cached by content, damaged files computed again."""

import pytest
from helpers import CPU, byte_tokenizer, tiny_policy

import models
import preference_datasets as data
import reference
import schedule


def test_reference_log_probs_are_cached_by_content(tmp_path, monkeypatch):
    groups = data.load_groups("opinions/republican", "eval")[:3]
    trees = data.tokenize(groups, data.view(groups, "conditioned"), byte_tokenizer(), data.Limits(512, 256))
    policy = tiny_policy()
    mark = models.fingerprint(policy)
    packing = schedule.Packing(2048, 256, pad_id=258)

    def fill(trees):
        return reference.reference_logps(policy, trees, mark, packing, CPU)

    live = fill(trees)
    assert live[0].reference == pytest.approx(models.score_one_by_one(policy, trees[0]), abs=1e-2)
    calls = []
    score = models.score
    monkeypatch.setattr(models, "score", lambda *a: calls.append(1) or score(*a))
    assert fill(trees[::-1]) == live[::-1] and not calls  # another order, no forward
    single = [t._replace(answers=t.answers[:1]) for t in trees]
    assert [t.reference for t in fill(single)] == [t.reference[:1] for t in live] and not calls  # a smaller k
    some = reference.reference_logps(policy, trees, mark, packing, CPU, wanted=[5, 2])
    assert [i for i, t in enumerate(some) if t.reference] == [2, 5] and some[5] == live[5]
    (file,) = (tmp_path / "cache" / "reference").iterdir()
    broken = bytearray(file.read_bytes())
    broken[-20] ^= 255
    file.write_bytes(broken)
    assert fill(trees) == live and calls  # damaged: computed again, and repaired
    calls.clear()
    assert fill(trees) == live and not calls
    file.write_bytes(file.read_bytes()[:100])
    assert fill(trees) == live and calls
    assert models.fingerprint(tiny_policy(seed=1)) != mark == models.fingerprint(tiny_policy())
