"""Formats: each is told by its columns and kinds, and its rows become what docs/data.md says."""

import json

import pytest
from data_helpers import write, write_csv
from helpers import ROOT

import preference_datasets as data
from groups import OWN, Drops, Source, choose_format, read_groups
from utils import UserError, one_line

Q = "What color is the sky?"
CHAT = [{"role": "user", "content": Q}]
SYSTEM = {"role": "system", "content": "Answer briefly."}
HUMAN = f"\n\nHuman: {Q}\n\nAssistant:"
FRENCH = [
    SYSTEM,
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hello! How can I help?"},
    {"role": "user", "content": "Translate into French.\nThe sky"},
]
BLUE, GREEN = ("Blue.", None), ("Green.", None)
FIRST = ((0, 1),)


def documented():
    """{format: the rows that docs/data.md shows}"""
    rows = {}
    for line in (ROOT / "docs" / "data.md").read_text().splitlines():
        if line.startswith("| `") and " | `{" in line:
            name, examples, *_ = line.removeprefix("| ").split(" | ")
            rows[name.strip("`")] = [json.loads(row) for row in examples.strip("`").split("` `")]
    return rows


EXAMPLES = documented()
BECOMES = {  # format: the prompt, (text, reward) of the responses, the pairs, the labels
    "prompt-completion": ("The sky is", [(" blue.", None)], (), ()),
    "messages": ([SYSTEM, *CHAT], [BLUE], (), ()),
    "text": ("", [("The sky is blue.", None)], (), ()),
    "alpaca": (FRENCH, [("Le ciel", None)], (), ()),
    "sharegpt": ([SYSTEM, *CHAT], [BLUE], (), ()),
    "input-output": ("The sky is", [(" blue.", None)], (), ()),
    "trl-unpaired": (Q, [BLUE], (), (True,)),
    "trl-unpaired-implicit": (CHAT, [BLUE], (), (True,)),
    "alpaca-kto": (CHAT, [BLUE], (), (True,)),
    "sharegpt-kto": (CHAT, [GREEN], (), (False,)),
    "messages-kto": (CHAT, [GREEN], (), (False,)),
    "argilla-kto": ([SYSTEM, *CHAT], [BLUE], (), (True,)),
    "orca-kto": ([SYSTEM, *CHAT], [BLUE], (), (True,)),
    "prompt-response": ("The sky is", [(" blue.", None)], (), ()),
    "conversation": (CHAT, [BLUE], (), ()),
    "instruction-response": (FRENCH[3:], [("Le ciel", None)], (), ()),
    "question-response": ([SYSTEM, *CHAT], [BLUE], (), ()),
    "question-answer": (CHAT, [BLUE], (), ()),
    "query-response": (CHAT, [BLUE], (), ()),
    "response-kto": (Q, [BLUE], (), (True,)),
    "beavertails": (CHAT, [BLUE], (), (True,)),
    "stack-exchange-paired": (CHAT, [BLUE, GREEN], FIRST, ()),
    "helpsteer3-edits": (CHAT, [BLUE, GREEN], FIRST, ()),
    "halos-binary": (CHAT, [BLUE], (), (True,)),
    "trl-preference": ("The sky is", [(" blue.", None), (" green.", None)], FIRST, ()),
    "trl-preference-implicit": (CHAT, [BLUE, GREEN], FIRST, ()),
    "messages-pairs": (CHAT, [BLUE, GREEN], FIRST, ()),
    "alpaca-pairs": (CHAT, [BLUE, GREEN], FIRST, ()),
    "sharegpt-pairs": (CHAT, [BLUE, GREEN], FIRST, ()),
    "argilla-pairs": (CHAT, [("Blue.", 4.5), ("Green.", 2.0)], FIRST, ()),
    "orca-pairs": ([SYSTEM, *CHAT], [BLUE, GREEN], FIRST, ()),
    "input-pairs": (CHAT, [BLUE, GREEN], FIRST, ()),
    "openai-preference": (CHAT, [BLUE, GREEN], FIRST, ()),
    "hh": (HUMAN, [(" Blue.", None), (" Green.", None)], FIRST, ()),
    "shp": (HUMAN, [(" Blue.", 20.0), (" Green.", 4.0)], FIRST, ()),
    "helpsteer2-preference": (CHAT, [BLUE, GREEN], FIRST, ()),
    "helpsteer3": (CHAT, [BLUE, GREEN], FIRST, ()),
    "saferlhf": (CHAT, [BLUE, GREEN], FIRST, ()),
    "saferlhf-safer": (CHAT, [GREEN, BLUE], FIRST, ()),
    "arena": (CHAT, [BLUE, GREEN], FIRST, ()),
    "arena-turns": (CHAT, [BLUE, GREEN], FIRST, ()),
    "rewardbench": (CHAT, [BLUE, GREEN], FIRST, ()),
    "rewardbench2": (CHAT, [BLUE, GREEN, ("Red.", None), ("Black.", None)], ((0, 1), (0, 2), (0, 3)), ()),
    "halos-pairs": (CHAT, [("Blue.", 0.9), ("Green.", 0.1)], FIRST, ()),
    "grove": (Q, [("Blue.", 9), ("Green.", 1)], (), ()),
    "ultrafeedback": (CHAT, [("Blue.", 9.0), ("Green.", 1.0)], (), ()),
    "armorm": (CHAT, [("Blue.", 0.9), ("Green.", 0.1)], (), ()),
    "binarized": (CHAT, [("Blue.", 9.0), ("Green.", 1.0)], (), ()),
    "se": (HUMAN, [(" Blue.", 9.0), (" Green.", 1.0)], (), ()),
    "helpsteer2": (CHAT, [("Blue.", 4.0), ("Green.", 0.0)], (), ()),
    "nectar": (HUMAN, [(" Green.", 0.0), (" Blue.", 1.0)], (), ()),
    "ranks": (Q, [("Green.", 0.0), ("Blue.", 1.0)], (), ()),
    "ultrafeedback-reward": (
        CHAT,
        [("Blue.", 9.0), ("Green.", 3.0), ("Red.", 2.0), ("Black.", 1.0)],
        (),
        (),
    ),
    "halos-scalar": (CHAT, [("Blue.", 0.9), ("Green.", 0.1)], (), ()),
}
BY_NAME = {known.name: known for known in (*data.FORMATS, OWN)}


