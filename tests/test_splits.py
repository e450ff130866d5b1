"""Held-out rows: whole prompts and whole questions, within a file and between those of a run."""

import hashlib
import json
import logging
import math

import pytest
from data_helpers import GOOD, OF_AUTHORS, splits_of, write
from hypothesis import given
from hypothesis import strategies as st

import preference_datasets as data
from groups.splits import Marker, numbers_of
from utils import UserError


def rows_of(prompts, repeats=1, **extra):
    """Rows of our own format, each prompt with several different ones."""
    rows = []
    for prompt in prompts:
        for i in range(repeats):
            responses = [{"text": f"a{i}", "reward": 2}, {"text": f"b{i}", "reward": 1}]
            rows.append({"prompt": prompt, "responses": responses, **extra})
    return rows


def prompts_in(path, split, **options):
    return {json.dumps(group.prompt) for group in data.load_groups(path, split, **options)}


BINARIZED = {"score_chosen": 8, "score_rejected": 5}
REPEATED = {  # one prompt in several rows, in the formats that do not merge them
    "own": rows_of([f"Question {i}?" for i in range(10)], 4),
    "messages": rows_of([[{"role": "user", "content": f"Question {i}?"}] for i in range(10)], 4),
    "ultrafeedback": [
        {
            "instruction": f"Question {i}?",
            "completions": [{"response": f"{k}", "overall_score": k}, {"response": "z", "overall_score": 9}],
        }
        for i in range(10)
        for k in range(4)
    ],
    "binarized": [
        {
            "prompt": "p",
            "chosen": [{"role": "user", "content": f"Q{i}"}, {"role": "assistant", "content": f"a{k}"}],
            "rejected": [{"role": "user", "content": f"Q{i}"}, {"role": "assistant", "content": "b"}],
            **BINARIZED,
        }
        for i in range(10)
        for k in range(4)
    ],
    "armorm": [
        {
            "prompt": f"Question {i}?",
            "all_generated_responses": [f"a{k}", "b"],
            "all_rm_scores": [0.1, 0.2],
        }
        for i in range(10)
        for k in range(4)
    ],
    "mmoqa with other probabilities": [
        {**OF_AUTHORS, "prompt": f"Question {i}?", "probabilities": [0, 0, 0.5, 0, 0.1 * k, 0]}
        for i in range(10)
        for k in range(1, 5)
    ],
}


@pytest.mark.parametrize("name", REPEATED)
def test_a_prompt_of_several_rows_is_held_out_whole(tmp_path, name):
    path = write(tmp_path / "r.jsonl", *REPEATED[name])
    for fraction in (0.05, 0.25, 0.5):
        trained, held = (prompts_in(path, split, eval_fraction=fraction) for split in ("train", "eval"))
        assert held and trained and not trained & held
        assert len(held) == math.ceil(10 * fraction)
    sizes = [len(data.load_groups(path, split, eval_fraction=0.25)) for split in ("train", "eval", "all")]
    assert sizes == [28, 12, 40]


@pytest.mark.parametrize("row", [rows_of(["x"])[0], {**OF_AUTHORS, "prompt": "x"}], ids=["own", "mmoqa"])
def test_phrasings_of_a_question_are_held_out_together(tmp_path, row):
    rows = [{**row, "prompt": f"{i}, in style {k}", "question": f"q{i}"} for k in range(5) for i in range(10)]
    path = write(tmp_path / "q.jsonl", *rows)
    trained, held = (data.load_groups(path, split, eval_fraction=0.2) for split in ("train", "eval"))
    assert len(held) == 10 and len(trained) == 40
    assert not {group.question for group in trained} & {group.question for group in held}


