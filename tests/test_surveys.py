"""Surveys: GlobalOpinionQA, OpinionQA, SubPOP and plain tables of shares, of one group or several."""

import json
from collections import Counter

import pytest
from data_helpers import settings_of, without_notes, write, write_csv
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import preference_datasets as data
import utils
from groups import Source, choose_format, read_groups
from groups.rows import Drops
from utils import UserError

GOQA = {
    "question": "Good?",
    "selections": "defaultdict(<class 'list'>, {'Chile': [0.25, 0.75], 'Peru': [0.5, 0.5], 'Mali': [0, 0]})",
    "options": "['Yes', 'No']",
    "source": "GAS",
}
OPINIONQA = {
    "key": "SAFE_W1",
    "MC_options": ["Very safe", "Not safe", "Refused"],
    "question_text": "How safe?",
    "Democrat": {"Very safe": 60.0, "Not safe": 30.0, "Refused": 10.0},
    "Republican": {"Very safe": 50.0, "Not safe": 50.0},
}
SUBPOP = {
    "qkey": "SAFE_W1",
    "attribute": "POLPARTY",
    "group": "Democrat",
    "question": "How safe?",
    "options": ["Very safe", "Not safe", "Refused"],
    "responses": [0.25, 0.75],
    "refusal_rate": 0.2,
    "ordinal": [1.0, 2.0],
}
TABLE = [
    {"question": "Good?", "option": "Yes", "group": "North", "share": 0.25},
    {"question": "Good?", "option": "No", "group": "North", "share": 0.75},
    {"question": "Good?", "option": "Yes", "group": "South", "share": 40},
    {"question": "Good?", "option": "No", "group": "South", "share": 60},
]


def load(name, **options):
    return data.load_groups(str(name), "all", **options)


def probs_of(groups):
    return [tuple(round(p, 6) for p in group.belief_probs if p) for group in groups]


def test_a_table_in_the_order_of_its_options_is_read_whole(tmp_path):
    """The rows of one question stand further apart than any part that is read at once."""
    rows = []
    for option, share in (("Yes", 0.25), ("No", 0.75)):
        rows += [{"question": f"Good {i}?", "option": option, "share": share} for i in range(1200)]
    path = write_csv(tmp_path / "t.csv", rows)
    settings, needs = settings_of(f"datasets=[{path}]", "eval_fraction=0.01", loss="gdpo_calibration")
    data.check_first_rows(settings, needs)
    splits = data.read_splits(settings, needs)
    assert len(splits["train"].groups) + len(splits["eval"].groups) == 1200
    assert len(splits["train"].groups[7].responses) == 2


# --- GlobalOpinionQA ----------------------------------------------------------------------------------------


def test_several_countries_are_groups_of_their_own_with_one_question(tmp_path):
    path = write(tmp_path / "g.jsonl", GOQA)
    chile, peru = load(f"{path}:Chile+Peru")
    assert chile.id == f"{path}, row 1, Chile" and peru.id == f"{path}, row 1, Peru"
    assert chile.prompt == peru.prompt == "<Q>Good?\n0: Yes\n1: No<A>"
    assert chile.question == peru.question == "Good?" and "Chile" not in chile.prompt
    assert probs_of([chile, peru]) == [(0.25, 0.75), (0.5, 0.5)]
    assert [r.belief.text for r in chile.responses] == ["Yes", "No"] and len(chile.pairs) == 16
    (alone,) = load(f"{path}:Chile")
    assert alone.id == f"{path}, row 1" and alone.belief_probs == chile.belief_probs
    assert {group.where for group in (chile, peru, alone)} == {f"{path}, row 1"}


def test_countries_that_are_left_out_are_counted(tmp_path):
    dropped = Drops()
    path = write(tmp_path / "g.jsonl", GOQA, {**GOQA, "selections": "{'Peru': [1, 2, 3]}"})
    assert len(load(f"{path}:Chile+Mali", dropped=dropped)) == 1
    assert without_notes(dropped) == Counter(rows_read=2, all_zero_probabilities=1, not_asked_of_this_group=1)
    assert dropped.first["not_asked_of_this_group"] == f"{path}, row 2"
    many = {**GOQA, "options": str(list("abcdefg")), "selections": str({"Peru": [1] * 7})}
    dropped = Drops()
    assert load(write(tmp_path / "m.jsonl", many) + ":Peru", dropped=dropped) == []
    assert dropped["more_options_than_classes"] == 1


