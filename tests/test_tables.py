"""Tables: files of every kind, compressed ones, folders, patterns and data sets of the hub, row by row."""

import json
import os
import time
import tracemalloc

import pytest
from file_helpers import COMPRESSIONS, SUFFIXES, write_rows

from groups import contents, open_table
from groups.tables import choose_split
from utils import UserError

ROWS = [{"prompt": f"Question {i}?", "chosen": "yes,\nor so", "rejected": 'no "never"'} for i in range(50)]


def prompts(name, split="all"):
    return [row["prompt"] for _, row in open_table(str(name), split).rows()]


# --- files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_every_kind_of_file_gives_the_same_rows_compressed_or_not(tmp_path, suffix, compression):
    path = write_rows(tmp_path / f"f{suffix}{compression}", ROWS)
    table = open_table(str(path), "train")
    places, rows = zip(*table.rows())
    assert list(rows) == ROWS and table.whole and table.member == ""
    assert table.place == str(path) and places[6] == f"{path}, row 7"
    assert [row for _, row in table.rows()] == ROWS  # again from the first on


@pytest.mark.parametrize("suffix", [s for s in SUFFIXES if s != ".json"])
def test_memory_does_not_grow_with_the_file(tmp_path, suffix):
    import pyarrow

    rows = [{"prompt": f"{i} " + "long " * 2000} for i in range(2000)]
    path = write_rows(tmp_path / f"f{suffix}", rows)
    assert len(prompts(path)) == 2000  # what is loaded once is loaded
    before = pyarrow.total_allocated_bytes()
    tracemalloc.start()
    most = max(pyarrow.total_allocated_bytes() - before for _ in open_table(str(path), "all").rows())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most + peak < 10 * 2**20


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("compression", [".gz", ".zst"])
def test_a_compressed_file_that_is_cut_is_named(tmp_path, suffix, compression):
    path = write_rows(tmp_path / f"f{suffix}{compression}", ROWS)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match=f"f{suffix}{compression}: damaged or cut .* copy it again"):
        prompts(path)


def test_a_file_that_the_system_does_not_give_is_named(tmp_path):
    path = write_rows(tmp_path / "f.jsonl", ROWS)
    table = open_table(str(path), "all")
    path.unlink()
    with pytest.raises(UserError, match="f.jsonl: cannot be read .No such file"):
        list(table.rows())
    with pytest.raises(UserError, match="f.jsonl: cannot be read .No such file"):
        table.identity()


def test_a_bad_row_is_named_when_it_is_reached(tmp_path):
    path = write_rows(tmp_path / "f.jsonl", ROWS[:3])
    path.write_text(path.read_text() + "[5]\n")
    rows = open_table(str(path), "all").rows()
    assert [next(rows)[1] for _ in range(3)] == ROWS[:3]
    with pytest.raises(UserError, match="f.jsonl, row 4: not a JSON object"):
        next(rows)


def test_the_byte_that_is_no_text_is_counted_from_the_first_of_the_file(tmp_path):
    for name in ("f.jsonl", "f.csv", "f.json"):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbfprompt\n" + b"a\n" * 100 + b"b\xe9\n")
        with pytest.raises(UserError, match="(not UTF-8 text at byte 211|row 1: not valid JSON)"):
            prompts(tmp_path / name)


def test_a_json_file_may_hold_an_object_a_line_or_rows_by_name(tmp_path):
    path = tmp_path / "f.json"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert prompts(path) == [row["prompt"] for row in ROWS]
    path.write_text(json.dumps({"one": ROWS[0], "two": ROWS[1]}, indent=1))
    rows = [row for _, row in open_table(str(path), "all").rows()]
    assert rows == [{"key": "one", **ROWS[0]}, {"key": "two", **ROWS[1]}]
    path.write_text(json.dumps({"0": ROWS[0], "1": ROWS[1]}))  # as pandas numbers rows
    assert [row for _, row in open_table(str(path), "all").rows()] == ROWS[:2]


