"""Log-probs on the disk: files are added and never rewritten, and the first value of a key stays."""

import errno
import os

import numpy as np
import pytest
from helpers import CPU, PAD, tiny_policy
from hypothesis import given, settings
from hypothesis import strategies as st

import forest
import models
import reference
import reference_cache
from groups.stored import StoredTrees, TreeWriter
from reference_cache import MOST_FILES, ReferenceCache
from schedule import Packing
from trees import path_keys

PACKING = Packing(2048, 256, pad_id=PAD)


def keys_of(*numbers):
    """Keys of two halves each, (A, 2); a number alone is both halves."""
    pairs = [number if isinstance(number, tuple) else (number, number) for number in numbers]
    return np.array(pairs, np.uint64).reshape(-1, 2)


def values_of(*values):
    return np.array(values, np.float64)


def contents(folder):
    """The files of a cache with what is in them."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def held(folder, keys):
    """What a cache that is opened now holds of some keys."""
    return ReferenceCache(folder).look_up(keys).tolist()


def test_files_are_added_and_earlier_ones_stay_as_they_were(tmp_path):
    folder = tmp_path / "new" / "cache"
    cache = ReferenceCache(folder)
    before = {}
    for i in range(5):
        cache.add(keys_of(3 * i, 3 * i + 1), values_of(-i, -i - 0.5))
        now = contents(folder)
        assert len(now) == i + 1
        assert {name: now[name] for name in before} == before
        before = now
    assert sorted(before) == list(before)
    assert held(folder, keys_of(6, 1, 12)) == [-2.0, -0.5, -4.0]


KEYS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=8, unique=True)


@settings(max_examples=40, deadline=None)
@given(st.lists(KEYS, min_size=1, max_size=6))
def test_a_cache_is_a_table_whose_first_values_stay(tmp_path_factory, parts):
    """Half of a key is shared by many here."""
    folder = tmp_path_factory.mktemp("cache")
    cache, table = ReferenceCache(folder), {}
    for number, part in enumerate(parts):
        values = [-100.0 * number - i for i in range(len(part))]
        for key, value in zip(part, values):
            table.setdefault(key, value)
        assert cache.add(keys_of(*part), values_of(*values)).tolist() == [table[key] for key in part]
    asked = [(a, b) for a in range(5) for b in range(5)]
    expected = [table.get(key, np.nan) for key in asked]
    for opened in (cache, ReferenceCache(folder)):
        np.testing.assert_array_equal(opened.look_up(keys_of(*asked)), expected)


def test_keys_that_share_their_first_half_are_told_apart(tmp_path):
    cache = ReferenceCache(tmp_path)
    cache.add(keys_of((7, 1), (7, 3), (7, 2), (8, 1)), values_of(-1, -3, -2, -8))
    np.testing.assert_array_equal(
        cache.look_up(keys_of((7, 2), (7, 0), (7, 3), (7, 4), (8, 1), (8, 2), (6, 1), (9, 1), (7, 1))),
        [-2, np.nan, -3, np.nan, -8, np.nan, np.nan, np.nan, -1],
    )


def test_nan_is_never_stored(tmp_path):
    cache = ReferenceCache(tmp_path / "cache")
    given_back = cache.add(keys_of(1, 2, 3), values_of(-1, np.nan, -3))
    np.testing.assert_array_equal(given_back, [-1, np.nan, -3])
    for path in (tmp_path / "cache").iterdir():
        assert not np.isnan(np.load(path)["logp"]).any()
    cache.add(keys_of(4), values_of(np.nan))
    assert len(contents(tmp_path / "cache")) == 1  # no file of nothing
    assert cache.add(keys_of(2), values_of(-2)).tolist() == [-2]
    assert held(tmp_path / "cache", keys_of(2)) == [-2]


def test_many_files_are_joined_and_first_values_stay(tmp_path):
    cache = ReferenceCache(tmp_path)
    for i in range(MOST_FILES + 1):
        cache.add(keys_of(i), values_of(-i))
    late = [np.load(path) for path in sorted(tmp_path.iterdir())][0].copy()
    late["logp"] = -999  # another value of the first key, in a file that comes later
    number, digest = MOST_FILES + 2, reference_cache._digest(late)
    reference_cache.write_file(tmp_path / f"{number:06d}-{digest}.npy", late)
    assert len(contents(tmp_path)) == MOST_FILES + 2
    everything = keys_of(*range(MOST_FILES + 1))
    expected = [-float(i) for i in range(MOST_FILES + 1)]
    assert held(tmp_path, everything) == expected
    assert len(contents(tmp_path)) == 1
    assert held(tmp_path, everything) == expected
    # one that was opened before goes on with what it holds, and adds behind what is there
    assert cache.look_up(everything).tolist() == expected
    cache.add(keys_of(500), values_of(-5))
    assert len(contents(tmp_path)) == 2
    assert held(tmp_path, keys_of(500, 0)) == [-5.0, 0.0]


def test_so_many_files_stay_apart(tmp_path):
    cache = ReferenceCache(tmp_path)
    for i in range(MOST_FILES):
        cache.add(keys_of(i), values_of(-i))
    before = contents(tmp_path)
    ReferenceCache(tmp_path)
    assert contents(tmp_path) == before


def test_what_two_runs_add_at_once_keeps_the_first_value(tmp_path):
    one, other = ReferenceCache(tmp_path), ReferenceCache(tmp_path)
    assert one.add(keys_of(1, 2), values_of(-1, -2)).tolist() == [-1, -2]
    assert other.add(keys_of(2, 3), values_of(-20, -30)).tolist() == [-2, -30]
    assert one.add(keys_of(3, 1), values_of(-300, -100)).tolist() == [-30, -1]
    assert held(tmp_path, keys_of(1, 2, 3)) == [-1, -2, -30]
    assert len(contents(tmp_path)) == 2


def test_a_file_that_another_run_has_joined_meanwhile_is_no_damage(tmp_path, caplog):
    cache = ReferenceCache(tmp_path)
    cache.add(keys_of(1), values_of(-1))
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    path.unlink()
    assert reference_cache.read_file(path) is None
    assert not caplog.records
    path.write_bytes(content[:-1])
    assert reference_cache.read_file(path) is None
    assert "is damaged" in caplog.text


@pytest.mark.parametrize("name", ["write_file", "locked"])
def test_a_disk_that_refuses_is_a_warning(tmp_path, monkeypatch, caplog, name):
    def refuse(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(reference_cache, name, refuse)
    cache = ReferenceCache(tmp_path)
    assert cache.add(keys_of(1, 2), values_of(-1, -2)).tolist() == [-1, -2]
    assert "cannot be written" in caplog.text
    assert contents(tmp_path) == {}


# --- with a model -------------------------------------------------------------------------------------------


def trees_that_recur():
    """Twelve examples, of which those of a later part repeat answers of the earlier ones."""
    once = [forest.TokenTree((65 + i, 66), (), ((67, 68 + i), (69, i + 1, 70))) for i in range(6)]
    swapped = [tree._replace(answers=tree.answers[::-1]) for tree in once]
    return [*once, *swapped]


@pytest.fixture
def passes(monkeypatch):
    """The examples of every pack that is scored."""
    counted = []
    score = models.score

    def counting(policy, batch):
        counted.append(len(batch.length))
        return score(policy, batch)

    monkeypatch.setattr(models, "score", counting)
    monkeypatch.setattr(reference, "PLAN_CHUNK", 3)
    return counted


def filled(trees, **more):
    policy = tiny_policy()
    return reference.reference_logps(policy, trees, models.fingerprint(policy), PACKING, CPU, **more)


@pytest.mark.parametrize("on_disk", [False, True])
def test_examples_that_recur_in_later_parts_are_computed_once(tmp_path, passes, on_disk):
    trees = trees_that_recur()
    if on_disk:
        writer = TreeWriter(tmp_path / "x.arrow")
        writer.append(trees)
        writer.close()
        trees = StoredTrees(tmp_path / "x.arrow")
    ours = list(filled(trees))
    assert passes == [3, 3]  # the first half, in two parts
    for tree, of_swapped in zip(ours[:6], ours[6:]):
        assert of_swapped.reference == tree.reference[::-1]
        assert not np.isnan(tree.reference).any()
    (folder,) = (tmp_path / "cache" / "reference").iterdir()
    assert len(contents(folder)) == 2
    assert list(filled(trees)) == ours
    assert len(passes) == 2


def test_what_is_there_is_read_and_the_rest_is_added(tmp_path, passes):
    trees = trees_that_recur()[:6]
    filled(trees, wanted=[4, 1])
    (folder,) = (tmp_path / "cache" / "reference").iterdir()
    before = contents(folder)
    ours = filled(trees)
    assert sum(passes) == 6
    assert contents(folder).items() >= before.items()
    assert [len(tree.reference) for tree in ours] == [2] * 6
    keys = reference.keys_as_numbers([key for tree in trees for key in path_keys(tree)])
    expected = [value for tree in ours for value in tree.reference]
    assert held(folder, keys) == expected


def test_trees_with_their_reference_are_a_sequence(tmp_path):
    trees = trees_that_recur()
    ours = filled(trees, wanted=[0, 11])
    assert len(ours) == 12
    assert ours[-1] == ours[11] == ours[np.int64(11)] and ours[11].reference
    assert ours[-12] == ours[0] and ours[0].reference
    assert ours[5] == trees[5]  # not wanted
    assert ours[1:3] == trees[1:3]
    with pytest.raises(IndexError):
        ours[12]
    assert ours.column("path_tokens").tolist() == forest.column(trees, "path_tokens").tolist()


def test_an_example_that_lacks_an_answer_has_zero_for_it(tmp_path):
    trees = [forest.TokenTree((65,), (), ((67, 68), ())), forest.TokenTree((65,), (), ((), (67, 68)))]
    first, second = filled(trees)
    assert first.reference[1] == second.reference[0] == 0
    assert first.reference[0] == second.reference[1] < 0