@pytest.mark.parametrize(
    "member,message",
    [
        ("", "g.jsonl: no country is named; give one after a colon, .*Chile.*Chile.Peru"),
        (":Mars", "g.jsonl: no group Mars; there are Chile, Peru, Mali"),
        (":Chile+Mars", "no group Mars"),
    ],
)
def test_a_country_that_was_not_asked_is_named(tmp_path, member, message):
    path = write(tmp_path / "g.jsonl", GOQA)
    with pytest.raises(UserError, match=message):
        load(path + member)


def test_rows_of_one_group_with_stated_classes_are_read(tmp_path):
    row = {
        "group": "United States",
        "question": "Good?",
        "options": ["Yes", "No", "Refused"],
        "option_class": [4, 2, 0],
        "selections": [0.6, 0.3, 0.1],
    }
    path = write(tmp_path / "g.jsonl", row)
    for name in (path, f"{path}:United States"):
        (group,) = load(name)
        assert group.prompt == "<Q>Good?\n4: Yes\n2: No\n0: Refused<A>"
        assert [round(p, 6) for p in group.belief_probs] == [0.1, 0, 0.3, 0, 0.6, 0]
    with pytest.raises(UserError, match="row 1: field option_class: 9 is none of 0, 1"):
        load(write(tmp_path / "b.jsonl", {**row, "option_class": [9, 2, 0]}))


# --- OpinionQA ----------------------------------------------------------------------------------------------


def test_opinionqa_counts_are_shares_of_every_group(tmp_path):
    by_key = {"SAFE_W1": {k: v for k, v in OPINIONQA.items() if k != "key"}}
    (tmp_path / "POLPARTY_data.json").write_text(json.dumps(by_key))
    write(tmp_path / "f.jsonl", OPINIONQA)
    for name in ("POLPARTY_data.json", "f.jsonl"):
        democrat, republican = load(tmp_path / name)
        assert democrat.prompt == "<Q>How safe?\n0: Very safe\n1: Not safe\n2: Refused<A>"
        assert probs_of([democrat, republican]) == [(0.6, 0.3, 0.1), (0.5, 0.5)]
        assert democrat.id.endswith("row 1, Democrat") and democrat.question == "How safe?"
        (republican,) = load(f"{tmp_path / name}:Republican")
        assert probs_of([republican]) == [(0.5, 0.5)]


def test_opinionqa_counts_of_no_option_are_left_out_and_counted(tmp_path):
    dropped = Drops()
    row = {**OPINIONQA, "Democrat": {"Very safe": 1, "Unheard of": 2}, "Republican": {"Very safe": None}}
    assert load(write(tmp_path / "f.jsonl", row), dropped=dropped) == []
    assert without_notes(dropped) == Counter(
        rows_read=1, shares_do_not_fit_options=1, all_zero_probabilities=1
    )
    with pytest.raises(UserError, match="row 1: field MC_options: is no list of texts"):
        load(write(tmp_path / "b.jsonl", {**OPINIONQA, "MC_options": "none"}))


def write_wave(folder, **changes):
    """A folder of OpinionQA's release: two questions, four people of two parties, one who refused."""
    files = {
        "info": [
            {"": "0", "key": "SAFE_W1", "question": "How safe?", "references": "['Safe', 'Not', 'Refused']"},
            {"": "1", "key": "GUN_W1", "question": "A gun?", "references": "['Yes', 'No']"},
        ],
        "metadata": [{"": "0", "key": "POLPARTY", "options": "['Republican', 'Democrat']"}],
        "responses": [
            {"SAFE_W1": "Safe", "GUN_W1": "", "POLPARTY": "Democrat", "WEIGHT_W1": "1.5"},
            {"SAFE_W1": "Not", "GUN_W1": "No", "POLPARTY": "Democrat", "WEIGHT_W1": "0.5"},
            {"SAFE_W1": "Refused", "GUN_W1": "Yes", "POLPARTY": "Republican", "WEIGHT_W1": "1"},
            {"SAFE_W1": "Safe", "GUN_W1": "No", "POLPARTY": "Refused", "WEIGHT_W1": "1"},
        ],
    }
    folder.mkdir()
    for name, rows in {**files, **changes}.items():
        write_csv(folder / f"{name}.csv", rows)
    return folder


def test_a_folder_of_opinionqas_release_is_weighted_by_person(tmp_path):
    folder = write_wave(tmp_path / "American_Trends_Panel_W1")
    safe, gun = load(f"{folder}:Overall")
    assert safe.prompt == "<Q>How safe?\n0: Safe\n1: Not\n2: Refused<A>" and gun.question == "A gun?"
    assert probs_of([safe, gun]) == [(0.625, 0.125, 0.25), (0.4, 0.6)]
    safe, gun = load(f"{folder}:Democrat")
    assert probs_of([safe, gun]) == [(0.75, 0.25), (1.0,)]
    assert safe.id == f"{folder}/info.csv, row 1, POLPARTY=Democrat"
    assert len(load(folder)) == 6
    with pytest.raises(UserError, match="no group Refused; there are Overall, POLPARTY=Democrat, POLPARTY=R"):
        load(f"{folder}:Refused")