def test_text_of_a_table_that_is_no_utf_8_is_said(tmp_path):
    import pyarrow

    column = pyarrow.StringArray.from_buffers(
        1, pyarrow.py_buffer(b"\0\0\0\0\2\0\0\0"), pyarrow.py_buffer(b"\xff\xfe")
    )
    pyarrow.parquet.write_table(pyarrow.table({"prompt": column}), tmp_path / "f.parquet")
    with pytest.raises(UserError, match="f.parquet: .*UTF-?8.*write"):
        prompts(tmp_path / "f.parquet")


def test_an_arrow_file_with_a_footer_is_read(tmp_path):
    import pyarrow

    table = pyarrow.Table.from_pylist(ROWS)
    with pyarrow.OSFile(str(tmp_path / "f.arrow"), "wb") as file:
        with pyarrow.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=20)
    assert [row for _, row in open_table(str(tmp_path / "f.arrow"), "all").rows()] == ROWS


# --- folders and patterns -----------------------------------------------------------------------------------


def test_a_folder_of_shards_is_one_table_in_the_order_of_names(tmp_path):
    write_rows(tmp_path / "part-00001-of-00002.jsonl.gz", ROWS[30:])
    write_rows(tmp_path / "part-00000-of-00002.jsonl", ROWS[:30])
    for name in ("README.md", ".gitattributes", "_SUCCESS", "LICENSE", "dataset_infos.json"):
        (tmp_path / name).write_text("about the data")
    table = open_table(str(tmp_path), "train")
    places, rows = zip(*table.rows())
    assert list(rows) == ROWS and table.whole
    assert places[30] == f"{tmp_path}/part-00001-of-00002.jsonl.gz, row 1"


def test_a_pattern_is_one_table_in_the_order_of_names(tmp_path):
    (tmp_path / "deep").mkdir()
    write_rows(tmp_path / "b.jsonl", ROWS[20:40])
    write_rows(tmp_path / "a.jsonl", ROWS[:20])
    write_rows(tmp_path / "deep" / "c.jsonl", ROWS[40:])
    (tmp_path / "notes.txt").write_text("not of it")
    assert prompts(tmp_path / "*.jsonl") == [row["prompt"] for row in ROWS[:40]]
    assert len(prompts(f"{tmp_path}/**/*.jsonl")) == 50
    with pytest.raises(UserError, match="no file fits; correct the pattern"):
        prompts(tmp_path / "*.csv")
    assert open_table(f"{tmp_path}/*.jsonl:Germany", "all").member == "Germany"


@pytest.mark.parametrize(
    "names,message",
    [
        (["a.jsonl", "b.csv"], "a.jsonl and b.csv are of two kinds"),
        (["a.jsonl", "a.jsonl.gz"], "a.jsonl stands beside it under the same name"),
        (["a.jsonl", "b.txt"], "b.txt: is no data file"),
        (["train.jsonl", "extra.jsonl"], "extra.jsonl: is of no split"),
        (["a.jsonl", "b/c.jsonl"], "holds b beside data files"),
        ([], "a folder without data files"),
        (["README.md"], "a folder without data files"),
        (["b/README.md", "c/d.jsonl"], "a folder without data files"),
    ],
)
def test_a_folder_of_which_not_all_is_data_is_refused(tmp_path, names, message):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('{"prompt": "a"}')
    with pytest.raises(UserError, match=message):
        prompts(tmp_path)


@pytest.mark.parametrize(
    "train,validation",
    [
        ("train-{}-of-00002.parquet", "validation-{}-of-00002.parquet"),
        ("data/train-{}-of-00002-0123456789abcdef.jsonl", "data/test-{}-of-00002-0123456789abcdef.jsonl"),
        ("train/{}.jsonl", "test/{}.jsonl"),
    ],
)
def test_files_that_are_named_by_splits_give_these_splits(tmp_path, train, validation):
    for number, at in (("00000", 0), ("00001", 20)):
        for pattern, start in ((train, at), (validation, at + 5)):
            path = tmp_path / pattern.format(number)
            path.parent.mkdir(exist_ok=True)
            write_rows(path, ROWS[start : start + 5])
    table = open_table(str(tmp_path), "train")
    assert [row for _, row in table.rows()] == ROWS[:5] + ROWS[20:25] and not table.whole
    assert prompts(tmp_path, "eval") == [row["prompt"] for row in ROWS[5:10] + ROWS[25:30]]
    assert sorted(prompts(tmp_path)) == sorted(row["prompt"] for row in ROWS[:10] + ROWS[20:30])
    assert not open_table(str(tmp_path), "all").whole
    with pytest.raises(UserError, match="no split dev_2; it has "):
        open_table(str(tmp_path), "dev_2")


