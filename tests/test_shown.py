"""What `python preference_datasets.py FILE` prints: what a file was taken for, drops, lengths, examples."""

import json
import sys

import pytest
from data_helpers import GOOD, write
from helpers import byte_tokenizer
from test_formats import EXAMPLES
from trl_helpers import tokenizer_of

import models.embedded
import preference_datasets as data
from groups.pieces import pieces, printable
from utils import UserError

PAIR = {"prompt": "Sky?", "chosen": "Blue.", "rejected": "Red.", "source": "x"}
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Sky?"}]


@pytest.fixture
def show(tmp_path, monkeypatch, capsys):
    """What the command prints, given rows or a name: show([row, ...], "--json")."""
    byte_tokenizer().save_pretrained(tmp_path / "bytes")

    def go(rows, *arguments, tokenizer=tmp_path / "bytes"):
        name = rows if isinstance(rows, str) else write(tmp_path / "rows.jsonl", *rows)
        given = ["--tokenizer", str(tokenizer)] if tokenizer else []
        monkeypatch.setattr(sys, "argv", ["preference_datasets.py", name, *arguments, *given])
        data.main()
        return capsys.readouterr().out

    return go


def squeezed(text):
    """The text with single spaces, so that columns and line breaks do not count."""
    return " ".join(text.split())


