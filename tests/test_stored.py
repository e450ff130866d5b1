"""Token trees on the disk: what is read equals what was written, and so do all numbers of it."""

import datasets
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import groups.stored
from groups.stored import NO_KEY, StoredTrees, TreeWriter
from reference import keys_as_numbers
from trees import COLUMNS, TokenTree, column, path_keys

# of the package datasets
KNOWN = tuple(int(part) for part in datasets.__version__.split(".")[:2])
IDS = st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=4).map(tuple)
NUMBERS = st.floats(-1e9, 1e9)


@st.composite
def trees(draw):
    """Any tree: answers that are not there, a belief or none, classes, rewards or none, weights."""
    count = draw(st.integers(1, 4))
    answers = draw(st.lists(st.one_of(IDS, st.just(())), min_size=count, max_size=count).filter(any))
    classes = draw(st.integers(0, 3))

    def one_each(kind, number):
        return tuple(draw(st.lists(kind, min_size=number, max_size=number)))

    return TokenTree(
        draw(IDS),
        draw(st.one_of(st.just(()), IDS)),
        tuple(answers),
        rewards=one_each(NUMBERS, draw(st.sampled_from([0, count]))),
        class_ids=one_each(st.integers(0, 9), classes),
        class_probs=one_each(st.floats(0, 1), classes),
        is_majority=draw(st.sampled_from([None, False, True])),
        group=draw(st.integers(0, 2**31 - 1)),
        truncated=one_each(st.booleans(), count),
        weight=draw(st.floats(0.1, 1e6)),
    )


def stored(path, written, at_once):
    """Trees written so many at once, each time as a part, and what the writer said of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(groups.stored, "PART_BYTES", 1)
        writer = TreeWriter(path)
        for first in range(0, len(written), at_once):
            writer.append(written[first : first + at_once])
        said = writer.close()
    assert said.examples == len(written)
    return StoredTrees(path), said.digest


def num_parts(path):
    """How many parts a file has."""
    with path.open("rb") as file:
        return len(list(pa.ipc.open_stream(file)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("trees")


@settings(max_examples=25, deadline=None)
@given(st.lists(trees(), min_size=1, max_size=12), st.integers(1, 5))
def test_what_is_read_is_what_was_written(folder, written, at_once):
    ours, _ = stored(folder / "x.arrow", written, at_once)
    assert list(ours) == written
    assert [ours[i] for i in range(len(written))] == written
    assert [ours[np.int64(i)] for i in range(-len(written), 0)] == written
    assert ours[1:5] == written[1:5] and ours[::-2] == written[::-2]
    for number in (len(written), -len(written) - 1):
        with pytest.raises(IndexError):
            ours[number]


@settings(max_examples=25, deadline=None)
@given(st.lists(trees(), min_size=1, max_size=12), st.integers(1, 5))
def test_numbers_on_the_disk_are_those_of_the_trees(folder, written, at_once):
    ours, _ = stored(folder / "x.arrow", written, at_once)
    for name in COLUMNS:
        of_list = column(written, name)
        assert column(ours, name).dtype == of_list.dtype
        assert np.array_equal(column(ours, name), of_list), name
    keys = [key or NO_KEY for tree in written for key in path_keys(tree)]
    assert np.array_equal(np.concatenate(list(ours.answer_keys())), keys_as_numbers(keys))
    assert ours.answer_starts().tolist() == np.cumsum([0, *(len(t.answers) for t in written)]).tolist()


@settings(max_examples=25, deadline=None)
@given(st.lists(trees(), min_size=1, max_size=12), st.integers(1, 5), st.data())
def test_a_digest_is_of_the_trees_and_not_of_the_parts_they_came_in(folder, written, at_once, data):
    _, digest = stored(folder / "x.arrow", written, at_once)
    assert stored(folder / "y.arrow", written, len(written))[1] == digest
    other = data.draw(trees())
    number = data.draw(st.integers(0, len(written) - 1))
    changed = [*written[:number], other, *written[number + 1 :]]
    is_same = repr(other) == repr(written[number])  # -0.0 is not 0.0
    assert (stored(folder / "y.arrow", changed, at_once)[1] == digest) == is_same


def test_ids_that_move_over_a_border_change_the_digest(folder):
    digests = set()
    for prompt, answers in (((1, 2), ((3,), (4,))), ((1,), ((2, 3), (4,))), ((1, 2), ((3, 4), ()))):
        digests.add(stored(folder / "x.arrow", [TokenTree(prompt, (), answers)], 1)[1])
    assert len(digests) == 3


def test_what_is_appended_waits_for_a_whole_part(folder):
    written = [TokenTree((i, i + 1), (), ((i,),), group=i) for i in range(2500)]
    writer = TreeWriter(folder / "x.arrow")
    for first in range(0, len(written), 100):
        writer.append(written[first : first + 100])
    writer.close()
    assert num_parts(folder / "x.arrow") == 3
    assert list(StoredTrees(folder / "x.arrow")) == written


@pytest.mark.parametrize("held", [1, 100])
def test_trees_are_the_same_when_their_pages_were_let_go(folder, monkeypatch, held):
    monkeypatch.setattr(groups.stored, "READS_HELD", held)
    written = [TokenTree((i, i + 1), (), ((i,),), group=i) for i in range(500)]
    ours, _ = stored(folder / "x.arrow", written, 60)
    let_go, times = ours._let_go, []
    monkeypatch.setattr(ours, "_let_go", lambda: times.append(1) or let_go())
    assert [ours[i] for i in range(500)] == written
    assert len(times) == 500 // held


def test_a_file_of_many_parts_is_read_like_one(folder):
    written = [TokenTree((i, i + 1), (), ((i,) * (i % 3 + 1), ()), group=i) for i in range(2500)]
    ours, _ = stored(folder / "x.arrow", written, 1700)
    assert num_parts(folder / "x.arrow") == 3
    assert list(ours) == written
    assert [ours[i] for i in (0, 999, 1000, 1699, 1700, -1)] == [
        written[i] for i in (0, 999, 1000, 1699, 1700, -1)
    ]
    assert column(ours, "group").tolist() == list(range(2500))
    assert ours.answer_starts().tolist() == list(range(0, 5001, 2))
    keys = [key or NO_KEY for tree in written for key in path_keys(tree)]
    assert np.array_equal(np.concatenate(list(ours.answer_keys())), keys_as_numbers(keys))


def test_a_file_opens_with_pyarrow(folder):
    written = [TokenTree((1, 2), (7,), ((3,), (4, 5)), rewards=(1.0, 0.5), group=i) for i in range(3)]
    ours, _ = stored(folder / "x.arrow", written, 2)
    opened = pa.ipc.open_stream(ours.path.read_bytes()).read_all()
    assert opened["prompt"].to_pylist() == [[1, 2]] * 3 and opened["group"].to_pylist() == [0, 1, 2]
    assert opened["keys"].type.value_type.byte_width == 16


@pytest.mark.skipif(KNOWN < (5, 1), reason="datasets knows binary values of a fixed size from 5.1 on")
def test_a_file_opens_with_the_library_of_data_sets(folder):
    written = [TokenTree((1, 2), (7,), ((3,), (4, 5)), rewards=(1.0, 0.5), group=i) for i in range(3)]
    ours, _ = stored(folder / "x.arrow", written, 2)
    opened = datasets.Dataset.from_file(str(ours.path))
    assert len(opened) == 3
    assert opened[1]["prompt"] == [1, 2] and opened[1]["answers"] == [[3], [4, 5]]
    assert opened["group"][:] == [0, 1, 2]
    assert opened.features["prompt"].feature.dtype == "int32"
