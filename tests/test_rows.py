"""Rows against their reader's needs: the reader of most rows reads them, and what it lacks is named."""

from collections import Counter

import pytest
from data_helpers import GOOD, OF_AUTHORS, splits_of, write, write_csv
from test_readers import CHAT, READERS, turn

import preference_datasets as data
from utils import UserError, one_line

GOQA = {"question": "Good?", "selections": "{'Chile': [0.25, 0.75]}", "options": "['Yes', 'No']"}
ROWS = {name: rows[0] for name, (rows, *_) in READERS.items()} | {
    "mmoqa": {**OF_AUTHORS, "prompt": "How?"},
    "goqa": GOQA,
}
NEEDED = {known.name: set(known.columns) for known in data.FORMATS if known.name in ROWS}


def refusal(path, member=""):
    with pytest.raises(UserError) as error:
        data.load_groups(path + member, "all")
    text = str(error.value)
    assert text == one_line(text)
    return text


# --- columns ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name,column", [(name, column) for name in NEEDED for column in sorted(NEEDED[name])]
)
def test_a_row_that_lacks_a_column_is_named(tmp_path, name, column):
    row = ROWS[name]
    without = {key: value for key, value in row.items() if key != column}
    member = ":Chile" if name == "goqa" else ""
    for number, rows in ((2, [row, without, row]), (1, [without, row, row]), (3, [row, row, without])):
        text = refusal(write(tmp_path / "rows.jsonl", *rows), member)
        assert f"row {number}: field {column}: missing" in text and "leave the row out" in text


@pytest.mark.parametrize("name", NEEDED)
def test_the_reader_of_most_rows_reads_them(tmp_path, name):
    member = ":Chile" if name == "goqa" else ""
    text = refusal(write(tmp_path / "rows.jsonl", {"note": "x"}, ROWS[name], ROWS[name]), member)
    assert "row 1: field " in text and "missing" in text and "this one has note" in text


def test_an_odd_first_row_of_our_own_format_is_named(tmp_path):
    odd = {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"}
    text = refusal(write(tmp_path / "rows.jsonl", odd, GOOD, GOOD))
    assert "row 1: field chosen: unknown; known fields are" in text


# --- values -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name,change,message",
    [
        ("binarized", {"chosen": [{"content": "a"}, {"content": "b"}]}, "with a role and a content each"),
        (
            "binarized",
            {"rejected": [*CHAT, {"role": None, "content": "b"}]},
            "with a role and a content each",
        ),
        ("binarized", {"score_chosen": 1e300}, "score 1e\\+300 is no finite number"),
        ("armorm", {"all_rm_scores": 3}, "need lists of one length"),
        ("armorm", {"all_generated_responses": {"a": 1}}, "need lists of one length"),
        ("shp", {"labels": None}, "need two finite numbers and 0 or 1"),
        ("shp", {"labels": [1]}, "need two finite numbers and 0 or 1"),
        ("shp", {"score_B": float("nan")}, "need two finite numbers and 0 or 1"),
        ("shp", {"history": ["x"]}, "field history: holds a list; give a text"),
        ("hh", {"chosen": turn("a")}, "field chosen: is messages, and format hh needs a text"),
        ("goqa", {"options": 3}, "are no printed table and list"),
        ("goqa", {"options": None}, "are no printed table and list"),
        ("goqa", {"options": [["Yes"], ["No"]]}, "are no printed table and list"),
        ("goqa", {"options": {"a": "Yes"}}, "are no printed table and list"),
        ("goqa", {"selections": "none"}, "are no printed table and list"),
        ("goqa", {"selections": [0.5, 0.5]}, "are no printed table and list"),
        ("goqa", {"question": 3}, "field question: holds a number; give a text"),
        ("mmoqa", {"probabilities": [float("inf"), 0, 0, 0, 0, 0]}, "not 6 non-negative numbers"),
        ("mmoqa", {"probabilities": [float("nan"), 0, 0, 0, 1, 0]}, "not 6 non-negative numbers"),
        ("mmoqa", {"probabilities": {"9": 1}}, "not 6 non-negative numbers"),
        ("mmoqa", {"accept_choice_id": None}, "field accept_choice_id: None is none of"),
    ],
)
def test_a_value_that_a_reader_cannot_use_is_named(tmp_path, name, change, message):
    path = write(tmp_path / "rows.jsonl", ROWS[name], {**ROWS[name], **change})
    with pytest.raises(UserError, match=f"row 2: .*{message}"):
        data.load_groups(path + (":Chile" if name == "goqa" else ""), "all")


@pytest.mark.parametrize(
    "options", [["Yes", "No"], "['Yes', 'No']", '["Yes", "No"]', [1, 2.5], "[True, None]"]
)
@pytest.mark.parametrize("shares", [[0.25, 0.75], "3", [1], 5, {"a": 1}, [None, 1], [float("inf"), 1]])
def test_survey_options_and_shares_of_any_type_are_read_or_counted(tmp_path, options, shares):
    row = {**GOQA, "options": options, "selections": {"Chile": shares, "Peru": [1, 2]}}
    dropped = Counter()
    groups = data.load_groups(write(tmp_path / "g.jsonl", row) + ":Chile", "all", dropped=dropped)
    assert len(groups) + dropped["shares_do_not_fit_options"] == 1
    assert len(groups) == (shares == [0.25, 0.75])


# --- files of which nothing is left -------------------------------------------------------------------------

