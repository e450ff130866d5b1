"""Records on the disk while data is prepared: what is read equals what was appended."""

import contextlib
import errno
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groups.spilled import Chosen, Joined, Spilled, chunks
from utils import UserError

RECORDS = st.lists(st.one_of(st.none(), st.text(max_size=5), st.tuples(st.integers(), st.floats(0, 1))))
ENDS = st.one_of(st.none(), st.integers(-9, 9))
SLICES = st.builds(slice, ENDS, ENDS, st.sampled_from([None, 1, 2, -1, -3]))


def assert_reads_like(ours, plain, wanted):
    """A sequence gives what a list gives: by number, from both ends, by slice, in a loop."""
    assert len(ours) == len(plain)
    assert list(ours) == plain
    assert [ours[np.int64(i)] for i in range(len(plain))] == plain
    assert [ours[i] for i in range(-len(plain), 0)] == plain
    assert ours[wanted] == plain[wanted]
    for number in (len(plain), -len(plain) - 1):
        with pytest.raises(IndexError):
            ours[number]


@settings(max_examples=40, deadline=None)
@given(RECORDS, RECORDS, SLICES)
def test_what_is_read_is_what_was_appended(first, later, wanted):
    spilled = Spilled(first)
    assert_reads_like(spilled, first, wanted)
    for record in later:  # behind what was read already
        spilled.append(record)
    assert_reads_like(spilled, first + later, wanted)


@settings(max_examples=40, deadline=None)
@given(RECORDS, st.data(), SLICES)
def test_chosen_records_are_those_of_the_numbers(records, data, wanted):
    indices = st.integers(0, len(records) - 1) if records else st.nothing()
    numbers = data.draw(st.lists(indices))
    plain = [records[i] for i in numbers]
    for given_numbers in (numbers, np.array(numbers, np.int64)):
        assert_reads_like(Chosen(Spilled(records), given_numbers), plain, wanted)


@settings(max_examples=40, deadline=None)
@given(st.lists(RECORDS, max_size=4), SLICES)
def test_joined_sequences_stand_behind_one_another(parts, wanted):
    whole = [record for part in parts for record in part]
    assert_reads_like(Joined([Spilled(part) for part in parts]), whole, wanted)


def test_chunks_hold_every_record_once():
    spilled = Spilled(range(10))
    assert list(chunks(spilled, 4)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_records_longer_than_the_buffer_are_read_whole():
    records = ["a" * 2**21, "b", "c" * 2**20]
    assert list(Spilled(records)) == records


# --- a disk that is full ------------------------------------------------------------------------------------


class FullFile:
    """A file that takes what fits its buffer, and refuses when it is to be put on the disk."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, content):
        self.room -= len(content)
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def flush(self):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fileno(self):
        return self.file.fileno()


FULL = "temporary folder .*: cannot be written .No space left on device.; make room, or set TMPDIR"


@pytest.mark.parametrize("room", [0, 1000])
def test_a_full_temporary_disk_is_one_line(room):
    """Whether it refuses at once, or when the buffer goes to the disk before the first read."""
    spilled = Spilled()
    spilled._file = FullFile(spilled._file, room)
    with pytest.raises(UserError, match=FULL) as caught:
        spilled.append("a" * 100)
        spilled[0]
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux")
def test_a_disk_that_is_full_in_truth_is_one_line():
    """/dev/full refuses every write, as a full disk does."""
    spilled = Spilled()
    spilled._file = open("/dev/full", "wb", buffering=2**10)
    with pytest.raises(UserError, match=FULL):
        for _ in range(100):
            spilled.append("a" * 100)
    with contextlib.suppress(OSError):
        spilled._file.close()


def test_a_temporary_folder_that_is_not_there_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="temporary folder .*nowhere: cannot be written .*; .*set TMPDIR"):
        Spilled(["a"])
