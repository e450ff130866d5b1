"""Readers of preference data: rows with the data sets' own fields become groups."""

from collections import Counter
from pathlib import Path

import pytest
from data_helpers import without_notes, write
from helpers import byte_tokenizer

import preference_datasets as data
from utils import UserError

CHAT = [{"role": "user", "content": "How?"}]


def turn(text):
    return [*CHAT, {"role": "assistant", "content": text}]


READERS = {  # name: rows with the data set's own fields; what they become; what is dropped
    "ultrafeedback": (
        [
            {
                "source": "x",
                "instruction": "How?",
                "completions": [
                    {"response": "a", "overall_score": 7.5, "fine-grained_score": 4.0, "annotations": {}},
                    {"response": "b", "overall_score": "N/A"},
                    {"response": "c", "overall_score": 3},
                    {"response": "a", "overall_score": 2},
                    {"response": "", "overall_score": 2},
                ],
            },
            {"source": "x", "instruction": "One?", "completions": [{"response": "a", "overall_score": 7.5}]},
        ],
        [(CHAT, [("a", 7.5), ("c", 3.0)], ())],
        Counter(
            responses_without_score=1,
            repeated_responses=1,
            empty_responses=1,
            prompts_with_fewer_than_two_responses=1,
        ),
    ),
    "armorm": (
        [
            {
                "prompt_id": "1",
                "prompt": "How?",
                "all_generated_responses": ["a", "b", "a"],
                "all_rm_scores": [0.1, 0.3, 0.1],
                "chosen": [],
                "rejected": [],
            }
        ],
        [(CHAT, [("a", 0.1), ("b", 0.3)], ())],
        Counter(repeated_responses=1),
    ),
    "binarized": (
        [
            {
                "prompt": "How?",
                "chosen": turn("a"),
                "rejected": turn("b"),
                "messages": [],
                "score_chosen": 8,
                "score_rejected": 5.5,
            },
            {
                "prompt": "How?",
                "chosen": CHAT,
                "rejected": CHAT,
                "messages": [],
                "score_chosen": 8,
                "score_rejected": 5.5,
            },
            {
                "prompt": "How?",
                "chosen": turn("a"),
                "rejected": turn("a"),
                "messages": [],
                "score_chosen": 8,
                "score_rejected": 8,
            },
        ],
        [(CHAT, [("a", 8.0), ("b", 5.5)], ())],
        Counter(without_assistant_turn=1, preferred_equal_to_rejected=1),
    ),
    "hh": (
        [
            {"chosen": "\n\nHuman: Hi\n\nAssistant: Yo", "rejected": "\n\nHuman: Hi\n\nAssistant: No"},
            {"chosen": "\n\nHuman: Hi\n\nAssistant: Yo", "rejected": "\n\nHuman: Hi\n\nAssistant: Nah"},
            {"chosen": "\n\nHuman: Hi\n\nAssistant: Yo", "rejected": "\n\nHuman: Ho\n\nAssistant: No"},
            {"chosen": "\n\nHuman: Hi\n\nAssistant: Yo", "rejected": "\n\nHuman: Hi\n\nAssistant:"},
        ],
        [("\n\nHuman: Hi\n\nAssistant:", [(" Yo", None), (" No", None), (" Nah", None)], ((0, 1), (0, 2)))],
        Counter(sides_without_a_common_prompt=1, empty_responses=1),
    ),
    "shp": (
        [
            {
                "history": "Hi",
                "human_ref_A": "a",
                "human_ref_B": "b",
                "labels": 0,
                "score_A": 2,
                "score_B": 4,
            },
            {
                "history": "Hi",
                "human_ref_A": "a",
                "human_ref_B": "b",
                "labels": 1,
                "score_A": 5,
                "score_B": 4,
            },
        ],
        [("\n\nHuman: Hi\n\nAssistant:", [(" b", 4.0), (" a", 2.0)], ((0, 1),))],
        Counter(score_ratio_below_2=1),
    ),
    "se": (
        [
            {
                "qid": 1,
                "question": "<p>Why &lt; 2?</p>\n<pre><code>x = 1\n</code></pre>",
                "answers": [
                    {"answer_id": 1, "text": "<p>A</p>\n<p>B</p>", "pm_score": 3},
                    {"answer_id": 2, "text": "C", "pm_score": 0},
                ],
            }
        ],
        [("\n\nHuman: Why < 2?\n\n<code>x = 1\n</code>\n\nAssistant:", [(" A\n\nB", 3.0), (" C", 0.0)], ())],
        Counter(),
    ),
}


