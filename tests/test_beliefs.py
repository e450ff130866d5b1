"""Data with p*: the embedded opinions, the GDPO authors' files, surveys of many countries."""

import csv
from collections import Counter

import numpy as np
import pytest
from data_helpers import GOOD, OF_AUTHORS, decode, group_of, without_notes, write
from helpers import byte_tokenizer

import preference_datasets as data
import synthesis
from utils import UserError


def test_the_embedded_opinions_are_complete():
    counts = synthesis.check_opinions()
    assert counts == {
        "questions": 49,
        "prompts": 245,
        "answers": 765,
        "train": 117,
        "eval": 39,
        "test": 39,
        "test_questions": 50,
    }


def test_the_check_sees_a_repeated_word_and_an_own_language_answer():
    assert synthesis.repeated_words("Somewhat favorable", "A favorable view.") == {"favorable"}
    assert synthesis.repeated_words("No", "No way.")
    assert not synthesis.repeated_words("No", "There is no way.")
    assert not synthesis.repeated_words("About the right amount", "They found the right balance.")


@pytest.mark.parametrize(
    "group,prompts",
    [
        ("republican", 117),
        ("democrat", 117),
        ("independent", 117),
        ("strong_democrat", 84),
        ("strong_republican", 84),
    ],
)
def test_opinion_groups(group, prompts):
    groups = data.load_groups(f"opinions/{group}", "train")
    assert len(groups) <= 117 and abs(len(groups) - prompts) <= 12
    assert all(sum(g.belief_probs) == pytest.approx(1) and len(g.pairs) == 16 for g in groups)
    prompts_of_train = {g.prompt for g in groups}
    for split in ("eval", "test", "test_questions"):
        held_out = {g.prompt for g in data.load_groups(f"opinions/{group}", split)}
        assert held_out and not held_out & prompts_of_train


def test_questions_of_the_question_split_are_in_no_other_split():
    names = {}
    for split in data.OPINION_SPLITS:
        names[split] = {g.id.split("/")[0] for g in data.load_groups("opinions/republican", split)}
    assert names["train"] == names["eval"] == names["test"] and len(names["train"]) == 39
    assert len(names["test_questions"]) == 10 and not names["test_questions"] & names["train"]


def test_pairs_follow_the_group_and_the_seed():
    group = group_of(GOOD)
    pairs = data.draw_pairs(group, data.CLASSES, 4000, seed=1)
    share = 0.6 / 0.9  # among the beliefs that have an answer
    assert np.mean([w == 0 for w, _ in pairs]) == pytest.approx(share, abs=0.03)
    assert pairs == data.draw_pairs(group, data.CLASSES, 4000, seed=1)
    assert pairs != data.draw_pairs(group, data.CLASSES, 4000, seed=2)


def test_several_responses_of_a_class_all_take_part():
    third = {"text": "Splendid.", "belief": {"class": "4", "text": "Good"}}
    group = group_of({**GOOD, "responses": [*GOOD["responses"], third]})
    pairs = data.draw_pairs(group, data.CLASSES, 200, seed=0)
    assert {w for w, _ in pairs} == {0, 1, 2}


def test_the_authors_opinion_rows_become_groups(tmp_path):
    row = {"prompt": "How?", **OF_AUTHORS}
    other = {
        **row,
        "accept_response": "bad",
        "reject_response": "good",
        "accept_choice": "Poor",
        "reject_choice": "Good",
        "accept_choice_id": 2,
        "reject_choice_id": 4,
    }
    (group,) = data.load_groups(write(tmp_path / "m.jsonl", row, other), "all")
    assert group.prompt == "<Q>How?<A>" and group.pairs == ((0, 1), (1, 0)) and len(group.responses) == 2
    dropped = Counter()
    same = {**row, "reject_response": "good", "reject_choice": "Good", "reject_choice_id": 4}
    path = write(tmp_path / "z.jsonl", row, {**row, "probabilities": [0] * 6}, same)
    assert len(data.load_groups(path, "all", dropped=dropped)) == 1
    assert dropped == Counter(rows_read=3, all_zero_probabilities=1, preferred_equal_to_rejected=1)
    for change, message in (
        ({"prompt": None}, "row 2: field prompt: missing"),
        ({"accept_choice_id": 9}, "row 2: field accept_choice_id: 9 is none of"),
        ({"probabilities": [0.5, -0.5, 0, 0, 1, 0]}, "not 6 non-negative"),
        ({"probabilities": [1]}, "not 6 non-negative"),
    ):
        with pytest.raises(UserError, match=message):
            data.load_groups(write(tmp_path / "b.jsonl", row, {**row, **change}), "all")


def test_movie_reviews_and_contexts(tmp_path):
    row = {
        "prompt": "A film",
        "accept_response": "10 of 10",
        "reject_response": "meh",
        "probabilities": [0, 0, 0.5, 0, 0, 0.5],
        "accept_choice_id": 5,
        "reject_choice_id": 2,
    }
    (group,) = data.load_groups(write(tmp_path / "m.jsonl", row), "all")
    examples = data.view([group], "conditioned")
    (tree,) = data.tokenize([group], examples, byte_tokenizer(), data.Limits(60, None))
    assert decode(tree.belief) == "5" and decode(tree.answers[0]) == "10 of 10<eos>"
    (group,) = data.load_groups(write(tmp_path / "c.jsonl", {**row, "context": "Seen before."}), "all")
    assert group.prompt == "Seen before.<Q>A film<A>"


def test_survey_data_of_countries(tmp_path):
    printed = "defaultdict(<class 'list'>, {'Chile (national)': [0.25, 0.75], 'Peru': [0.0, 0.0]})"
    with (tmp_path / "g.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["question", "selections", "options", "source"])
        writer.writeheader()
        writer.writerow(
            {"question": "Good?", "selections": printed, "options": "['Yes', 'No']", "source": "S"}
        )
    (group,) = data.load_groups(f"{tmp_path}/g.csv:Chile (national)", "all")
    assert group.prompt == "<Q>Good?\n0: Yes\n1: No<A>" and len(group.pairs) == 16
    assert group.belief_probs == (0.25, 0.75, 0, 0, 0, 0)
    examples = data.view([group], "conditioned")
    tree, *_ = data.tokenize([group], examples, byte_tokenizer(), data.Limits(60, None))
    assert decode(tree.belief) in ("0<Yes", "1<No") and decode(tree.answers[0]) == "><eos>"
    dropped = Counter()
    assert data.load_groups(f"{tmp_path}/g.csv:Peru", "all", dropped=dropped) == []
    assert without_notes(dropped) == Counter(rows_read=1, all_zero_probabilities=1)
    for name, message in (
        ("g.csv", "no country is named; give one after a colon, .*Chile"),
        ("g.csv:Mars", "g.csv: no group Mars; there are Chile .national., Peru"),
    ):
        with pytest.raises(UserError, match=message):
            data.load_groups(f"{tmp_path}/{name}", "all")
    with pytest.raises(UserError, match="no members to choose from; remove :x"):
        data.load_groups(write(tmp_path / "own.jsonl", GOOD) + ":x", "all")
