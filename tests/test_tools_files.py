"""Files as people's tools write them: marks and line ends, row numbers, types of parquet files."""

import datetime
import decimal
import json

import numpy as np
import pytest
from data_helpers import GOOD, write, write_csv

import preference_datasets as data
from groups.values import parsed, plain
from utils import UserError

LINE = json.dumps(GOOD)
PLAIN = {"prompt": "Why?", "chosen": "x", "rejected": "y"}
ODD = "one\u2028two\u2029three\x0bfour\x0cfive\x1csix\x85seven\u00a0eight"
HUMAN = "\n\nHuman: "


def ids(path):
    return [group.id for group in data.load_groups(str(path), "all")]


@pytest.mark.parametrize(
    "content",
    [
        "\ufeff" + LINE,
        "\ufeff\n" + LINE + "\n",
        LINE + "\r\n",
        "\r\n" + LINE + "\r\n\r\n",
        LINE + "\r" + LINE.replace('"a"', '"b"') + "\r",
        LINE + "\n\ufeff" + LINE.replace('"a"', '"b"'),  # two files, one after the other
    ],
)
def test_marks_and_line_ends_are_read_past(tmp_path, content):
    (tmp_path / "f.jsonl").write_bytes(content.encode())
    assert ids(tmp_path / "f.jsonl") == ["a", "b"][: content.count('"prompt"')]


def test_rows_are_numbered_as_they_stand_with_any_line_ends(tmp_path):
    (tmp_path / "f.jsonl").write_bytes((LINE + "\r\n\r\n{}\r\n").encode())
    with pytest.raises(UserError, match="row [23]: field prompt"):
        ids(tmp_path / "f.jsonl")


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_other_encodings_get_a_clear_line(tmp_path, suffix, encoding):
    (tmp_path / f"f{suffix}").write_bytes(LINE.encode(encoding))
    with pytest.raises(UserError, match="(UTF-16|UTF-32) text.*save the file as UTF-8"):
        ids(tmp_path / f"f{suffix}")


def test_a_byte_order_mark_is_no_part_of_a_column_or_list(tmp_path):
    (tmp_path / "f.json").write_bytes(("\ufeff[" + LINE + "]").encode())
    assert ids(tmp_path / "f.json") == ["a"]
    path = write_csv(tmp_path / "f.csv", [GOOD])
    content = (tmp_path / "f.csv").read_bytes()
    (tmp_path / "f.csv").write_bytes(b"\xef\xbb\xbf" + content)
    assert ids(path) == ["a"]


@pytest.mark.parametrize("inside", [ODD, "one\ntwo", "one\r\ntwo\r\n", 'say "no", or;\tnot'])
def test_line_breaks_of_any_kind_stay_inside_a_field(tmp_path, inside):
    row = {"chosen": f"{HUMAN}{inside}\n\nAssistant: a", "rejected": f"{HUMAN}{inside}\n\nAssistant: b"}
    for path in (write_csv(tmp_path / "h.csv", [row, row]), write(tmp_path / "h.jsonl", row, row)):
        (group,) = data.load_groups(path, "all")
        assert group.prompt == f"{HUMAN}{inside}\n\nAssistant:"


def test_two_columns_of_one_name_are_refused(tmp_path):
    (tmp_path / "f.csv").write_text("prompt,responses,prompt\na,b,c\n")
    with pytest.raises(UserError, match="two columns are named prompt"):
        ids(tmp_path / "f.csv")


# --- columns that number the rows ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "Unnamed: 0", "Unnamed: 0.1", "index", "level_0", "__index_level_0__"])
def test_a_column_that_numbers_the_rows_is_no_field(tmp_path, name):
    rows = [{name: i, **GOOD} for i in range(3)]
    for path in (write(tmp_path / "i.jsonl", *rows), write_csv(tmp_path / "i.csv", rows)):
        assert len(data.load_groups(path, "all")) == 3
    with pytest.raises(UserError, match="unknown; known fields are"):
        data.load_groups(write(tmp_path / "x.jsonl", {name: "words", **GOOD}), "all")


def test_what_pandas_writes_is_read(tmp_path):
    import pandas

    frame = pandas.DataFrame([{**GOOD, "prompt": f"Question {i}?"} for i in range(3)], index=[4, 7, 9])
    frame.to_csv(tmp_path / "p.csv")
    frame.to_parquet(tmp_path / "p.parquet")
    frame.to_json(tmp_path / "p.jsonl", orient="records", lines=True)
    frame.to_json(tmp_path / "p.json", orient="records")
    frame.reset_index().to_json(tmp_path / "r.json", orient="records")
    expected = [f"Question {i}?" for i in range(3)]
    for name in ("p.csv", "p.parquet", "p.jsonl", "p.json", "r.json"):
        groups = data.load_groups(str(tmp_path / name), "all")
        assert [group.prompt for group in groups] == expected, name
        assert groups[0].responses[0].reward == 7.5 and groups[0].belief_probs[4] == 0.6


