"""Names and paths: which files and hub data sets become rows, and what the others get."""

import json

import pytest
from data_helpers import GOOD, write

import preference_datasets as data
from utils import UserError


def without_place(group):
    return group._replace(where="", dataset="")


def test_files_hold_out_an_eval_split(tmp_path):
    import pyarrow
    import pyarrow.parquet

    rows = [{**GOOD, "id": str(i), "prompt": f"Question {i}?"} for i in range(50)]
    path = write(tmp_path / "mine.jsonl", *rows)
    train, held = (data.load_groups(path, s) for s in ("train", "eval"))
    assert len(train) == 47 and len(held) == 3 and not {g.id for g in train} & {g.id for g in held}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "mine.parquet")
    again = data.load_groups(str(tmp_path / "mine.parquet"), "eval")
    assert [without_place(g) for g in again] == [without_place(g) for g in held]
    (tmp_path / "mine.json").write_text(json.dumps(rows))
    assert [g.id for g in data.load_groups(str(tmp_path / "mine.json"), "eval")] == [g.id for g in held]


def test_unknown_data_sets(tmp_path):
    for name, message in (
        ("opinions/whig", "no such group; choose one of opinions/democrat"),
        ("opinionz", "unknown; give opinions/"),
        (str(tmp_path / "no.jsonl"), "no such file"),
        (write(tmp_path / "e.jsonl"), "holds no rows"),
        (write(tmp_path / "c.jsonl", {"a": 1}), "columns a are no known data set"),
        (write(tmp_path / "n.jsonl", "5"), "row 1: not a JSON object"),
        (write(tmp_path / "opinions.jsonl", {**GOOD, "prompt": ""}), "field prompt: missing"),
    ):
        with pytest.raises(UserError, match=message):
            data.load_groups(name, "train")
    with pytest.raises(UserError, match="no split foo; a file has"):
        data.load_groups(write(tmp_path / "s.jsonl", GOOD), "foo")
    with pytest.raises(UserError, match="no split dev"):
        data.load_groups("opinions/republican", "dev")


def test_hub_splits_go_by_their_usual_names(monkeypatch):
    import datasets

    rows = [{**GOOD, "id": str(i), "prompt": f"Question {i}?"} for i in range(40)]
    for present, wanted, sizes in (
        (["train", "validation"], ["train", "validation"], [40, 40]),
        (["train_prefs", "test_prefs", "train_gen"], ["train_prefs", "test_prefs"], [40, 40]),
        (["train"], ["train", "train"], [38, 2]),
    ):
        monkeypatch.setattr(datasets, "get_dataset_split_names", lambda name, present=present: present)
        asked = []
        monkeypatch.setattr(
            datasets, "load_dataset", lambda name, split, asked=asked: asked.append(split) or rows
        )
        assert [len(data.load_groups("owner/name", s)) for s in ("train", "eval")] == sizes
        assert asked == wanted
    with pytest.raises(UserError, match="data set owner/name: no split dev; it has train"):
        data.load_groups("owner/name", "dev")
    monkeypatch.setattr(
        datasets, "get_dataset_split_names", lambda name: 1 / 0 if name != "Anthropic/hh-rlhf" else ["train"]
    )
    data.load_groups("hh", "train")


def test_unreadable_files(tmp_path):
    (tmp_path / "half.json").write_text('[{"prompt": "a"')
    (tmp_path / "object.json").write_text('{"prompt": "a"}')
    (tmp_path / "list.jsonl").write_text('[\n{"prompt": "a"}\n]')
    (tmp_path / "cut.parquet").write_bytes(b"PAR1abc")
    (tmp_path / "latin.jsonl").write_bytes(b'{"prompt": "\xe9"}')
    for name, message in (
        ("half.json", "not valid JSON"),
        ("object.json", "holds no list"),
        ("list.jsonl", "write one JSON object a line, or name a list of objects list.json"),
        ("cut.parquet", "not a readable parquet file"),
        ("latin.jsonl", "not UTF-8 text at byte 12"),
    ):
        with pytest.raises(UserError, match=message):
            data.load_groups(str(tmp_path / name), "train")
