"""What the GDPO authors' rows say of their options: words, classes and answers of all of them."""

import pytest
from data_helpers import write

import preference_datasets as data
from groups import Belief
from groups.options import options_of_rows

WORDS = ["Very good", "Good", "Bad", "Very bad", "No opinion"]
LABELS = ["5", "4", "2", "1", "0"]
SHARES = [0.1, 0.4, 0.25, 0.2, 0.05]
ANSWERS = [f"I would call it {word.lower()}." for word in WORDS]
ROW = {
    "prompt": "How is it?",
    "question": "How is it going?",
    "accept_response": ANSWERS[1],
    "reject_response": ANSWERS[2],
    "accept_choice": "Good",
    "reject_choice": "Bad",
    "accept_choice_id": 4,
    "reject_choice_id": 2,
    "options": WORDS,
    "answers": ANSWERS,
    "selections": SHARES,
    "probabilities": [0.05, 0.2, 0.25, 0, 0.4, 0.1],
}
ALL = [Belief(label, words) for label, words in zip(LABELS, WORDS)]
SIX = {"0": "No opinion", "1": "Very bad", "2": "Bad", "3": None, "4": "Good", "5": "Very good"}
MAPS = {  # ways to write which class an option is of
    "labels of words": dict(zip(WORDS, LABELS)),
    "numbers of words": dict(zip(WORDS, map(int, LABELS))),
    "words of labels": dict(zip(LABELS, WORDS)),
    "lists of words": {label: [words] for label, words in zip(LABELS, WORDS)},
    "labels in the options' order": list(map(int, LABELS)),
    "words in the classes' order": list(SIX.values()),
    "as text": str(dict(zip(WORDS, LABELS))),
}


def group_of_rows(tmp_path, *rows, **options):
    (group,) = data.load_groups(write(tmp_path / "m.jsonl", *rows), "all", **options)
    return group


@pytest.mark.parametrize("name", MAPS)
def test_a_map_of_options_gives_the_class_of_every_option(tmp_path, name):
    row = {**ROW, "options_map": MAPS[name], "selections": None}
    group = group_of_rows(tmp_path, row)
    assert set(group.options) == set(ALL)
    assert {(r.belief, r.text) for r in group.responses} == set(zip(ALL, ANSWERS))


def test_without_a_map_shares_that_fit_one_option_give_its_class(tmp_path):
    """As the released files are: their options_map repeats the options, in the options' order."""
    for options_map in (WORDS, None):
        group = group_of_rows(tmp_path, {**ROW, "options_map": options_map})
        assert group.options == tuple(ALL)
    probs = (0.2, 0.2, 0.1, 0, 0.4, 0.1)  # in the order of the classes
    row = {**ROW, "selections": [0.1, 0.4, 0.1, 0.2, 0.2]}
    assert options_of_rows([row], probs, data.CLASSES) == [Belief("4", "Good"), Belief("2", "Bad")]


def test_other_rows_of_the_prompt_name_classes_too(tmp_path):
    row = {**ROW, "selections": None}
    other = {
        **row,
        "accept_response": ANSWERS[0],
        "accept_choice": "Very good",
        "accept_choice_id": 5,
    }
    group = group_of_rows(tmp_path, row, other)
    assert group.options == (ALL[0], ALL[1], ALL[2]) and group.pairs == ((0, 1), (2, 1))


def test_a_position_that_nothing_confirms_is_no_class(tmp_path):
    six = ["Very good", "Good", "So so", "Bad", "Very bad", "No opinion"]
    row = {**ROW, "options": six, "options_map": six, "selections": None, "answers": None}
    group = group_of_rows(tmp_path, row)
    assert group.options == (Belief("4", "Good"), Belief("2", "Bad"))


def test_answers_of_all_options_stand_behind_those_of_the_pairs(tmp_path):
    group = group_of_rows(tmp_path, ROW)
    assert [r.text for r in group.responses[:2]] == ANSWERS[1:3] and group.pairs == ((0, 1),)
    assert len(group.responses) == 5 and {r.belief for r in group.responses} == set(ALL)
    share_of = dict(zip(LABELS, SHARES))
    assert [r.reward for r in group.responses] == pytest.approx(
        [10 * share_of[r.belief.label] for r in group.responses]
    )
    assert group.question == "How is it going?"
    (pair,) = data.view([group], "conditioned")
    assert pair.columns == (0, 1)
    named = {**ROW, "answers": dict(zip(WORDS, ANSWERS))}
    assert group_of_rows(tmp_path, named).responses == group.responses


@pytest.mark.parametrize("answers", [None, [], ANSWERS[:2], "none", [None] * 5, 3, {"x": "y"}])
def test_rows_without_usable_answers_are_read_as_ever(tmp_path, answers):
    group = group_of_rows(tmp_path, {**ROW, "answers": answers})
    assert [r.text for r in group.responses] == ANSWERS[1:3] and group.options == tuple(ALL)


@pytest.mark.parametrize("options", [None, "x", [1, 2], {"a": 1}, [None]])
def test_rows_without_usable_options_are_read_as_ever(tmp_path, options):
    group = group_of_rows(tmp_path, {**ROW, "options": options})
    assert len(group.responses) == 2 and set(group.options) == {ALL[1], ALL[2]}


@pytest.mark.parametrize("classes", [["5", "4", "3", "2", "1", "0"], ["2", "0", "1", "5", "3", "4"]])
def test_options_keep_their_labels_in_any_order_of_the_classes(tmp_path, classes):
    group = group_of_rows(tmp_path, ROW, classes=classes)
    assert group.options == tuple(ALL)
    for response in group.responses:
        share = group.belief_probs[classes.index(response.belief.label)]
        assert response.reward == pytest.approx(10 * share)


def test_embedded_and_survey_data_name_their_options(tmp_path):
    group = data.load_groups("opinions/republican", "eval")[0]
    assert group.options == tuple(response.belief for response in group.responses)
    row = {"question": "Good?", "selections": "{'Chile': [0.25, 0.75]}", "options": "['Yes', 'No']"}
    (group,) = data.load_groups(write(tmp_path / "g.jsonl", row) + ":Chile", "all")
    assert group.options == (Belief("0", "Yes"), Belief("1", "No")) and group.question == "Good?"