# --- types of parquet ---------------------------------------------------------------------------------------


def write_parquet(path, rows, **columns):
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.Table.from_pylist(rows)
    for name, column in columns.items():
        table = table.append_column(name, column)
    pyarrow.parquet.write_table(table, path)
    return str(path)


def test_columns_that_python_has_no_value_for_do_no_harm(tmp_path, monkeypatch):
    import pyarrow

    row = {"chosen": f"{HUMAN}a\n\nAssistant: a", "rejected": f"{HUMAN}a\n\nAssistant: b"}
    nanoseconds = pyarrow.array([1_700_000_000_123_456_789], pyarrow.timestamp("ns"))
    far = pyarrow.array([10**14], pyarrow.timestamp("s"))
    nested = pyarrow.array([{"at": 10**14}], pyarrow.struct([("at", pyarrow.timestamp("s"))]))
    raw = pyarrow.array([b"\xff\xfe\x00"])
    path = write_parquet(tmp_path / "t.parquet", [row], made=nanoseconds, far=far, nested=nested, raw=raw)
    (group,) = data.load_groups(path, "all")
    assert [response.text for response in group.responses] == [" a", " b"]


@pytest.mark.parametrize("kind", ["decimal", "float32", "int8", "dictionary", "text"])
def test_scores_of_any_type_are_numbers(tmp_path, kind):
    import pyarrow

    conversation = [{"role": "user", "content": "How?"}, {"role": "assistant", "content": "a"}]
    row = {
        "prompt": "How?",
        "chosen": conversation,
        "rejected": [conversation[0], {**conversation[1], "content": "b"}],
    }
    columns = {
        "decimal": pyarrow.array([decimal.Decimal("7.50")]),
        "float32": pyarrow.array([7.5], pyarrow.float32()),
        "int8": pyarrow.array([7], pyarrow.int8()),
        "dictionary": pyarrow.array([7.5]).dictionary_encode(),
        "text": pyarrow.array(["7.5"]),
    }
    score = columns[kind]
    low = pyarrow.array([2.0])
    path = write_parquet(tmp_path / "t.parquet", [row], score_chosen=score, score_rejected=low)
    (group,) = data.load_groups(path, "all")
    assert [response.reward for response in group.responses] == [7.0 if kind == "int8" else 7.5, 2.0]


def test_absent_fields_of_tables_are_absent(tmp_path):
    rows = [{**GOOD, "pairs": [[1, 0]]}, {**GOOD, "pairs": None, "id": None}]
    one, two = data.load_groups(write_parquet(tmp_path / "n.parquet", rows), "all")
    assert one.pairs == ((1, 0),) and len(two.pairs) == 16 and "row 2" in two.id
    rows = [{**GOOD, "pairs": [[1, 0]]}, {**GOOD, "pairs": "", "id": float("nan")}]
    one, two = data.load_groups(write(tmp_path / "n.jsonl", *rows), "all")
    assert one.pairs == ((1, 0),) and len(two.pairs) == 16 and "row 2" in two.id


def test_an_empty_parquet_file_holds_no_rows(tmp_path):
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({"prompt": pyarrow.array([], pyarrow.string())})
    pyarrow.parquet.write_table(table, tmp_path / "e.parquet")
    with pytest.raises(UserError, match="holds no rows"):
        ids(tmp_path / "e.parquet")


@pytest.mark.parametrize(
    "value,expected",
    [
        (decimal.Decimal("5"), 5),
        (decimal.Decimal("0.25"), 0.25),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        ((1, {"a": np.bool_(True)}), [1, {"a": True}]),
        (datetime.date(2024, 1, 2), "2024-01-02"),
        (datetime.datetime(2024, 1, 2, 3), "2024-01-02T03:00:00"),
        (datetime.timedelta(seconds=5), "0:00:05"),
        (b"text", "text"),
        (b"\xff", None),
        (object(), None),
    ],
)
def test_values_become_those_of_json(value, expected):
    assert plain(value) == expected
    json.dumps(plain(value))


@pytest.mark.parametrize(
    "value,expected",
    [
        ("7.5", 7.5),
        (" 3 ", 3),
        ("[1, 2]", [1, 2]),
        ("['a', 'b']", ["a", "b"]),
        ("[0.1 0.9]", [0.1, 0.9]),
        ('{"4": 0.5}', {"4": 0.5}),
        ("{'a': [1, None]}", {"a": [1, None]}),
        ("N/A", "N/A"),
        ("", ""),
        ("[" * 100_000, "[" * 100_000),
        (["as", "it", "is"], ["as", "it", "is"]),
        (None, None),
    ],
)
def test_texts_that_hold_values_are_read(value, expected):
    assert parsed(value) == expected