def test_prompts_that_several_questions_share_stay_on_one_side(tmp_path):
    rows = []
    for i in range(20):
        rows += rows_of([f"p{i}"], question=f"q{i // 2}") + rows_of([f"p{i}"], question=f"r{i}")
    path = write(tmp_path / "q.jsonl", *rows)
    trained, held = (data.load_groups(path, split, eval_fraction=0.2) for split in ("train", "eval"))
    assert len(held) == 8 and len(trained) == 32
    for of_group in (lambda g: g.prompt, lambda g: g.question):
        assert not set(map(of_group, trained)) & set(map(of_group, held))


@given(st.lists(st.text(min_size=1).filter(str.strip), unique=True, min_size=1), st.floats(0, 0.9))
def test_different_prompts_are_split_as_ever(prompts, fraction):
    """The split of rows whose prompts are all different, as it was when rows were held out."""
    of_prompts = [data.Group(prompt, prompt, ()) for prompt in prompts]
    hashes = [hashlib.sha256(json.dumps(prompt).encode()).hexdigest() for prompt in prompts]
    chosen = sorted(range(len(prompts)), key=hashes.__getitem__)[: math.ceil(fraction * len(prompts))]
    marks = Marker(of_prompts).marks()
    held = numbers_of(marks, "eval", fraction).tolist()
    assert held == sorted(chosen)
    assert numbers_of(marks, "train", fraction).tolist() == sorted(set(range(len(prompts))) - set(held))


# --- several data sets of one run ---------------------------------------------------------------------------


def test_what_one_file_holds_out_no_other_file_trains_on(tmp_path):
    prompts = [f"Question {i}?" for i in range(40)]
    one = write(tmp_path / "one.jsonl", *rows_of(prompts))
    others = [
        {"instruction": p, "completions": REPEATED["ultrafeedback"][0]["completions"]} for p in prompts[:25]
    ]
    two = write(tmp_path / "two.jsonl", *others)
    splits = splits_of(f"datasets=[{one},{two}]", "eval_fraction=0.2", loss="swepo")

    def words(group):
        return group.prompt if isinstance(group.prompt, str) else group.prompt[0]["content"]

    trained, held = ({words(group) for group in splits[name].groups} for name in ("train", "eval"))
    assert held and trained and not trained & held
    assert sum(len(prompts_in(path, "eval", eval_fraction=0.2)) for path in (one, two)) == len(
        splits["eval"].groups
    )
    dropped = splits["train"].dropped
    left_out = sum(counts["prompt_is_held_out"] for counts in dropped.values())
    assert left_out == 40 + 25 - len(splits["eval"].groups) - len(splits["train"].groups) > 0


def test_eval_data_that_is_trained_on_is_counted_and_said(tmp_path, caplog):
    mine = write(tmp_path / "train.jsonl", *rows_of([f"Question {i}?" for i in range(9)]))
    other = write(tmp_path / "eval.jsonl", *rows_of(["Question 1?", " Question  2? ", "Another?"]))
    logging.getLogger("grove").propagate = True
    with caplog.at_level(logging.WARNING, "grove"):
        splits = splits_of(f"datasets=[{mine}]", f"eval_datasets=[{other}]")
    assert len(splits["train"].groups) == 9 and len(splits["eval"].groups) == 3
    assert "2 prompts of the eval split are trained on, too" in caplog.text
    assert splits["eval"].dropped[other]["prompts_in_train"] == 2
    assert "prompts_in_train" not in splits["train"].dropped[mine]


def test_a_file_of_one_prompt_says_why_nothing_is_left_to_train_on(tmp_path):
    path = write(tmp_path / "one.jsonl", *rows_of(["Always the same"], 9))
    with pytest.raises(UserError, match="split train is empty.* 9 prompts stand in the other split"):
        splits_of(f"datasets=[{path}]")


def test_rows_of_our_own_format_may_name_a_question(tmp_path):
    (group,) = data.load_groups(write(tmp_path / "q.jsonl", {**GOOD, "question": 7}), "all")
    assert group.question == "7"
    assert data.load_groups(write(tmp_path / "p.jsonl", GOOD), "all")[0].question == ""