def read(rows, name=None, dropped=None):
    """The groups of rows, as a file of them is read; `name` is what `format=` names."""
    rows = [(f"file.jsonl, row {number}", row) for number, row in enumerate(rows, 1)]
    known = choose_format(rows, "file.jsonl", name)
    return read_groups(known, rows, Source(data.CLASSES, "Chile", Drops() if dropped is None else dropped))


def refusal(rows, name=None):
    with pytest.raises(UserError) as error:
        read(rows, name)
    assert str(error.value) == one_line(str(error.value))
    return str(error.value)


def shape(group):
    return group.prompt, [(r.text, r.reward) for r in group.responses], group.pairs, group.labels


# --- every format -------------------------------------------------------------------------------------------


def test_the_table_names_every_format_and_no_other():
    assert sorted(EXAMPLES) == sorted(BY_NAME)
    of_surveys = {"mmoqa", "goqa", "opinionqa", "subpop", "shares", "counts"}  # in tests of their own
    assert sorted(BECOMES) == sorted(set(BY_NAME) - of_surveys)


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_row_of_the_table_is_told_for_its_format(name):
    rows = [("here", row) for row in EXAMPLES[name]]
    known = choose_format(rows, "file")
    assert known.name == name or not BY_NAME[name].is_recognised
    assert choose_format(rows, "file", name).name == name
    assert read(EXAMPLES[name], name)


@pytest.mark.parametrize("name", BECOMES)
def test_a_file_of_the_format_becomes_groups(tmp_path, name):
    if BY_NAME[name].is_recognised:
        groups = data.load_groups(write(tmp_path / "rows.jsonl", *EXAMPLES[name]), "all")
    else:
        groups = read(EXAMPLES[name], name)
    assert list(map(shape, groups)) == [BECOMES[name]]


@pytest.mark.parametrize("name", [name for name in BECOMES if BY_NAME[name].is_recognised])
def test_a_table_of_the_format_reads_like_its_lines(tmp_path, name):
    groups = data.load_groups(write_csv(tmp_path / "rows.csv", EXAMPLES[name]), "all")
    assert list(map(shape, groups)) == [BECOMES[name]]


@pytest.mark.parametrize("name", EXAMPLES)
def test_columns_of_nulls_change_nothing(name):
    nulls = dict.fromkeys(("tools", "images", "weight", "completion", "messages", "kto_tag", "text"))
    rows = [{**nulls, **row} for row in EXAMPLES[name]]
    if name != OWN.name:
        assert list(map(shape, read(rows, name))) == list(map(shape, read(EXAMPLES[name], name)))


@pytest.mark.parametrize("name", [n for n in EXAMPLES if n != OWN.name and not BY_NAME[n].uses_all])
def test_metadata_is_ignored_and_counted_once_a_row(name):
    dropped = Drops()
    rows = [{**row, "annotator": "x"} for row in EXAMPLES[name]]
    read(rows, name, dropped)
    assert dropped["note: ignored column: annotator"] == len(rows)
    assert not dropped.first