NOTHING_LEFT = {  # name: rows, and the reasons with the first rows
    "mmoqa": (
        [{**ROWS["mmoqa"], "probabilities": [0] * 6}] * 3
        + [{**ROWS["mmoqa"], "reject_response": "good", "reject_choice": "Good", "reject_choice_id": 4}],
        [
            "all_zero_probabilities (3, first at",
            "row 1)",
            "preferred_equal_to_rejected (1, first at",
            "row 4)",
        ],
    ),
    "shp": ([{**ROWS["shp"], "score_A": 3}] * 2, ["score_ratio_below_2 (2, first at", "row 1)"]),
    "hh": (
        [{"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "c"}] * 2,
        ["sides_without_a_common_prompt (2, first at", "row 1)"],
    ),
    "ultrafeedback": (
        [{"instruction": "How?", "completions": [{"response": "a", "overall_score": "N/A"}]}] * 2,
        ["responses_without_score (2, first", "prompts_with_fewer_than_two_responses (2, first"],
    ),
    "equal": (
        [
            {"prompt": f"p{i}", "responses": [{"text": "a", "reward": 1}, {"text": "b", "reward": 1}]}
            for i in range(30)
        ],
        ["has no example left", "equal_rewards (28, first at", "row 1)"],
    ),
}


@pytest.mark.parametrize("name", NOTHING_LEFT)
def test_a_file_of_which_nothing_is_left_says_why(tmp_path, name):
    rows, reasons = NOTHING_LEFT[name]
    path = write(tmp_path / "rows.jsonl", *rows)
    with pytest.raises(UserError) as error:
        splits_of(f"datasets=[{path}]")
    for reason in (path, *reasons):
        assert reason in str(error.value)


# --- tables whose values are texts --------------------------------------------------------------------------


def without_place(group):
    """Without what is named by the file; pairs are drawn by the group's name where the row has none."""
    return group._replace(where="", dataset="", id="", pairs=())


@pytest.mark.parametrize("name", [*ROWS, "own", "own messages"])
@pytest.mark.parametrize("options", [{}, {"delimiter": ";"}, {"delimiter": "\t", "lineterminator": "\n"}])
def test_a_table_of_texts_reads_like_the_lines(tmp_path, name, options):
    own = {**GOOD, "pairs": [[1, 0]]}
    row = ROWS.get(name) or {"own": own, "own messages": {**own, "prompt": CHAT}}[name]
    member = ":Chile" if name == "goqa" else ""
    ours = data.load_groups(write_csv(tmp_path / "t.csv", [row], **options) + member, "all")
    theirs = data.load_groups(write(tmp_path / "t.jsonl", row) + member, "all")
    assert ours and list(map(without_place, ours)) == list(map(without_place, theirs))


def test_lists_as_python_and_numpy_print_them(tmp_path):
    row = {**ROWS["mmoqa"], "probabilities": "[0.  0.  0.5 0.  0.5 0. ]", "accept_choice_id": "4.0"}
    again = {**ROWS["mmoqa"], "probabilities": "[0, 0, 0.5, 0, 0.5, 0]", "reject_choice_id": 2.0}
    (group,) = data.load_groups(write(tmp_path / "m.jsonl", row, again), "all")
    assert group.belief_probs == (0, 0, 0.5, 0, 0.5, 0) and len(group.pairs) == 2
    row = {**ROWS["armorm"], "all_generated_responses": "['a', \"it's\"]", "all_rm_scores": "[0.1, 0.3]"}
    (group,) = data.load_groups(write(tmp_path / "a.jsonl", row), "all")
    assert [r.text for r in group.responses] == ["a", "it's"]


# --- classes by label ---------------------------------------------------------------------------------------

BACKWARDS = ["5", "4", "3", "2", "1", "0"]


@pytest.mark.parametrize("classes", [list(data.CLASSES), BACKWARDS, ["3", "0", "4", "1", "5", "2"]])
def test_probabilities_go_to_their_labels_in_any_order_of_the_classes(tmp_path, classes):
    shares = {"0": 0.1, "2": 0.3, "4": 0.6}
    expected = tuple(shares.get(label, 0) for label in classes)
    responses = [{"text": "a", "belief": {"class": 4}}, {"text": "b", "belief": {"class": "2"}}]
    rows = {
        "own": {"prompt": "p", "responses": responses, "belief_probs": shares},
        "list": {**ROWS["mmoqa"], "probabilities": [shares.get(label, 0) for label in data.CLASSES]},
        "labels": {**ROWS["mmoqa"], "probabilities": shares},
        "nulls": {**ROWS["mmoqa"], "probabilities": {**shares, "1": None}},
    }
    for name, row in rows.items():
        (group,) = data.load_groups(write(tmp_path / "r.jsonl", row), "all", classes=classes)
        assert group.belief_probs == pytest.approx(expected), name
        if name != "own":
            assert [r.reward for r in group.responses] == pytest.approx([6, 3])


def test_the_embedded_opinions_follow_the_order_of_the_classes():
    plain = data.load_groups("opinions/republican", "eval")
    other = data.load_groups("opinions/republican", "eval", classes=BACKWARDS)
    for one, two in zip(plain, other):
        assert two.belief_probs == one.belief_probs[::-1] and two.responses == one.responses
        assert one.question == one.id.split("/")[0]
    with pytest.raises(UserError, match="has class 0, too; give 0, 1, 2, 3, 4, 5 in any order"):
        data.load_groups("opinions/republican", "eval", classes=["1", "2", "3", "4", "5"])


def test_a_label_that_is_no_class_is_named(tmp_path):
    row = {**GOOD, "belief_probs": {"4": 0.5, "7": 0.5}}
    assert "field belief_probs: 7 is no class among 0, 1, 2, 3, 4, 5" in refusal(
        write(tmp_path / "r.jsonl", row)
    )