def test_it_says_what_the_file_was_taken_for_and_how_that_was_told(show):
    text = squeezed(show([PAIR], "all"))
    assert "taken for trl-preference, told by its columns prompt (a text or messages), chosen (" in text
    assert "--format=NAME takes it for another" in text
    row = {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"}
    assert "taken for hh, as --format says" in squeezed(show([row], "all", "--format", "hh"))


def test_it_counts_rows_drops_and_notes_with_their_first_place(show, tmp_path):
    text = squeezed(show([PAIR, PAIR | {"rejected": "Blue."}, PAIR | {"prompt": "Sea?"}], "all"))
    assert "read 3 rows" in text
    place = f"{tmp_path}/rows.jsonl, row 2"
    assert f"left out 1 for preferred equal to rejected (first: {place})" in text
    assert "note 3 rows: ignored column: source" in text


def test_what_a_file_leaves_out_is_said_once_and_not_for_every_split(show):
    rows = [PAIR | {"prompt": f"Sky {i}?"} for i in range(20)]
    rows[3]["rejected"] = "Blue."
    text = show(rows)
    assert text.count("left out") == 1
    text = squeezed(text)
    assert "train 18 examples of 18 prompts, 36 responses" in text
    assert "eval 1 example of 1 prompt, 2 responses" in text


def test_lengths_are_counted_in_tokens_with_those_that_were_cut(show):
    rows = [PAIR, PAIR | {"prompt": "Sea?" * 10, "chosen": "b" * 50}]
    text = squeezed(show(rows, "all", "--max-length", "40", "--max-prompt-length", "20"))
    assert "length in tokens min median mean max" in text
    assert "all, prompts 4 12 12 20 1 cut" in text
    assert "all, answers 5 5.5 9 20 1 cut" in text
    assert "within max_length 40, max_prompt_length 20" in text


def test_three_examples_stand_as_the_model_sees_them(show):
    text = show([PAIR | {"prompt": f"Sky {i}?"} for i in range(5)], "all")
    assert text.count("\nexample ") == 3
    first = text[text.index("example 1") : text.index("example 2")].splitlines()
    assert first[0].endswith("rows.jsonl, row 1")
    assert [line.strip() for line in first[1:7]] == [
        "prompt      6 tokens",
        "S·k·y· ·0·?",
        "preferred   6 tokens",
        "B·l·u·e·.·<eos>",
        "other       5 tokens",
        "R·e·d·.·<eos>",
    ]


def test_messages_stand_as_the_template_writes_them(show, tmp_path):
    tokenizer_of("words").save_pretrained(tmp_path / "words")
    row = {"prompt": CHAT, "completion": [{"role": "assistant", "content": "the sky"}], "label": True}
    text = show([row], "all", tokenizer=tmp_path / "words")
    assert "·<|end|>·<|turn|>·u·s·e·r·\\n·S·k·y·?·<|end|>·<|turn|>·" in text
    assert "the· sky·<|end|>" in text
    assert "desirable" in text and "undesirable" not in text


def test_beliefs_rewards_and_weights_stand_beside_the_texts(show):
    text = squeezed(show([GOOD | {"weight": 2}], "all"))
    assert "row 1, weight 2" in text
    assert "p* 0: 0.1, 2: 0.3, 4: 0.6" in text
    assert "view conditioned, by what the rows hold" in text
    assert "belief 6 tokens 4·<·G·o·o·d preferred" in text
    assert "preferred 7 tokens [reward 7.5] >·F·i·n·e·.·<eos> other 6 tokens [reward 2]" in text


@pytest.mark.parametrize(
    "row,name,labels",
    [
        (PAIR, "pairs", ["preferred", "other"]),
        (GOOD, "conditioned", ["preferred", "other"]),
        ({"prompt": "a", "completion": "b"}, "target", ["response"]),
        ({"prompt": "a", "completion": "b", "label": False}, "binary", ["undesirable"]),
        (
            {"prompt": "a", "responses": [{"text": t, "reward": len(t)} for t in ("b", "bc", "bcd")]},
            "ranked",
            ["preferred", "other 1", "other 2"],
        ),
    ],
)
def test_the_view_that_fits_is_taken(show, row, name, labels):
    text = show([row], "all")
    assert f"view {name}, by what the rows hold" in squeezed(text)
    for label in labels:
        assert f"\n  {label} " in text
    assert "view target, asked for" in squeezed(show([row], "all", "--responses", "target"))


def test_rows_of_two_kinds_are_shown_as_what_both_are(show):
    ranked = {"prompt": "a", "responses": [{"text": "b", "reward": 1}, {"text": "c", "reward": 2}]}
    paired = {"prompt": "d", "responses": [{"text": "b"}, {"text": "c"}], "pairs": [[1, 0]]}
    alone = {"prompt": "e", "responses": [{"text": "b"}]}
    assert "view pairs, by" in squeezed(show([ranked, paired], "all"))
    assert "view target, by" in squeezed(show([ranked, alone], "all"))


def test_long_texts_are_shown_by_their_ends(show):
    text = squeezed(show([PAIR | {"chosen": "b" * 300 + "END"}], "all"))
    assert "[... 184 more ...]" in text
    assert "E·N·D·<eos>" in text


def test_without_a_tokenizer_the_texts_stand_whole(show, monkeypatch):
    carrier = models.embedded.Carrier("no-such-package", "no_such_module", "x.gguf", "1")
    monkeypatch.setattr(models.embedded, "EMBEDDED_MODELS", {"smollm2-135m-instruct": carrier})
    row = {"prompt": CHAT, "chosen": "Blue.\n", "rejected": "Red."}
    text = show([row, row | {"prompt": "x" * 2000}], "all", tokenizer=None)
    assert text.count("not shown: ") == 1
    squeeze = squeezed(text)
    assert "the package no-such-package is not installed" in squeeze and "--tokenizer=NAME" in squeeze
    assert "length in characters" in text and "cut" not in text
    assert "system Be brief. user Sky? preferred Blue.\\n other Red." in squeeze
    assert "[... 1200 more characters ...]" in squeeze


def test_json_counts_tokens_where_a_tokenizer_is_named(show):
    audit = json.loads(show([PAIR], "all", "--json"))
    (of_name,) = audit.values()
    assert of_name["all"]["answer_tokens"]["max"] == 6
    (of_name,) = json.loads(show([PAIR], "all", "--json", tokenizer=None)).values()
    assert of_name["all"]["answer_characters"]["max"] == 5


def test_the_embedded_data_is_shown_by_its_splits(show):
    text = squeezed(show("opinions/republican", "train", "eval"))
    assert "taken for the embedded data set" in text
    assert "read 117 rows of train" in text and "read 39 rows of eval" in text


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_row_of_every_format_is_shown(show, tmp_path, name):
    tokenizer_of("bytes").save_pretrained(tmp_path / "turns")
    path = write(tmp_path / "rows.jsonl", *EXAMPLES[name])
    member = ":Chile" if name in ("goqa", "opinionqa") else ""
    text = show(path + member, "all", "--format", name, tokenizer=tmp_path / "turns")
    assert f"taken for   {name}, as --format says" in text
    assert "example 1 of all: " in text and "·" in text


def test_a_folder_and_a_pattern_are_shown(show, tmp_path):
    (tmp_path / "shards").mkdir()
    for number in range(2):
        write(tmp_path / "shards" / f"{number}.jsonl", PAIR | {"prompt": f"Sky {number}?"})
    for name in (str(tmp_path / "shards"), str(tmp_path / "shards" / "*.jsonl")):
        assert "all 2 examples of 2 prompts, 4 responses" in squeezed(show(name, "all"))


@pytest.mark.parametrize(
    "rows,arguments,message",
    [
        ([PAIR | {"chosen": 5}], [], "row 1: nearest format is trl-preference: field chosen: is "),
        ([PAIR], ["all", "--format", "hhh"], "format=hhh: unknown; choose one of"),
        ([PAIR], ["train", "dev"], "no split dev; a file has train, eval and all"),
        (
            [PAIR],
            ["all", "--responses", "ranked"],
            "row 1: field responses: responses=ranked needs a reward on each",
        ),
        ([PAIR | {"chosen": "a<eos>b"}], ["all"], "holds the tokenizer's eos_token"),
        ([PAIR], ["all", "--max-length", "2"], "leave no room for a response within max_length=2"),
    ],
)
def test_bad_input_is_one_line(show, rows, arguments, message):
    with pytest.raises(UserError, match=message) as caught:
        show(rows, *arguments)
    assert "\n" not in str(caught.value)


def test_tokens_of_one_character_stand_together():
    tokenizer = byte_tokenizer()
    ids = tokenizer("aü€b")["input_ids"]
    assert pieces(tokenizer, [256, *ids]) == ["<bos>", "a", "ü{2 tokens}", "€{3 tokens}", "b"]
    assert pieces(tokenizer, ids[:2]) == ["a", "�"]
    assert pieces(tokenizer, [*ids[:2], 257]) == ["a", "�", "<eos>"]
    assert pieces(tokenizer, []) == []


def test_what_a_terminal_would_obey_is_escaped():
    assert printable("a\n\x1b[31m\u202e\ud800é") == "a\\n\\x1b[31m\\u202e\\ud800é"


def test_a_whole_group_is_shown_by_its_rows_and_the_one_of_most_weight(show):
    alone = GOOD | {"prompt": "And now?", "belief_probs": [1, 0, 0, 0, 0, 0], "pairs": [[0, 1]]}
    text = squeezed(show([GOOD, alone], "all", "--responses", "expected.conditioned"))
    assert "all 1 example of 2 prompts (2 weighted rows)" in text
    assert "left out 1 for nothing to draw (first: " in text
    assert "row the one of most weight of its prompt's: 0.667" in text