@pytest.mark.parametrize(
    "name,row,message",
    [
        (
            "responses",
            {"SAFE_W1": "Safe", "WEIGHT_W1": "x"},
            "responses.csv, row 1: field WEIGHT_W1: x is no",
        ),
        ("responses", {"SAFE_W1": "Safe"}, "responses.csv, row 1: field WEIGHT_W1: None is no number"),
        ("metadata", {"key": "SEX", "options": "none"}, "metadata.csv, row 1: field options: is no list"),
        ("metadata", {"key": "SEX"}, "metadata.csv, row 1: field options: missing or empty"),
        ("info", {"key": "SAFE_W1"}, "info.csv, row 1: field question: missing or empty"),
    ],
)
def test_a_row_of_opinionqas_release_that_cannot_be_read_is_named(tmp_path, name, row, message):
    folder = write_wave(tmp_path / "wave", **{name: [row]})
    with pytest.raises(UserError, match=message):
        load(folder)


# --- SubPOP -------------------------------------------------------------------------------------------------


def test_subpop_rows_are_groups_with_the_refusal_behind_the_answers(tmp_path):
    other = {**SUBPOP, "group": "Republican", "responses": [1, 0], "refusal_rate": 0}
    path = write(tmp_path / "s.jsonl", SUBPOP, other)
    democrat, republican = load(path)
    assert democrat.prompt == "<Q>How safe?\n0: Very safe\n1: Not safe\n2: Refused<A>"
    assert probs_of([democrat, republican]) == [(0.2, 0.6, 0.2), (1.0,)]
    assert (democrat.id, republican.id) == (f"{path}, row 1", f"{path}, row 2")
    for member in ("Democrat", "POLPARTY=Democrat"):
        dropped = Drops()
        assert load(f"{path}:{member}", dropped=dropped) == [democrat._replace(dataset=f"{path}:{member}")]
        assert without_notes(dropped) == Counter(rows_read=2, not_asked_of_this_group=1)
    assert len(load(f"{path}:Democrat+POLPARTY=Republican")) == 2


def test_a_name_of_two_groups_is_refused(tmp_path):
    rows = [{**SUBPOP, "group": "Other"}, {**SUBPOP, "attribute": "RACE", "group": "Other"}]
    path = write(tmp_path / "s.jsonl", *rows)
    with pytest.raises(UserError, match="Other may be POLPARTY=Other or RACE=Other; give one of these"):
        load(f"{path}:Other")
    assert len(load(f"{path}:RACE=Other")) == 1


def test_names_with_a_plus_sign_are_names(tmp_path):
    rows = [{**SUBPOP, "attribute": "AGE", "group": age} for age in ("18-29", "65+")]
    path = write(tmp_path / "s.jsonl", *rows)
    assert [len(load(f"{path}:{member}")) for member in ("65+", "18-29", "18-29+65+")] == [1, 1, 2]
    with pytest.raises(UserError, match="no group 66"):
        load(f"{path}:66+")


@pytest.mark.parametrize(
    "change,message",
    [
        ({"refusal_rate": None}, "field refusal_rate: None is no share from 0 to 1"),
        ({"refusal_rate": 1.5}, "field refusal_rate: 1.5 is no share"),
        ({"options": 3}, "field options: is no list of texts"),
        ({"group": ""}, "field group: missing or empty"),
        ({"question": " "}, "field question: missing or empty"),
    ],
)
def test_a_subpop_row_that_cannot_be_read_is_named(tmp_path, change, message):
    path = write(tmp_path / "s.jsonl", SUBPOP, {**SUBPOP, **change})
    with pytest.raises(UserError, match=f"row 2: {message}"):
        load(path)


def test_subpop_rows_without_a_refusal_are_read_as_they_are(tmp_path):
    row = {**SUBPOP, "options": ["Very safe", "Not safe"]}
    dropped = Drops()
    path = write(tmp_path / "s.jsonl", row, {**row, "responses": [0.2] * 5}, {**row, "responses": [0, 0]})
    assert probs_of(load(path, dropped=dropped)) == [(0.25, 0.75)]
    assert without_notes(dropped) == Counter(
        rows_read=3, shares_do_not_fit_options=1, all_zero_probabilities=1
    )


# --- plain tables -------------------------------------------------------------------------------------------