@pytest.mark.parametrize(
    "present,splits",
    [
        (["train", "test"], ("train", "test")),
        (["train", "test_questions"], ("train", "test_questions")),
        (["test_gen", "test_prefs", "test_sft", "train_prefs", "train_sft"], ("test_prefs", "train_prefs")),
        (["train_sft", "test_sft"], ("train_sft", "test_sft")),
        (["all", "test", "train"], ("all",)),
        (["train", "other"], ("train",)),
    ],
)
def test_all_is_every_split_of_a_usual_name(present, splits):
    assert choose_split("d", "all", present).splits == splits


def test_a_folder_with_a_train_split_alone_holds_all_splits(tmp_path):
    write_rows(tmp_path / "train.jsonl", ROWS)
    assert open_table(str(tmp_path), "eval").whole and len(prompts(tmp_path, "all")) == 50


def test_what_save_to_disk_writes_is_read(tmp_path):
    import datasets

    train, test = datasets.Dataset.from_list(ROWS[:40]), datasets.Dataset.from_list(ROWS[40:])
    train.save_to_disk(tmp_path / "one", num_shards=3)
    table = open_table(str(tmp_path / "one"), "train")
    assert [row for _, row in table.rows()] == ROWS[:40] and table.whole
    both = datasets.DatasetDict({"train_prefs": train, "test_prefs": test})
    both.save_to_disk(tmp_path / "both")
    table = open_table(str(tmp_path / "both"), "eval")
    assert [row for _, row in table.rows()] == ROWS[40:] and not table.whole
    (tmp_path / "one" / "data-00001-of-00003.arrow").unlink()
    with pytest.raises(UserError, match="data-00001-of-00003.arrow: no such file, but .*state.json names it"):
        open_table(str(tmp_path / "one"), "train")
    (tmp_path / "both" / "dataset_dict.json").write_text("{")
    with pytest.raises(UserError, match="dataset_dict.json: cannot be read; save the data set again"):
        open_table(str(tmp_path / "both"), "train")


# --- identity -----------------------------------------------------------------------------------------------


def test_identity_is_of_contents_and_not_of_names_or_times(tmp_path):
    one, other = write_rows(tmp_path / "a.jsonl", ROWS), write_rows(tmp_path / "b.jsonl", ROWS)
    identity = open_table(str(one), "all").identity()
    assert identity == open_table(str(other), "train").identity()
    write_rows(other, ROWS[:-1])
    assert identity != open_table(str(other), "all").identity()


def test_a_large_file_is_hashed_once(tmp_path, monkeypatch):
    monkeypatch.setenv("GROVE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(contents, "LARGE", 10)
    path = write_rows(tmp_path / "a.jsonl", ROWS)
    os.utime(path, (time.time() - 60, time.time() - 60))
    identity = open_table(str(path), "all").identity()
    monkeypatch.setattr(contents, "_read_hash", lambda path: 1 / 0)
    assert open_table(str(path), "all").identity() == identity
    monkeypatch.undo()
    monkeypatch.setenv("GROVE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(contents, "LARGE", 10)
    write_rows(path, ROWS[::-1])
    assert open_table(str(path), "all").identity() != identity
    (tmp_path / "cache" / "contents.json").write_text('{"a": ')
    assert open_table(str(path), "all").identity() != identity


def test_a_file_of_this_moment_is_not_remembered(tmp_path, monkeypatch):
    monkeypatch.setenv("GROVE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(contents, "LARGE", 10)
    open_table(str(write_rows(tmp_path / "a.jsonl", ROWS)), "all").identity()
    assert not (tmp_path / "cache").exists()