@pytest.mark.parametrize("name", READERS)
def test_readers(tmp_path, name):
    rows, expected, drops = READERS[name]
    dropped = Counter()
    groups = data.load_groups(write(tmp_path / "rows.jsonl", *rows), "all", dropped=dropped)
    assert [(g.prompt, [(r.text, r.reward) for r in g.responses], g.pairs) for g in groups] == expected
    assert without_notes(dropped) == drops + Counter(rows_read=len(rows))
    assert {g.truncation for g in groups} == {"keep_start" if name in ("shp", "se") else "keep_end"}


@pytest.mark.parametrize(
    "name,change,message",
    [
        ("ultrafeedback", {"completions": "x"}, "row 2: field completions: is no list"),
        (
            "ultrafeedback",
            {"completions": [{"response": "a", "overall_score": float("inf")}]},
            "row 2: response 1: score inf is no finite",
        ),
        ("armorm", {"all_rm_scores": [1]}, "row 2: fields all_generated_responses and all_rm_scores"),
        ("binarized", {"chosen": "x"}, "row 2: field chosen: is a text, and format binarized needs messages"),
        (
            "binarized",
            {"rejected": [{"role": "user", "content": "?"}, turn("x")[-1]]},
            "have different prompts",
        ),
        ("hh", {"chosen": ""}, "row 2: field chosen: missing or empty"),
        ("shp", {"score_A": "x"}, "fields score_A, score_B, labels"),
        ("se", {"answers": [1]}, "row 2: field answers: is no list"),
    ],
)
def test_bad_rows_of_readers(tmp_path, name, change, message):
    row = READERS[name][0][0]
    with pytest.raises(UserError, match=message):
        data.load_groups(write(tmp_path / "rows.jsonl", row, {**row, **change}), "all")


SHARED = Path(__file__).parent.parent.parent / "shared" / "data"


@pytest.mark.skipif(
    not (SHARED / "lookalike").is_dir(),
    reason="files with the fields of the hub data sets lie beside the project",
)
@pytest.mark.parametrize(
    "file,count,view",
    [
        ("lookalike/mmoqa.jsonl", 2, "conditioned"),
        ("lookalike/movie_review.jsonl", 5, "conditioned"),
        ("lookalike/openbmb_ultrafeedback.jsonl", 14, "ranked"),
        ("lookalike/princeton_armorm.jsonl", 20, "ranked"),
        ("lookalike/ultrafeedback_binarized.jsonl", 19, "pairs"),
        ("lookalike/llm_global_opinions.csv:Germany", 100, "conditioned"),
        ("ranked/judged_train.jsonl", 484, "ranked"),
        ("ranked/judged_eval.jsonl", 77, "pairs.all"),
        ("ranked/ultrafeedback_pairs_400.jsonl", 357, "binary"),
    ],
)
def test_files_with_the_fields_of_the_hub_data_sets(file, count, view):
    dropped = Counter()
    groups = data.load_groups(str(SHARED / file), "all", dropped=dropped)
    examples = data.view(groups, view, dropped=dropped)
    assert len({e.group for e in examples}) >= count, dropped
    trees = data.tokenize(groups, examples, byte_tokenizer(), data.Limits(600, 300), audit=dropped)
    audit = data.audit_groups(groups, examples, trees, dropped)
    assert audit["rows_read"] > 0 and 0 <= audit["saved_by_sharing"] < 1 and audit["answer_tokens"]["min"] > 0