def test_a_table_of_shares_gives_every_group_and_question_once(tmp_path):
    for path in (write_csv(tmp_path / "t.csv", TABLE), write(tmp_path / "t.jsonl", *TABLE)):
        north, south = load(path)
        assert north.prompt == south.prompt == "<Q>Good?\n0: Yes\n1: No<A>"
        assert probs_of([north, south]) == [(0.25, 0.75), (0.4, 0.6)]
        assert (north.id, south.id) == (f"{path}, row 1", f"{path}, row 3")
        (south,) = load(f"{path}:South")
        assert probs_of([south]) == [(0.4, 0.6)]
        with pytest.raises(UserError, match="no group West; there are North, South"):
            load(f"{path}:West")


def test_counts_add_up_and_weights_multiply(tmp_path):
    rows = [
        {"question": "Good?", "option": "Yes", "count": 10, "weight": 2},
        {"question": "Good?", "option": "No", "count": 20, "weight": 1},
        {"question": "Good?", "option": "Yes", "count": 10, "weight": 1},
    ]
    path = write_csv(tmp_path / "t.csv", rows)
    assert probs_of(load(path)) == [(0.6, 0.4)]
    with pytest.raises(UserError, match="its rows name no groups of people; remove :North"):
        load(f"{path}:North")
    shares = [{"question": "Good?", "option": o, "share": 0.5} for o in ("Yes", "No", "Yes")]
    with pytest.raises(UserError, match="row 3: field option: Yes comes a second time"):
        load(write(tmp_path / "s.jsonl", *shares))


def test_stated_classes_are_taken_and_shares_of_one_class_add_up(tmp_path):
    rows = [
        {"question": "Good?", "option": words, "share": share, "class": label}
        for words, share, label in (("Yes", 5, 5), ("Rather", 3, "4.0"), ("Unsure", 1, 0), ("Refused", 1, 0))
    ]
    (group,) = load(write(tmp_path / "t.jsonl", *rows))
    assert group.prompt == "<Q>Good?\n5: Yes\n4: Rather\n0: Unsure\n0: Refused<A>"
    assert [round(p, 6) for p in group.belief_probs] == [0.2, 0, 0, 0, 0.3, 0.5]
    dropped = Drops()
    assert load(write(tmp_path / "o.jsonl", *rows[2:]), dropped=dropped) == []
    assert dropped["options_of_one_class"] == 1


@pytest.mark.parametrize(
    "change,message",
    [
        ({"share": "many"}, "row 2: field share: many is no number of 0 or more"),
        ({"share": -1}, "row 2: field share: -1 is no number of 0 or more"),
        ({"weight": "x"}, "row 2: field weight: x is no number of 0 or more"),
        ({"weight": 2}, "row 1: field weight: not all options of the question have it"),
        ({"class": 4}, "row 1: field class: not all options of the question have it"),
        ({"class": 7}, "row 2: field class: 7 is none of 0, 1, 2, 3, 4, 5"),
        ({"option": ""}, "row 2: field option: is no text"),
        ({"group": ["a"]}, "row 2: field group: holds a list"),
        ({"question": None}, "row 2: field question: missing or empty"),
    ],
)
def test_a_row_of_a_table_that_cannot_be_read_is_named(tmp_path, change, message):
    path = write(tmp_path / "t.jsonl", TABLE[0], {**TABLE[1], **change})
    with pytest.raises(UserError, match=message):
        load(path)


# --- any rows -----------------------------------------------------------------------------------------------

LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.just(10**400), st.floats(), st.text(max_size=4), st.just("{")
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=6,
)


@pytest.mark.parametrize("good", [GOQA, OPINIONQA, SUBPOP, TABLE[0], {**TABLE[0], "count": 3, "class": "1"}])
@settings(max_examples=500, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(rows=st.data())
def test_any_row_is_read_or_counted_or_refused_on_one_line(good, rows):
    fields = st.sampled_from([*good, "weight", "class", "extra"])
    damaged = [
        (f"f, row {number}", {**good, **changes})
        for number, changes in enumerate(
            rows.draw(st.lists(st.dictionaries(fields, VALUES, max_size=3), min_size=1, max_size=3)), 1
        )
    ]
    counts = Drops()
    try:
        known = choose_format(damaged, "f")
        groups = read_groups(
            known, damaged, Source(data.CLASSES, rows.draw(st.sampled_from(["", "Chile"])), counts)
        )
    except UserError as error:
        assert str(error) and "\n" not in utils.one_line(error)
        return
    assert groups or counts
    for group in groups:
        assert sum(group.belief_probs) == pytest.approx(1)
        assert all(response.belief.label in data.CLASSES for response in group.responses)
        data.draw_pairs(group, data.CLASSES, 4, 0)
