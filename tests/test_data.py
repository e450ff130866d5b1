"""Readers, views and tokens: what comes out, and what bad input gets."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from helpers import byte_tokenizer

import preference_datasets as data
import synthesize
from forest import tree_tokens
from utils import UserError

GOOD = {
    "id": "a",
    "prompt": "How is it?",
    "responses": [
        {"text": "Fine.", "reward": 7.5, "belief": {"class": "4", "text": "Good"}},
        {"text": "Bad!", "reward": 2, "belief": {"class": "2", "text": "Poor"}},
    ],
    "belief_probs": [0.1, 0, 0.3, 0, 0.6, 0],
}


def write(path, *rows):
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return str(path)


def test_the_embedded_opinions_are_complete():
    counts = synthesize.check_opinions()
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
    assert synthesize.repeated_words("Somewhat favorable", "A favorable view.") == {"favorable"}
    assert synthesize.repeated_words("No", "No way.") and not synthesize.repeated_words(
        "No", "There is no way."
    )
    assert not synthesize.repeated_words("About the right amount", "They found the right balance.")


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
    held_out = {
        g.prompt for s in ("eval", "test", "test_questions") for g in data.load_groups(f"opinions/{group}", s)
    }
    assert not held_out & {g.prompt for g in groups}


def test_questions_of_the_question_split_are_in_no_other_split():
    names = {
        s: {g.id.split("/")[0] for g in data.load_groups("opinions/republican", s)}
        for s in data.OPINION_SPLITS
    }
    assert names["train"] == names["eval"] == names["test"] and len(names["train"]) == 39
    assert len(names["test_questions"]) == 10 and not names["test_questions"] & names["train"]


def test_pairs_follow_the_group_and_the_seed():
    group = data.parse_group(GOOD, "here")
    pairs = data.draw_pairs(group, data.CLASSES, 4000, seed=1)
    assert np.mean([w == 0 for w, _ in pairs]) == pytest.approx(
        0.6 / 0.9, abs=0.03
    )  # among the beliefs that have an answer
    assert (
        pairs
        == data.draw_pairs(group, data.CLASSES, 4000, seed=1)
        != data.draw_pairs(group, data.CLASSES, 4000, seed=2)
    )


def test_views():
    group = data.parse_group({**GOOD, "pairs": [[1, 0], [0, 1]]}, "here")
    assert data.view([group], "target") == [data.Example(0, (1,), False), data.Example(0, (0,), False)]
    assert (
        data.view([group], "pairs")
        == data.view([group], "own_belief")
        == [data.Example(0, (1, 0), False), data.Example(0, (0, 1), False)]
    )
    assert data.view([group], "conditioned")[0] == data.Example(0, (1, 0), True)
    assert data.view([group], "pairs.best_vs_worst") == [data.Example(0, (0, 1), False, (7.5, 2))]
    assert [e.columns for e in data.view([group], "binary")] == [(1, None), (None, 0), (0, None), (None, 1)]
    with pytest.raises(UserError, match="responses=rankd: choose one of"):
        data.view([group], "rankd")


def ranked(*rewards, **extra):
    return data.parse_group(
        {"prompt": "p", "responses": [{"text": str(i), "reward": r} for i, r in enumerate(rewards)], **extra},
        "here",
    )


def test_views_by_reward():
    columns = lambda group, name, seed=0: [e.columns for e in data.view([group], name, seed)]  # noqa: E731
    group = ranked(1, 5, 3, 5)
    assert columns(group, "ranked") == [(1, 3, 2, 0)]
    assert columns(group, "pairs.best_vs_worst") == columns(group, "pairs") == [(1, 0)]
    assert columns(group, "pairs.best_vs_rest") == [(1, 2), (1, 0)]  # the tie is no preference
    assert columns(group, "pairs.all") == [(1, 2), (1, 0), (3, 2), (3, 0), (2, 0)]
    assert columns(group, "target") == [(1,)]
    assert columns(group, "binary") == [(None, 0), (1, None), (None, 2), (3, None)]  # the mean is 3.5
    drawn = [columns(group, "pairs.best_vs_random", seed) for seed in range(20)]
    assert {p for (p,) in drawn} == {(1, 2), (1, 0)} and columns(group, "pairs.best_vs_random", 3) == drawn[3]


def test_equal_rewards_are_left_out_and_counted():
    dropped = Counter()
    assert len(
        data.view([ranked(2, 2, 2), ranked(1, 2)], "ranked", dropped=dropped)
    ) == 1 and dropped == Counter(equal_rewards=1)
    with pytest.raises(
        UserError, match="here: field responses: responses=ranked needs two or more responses"
    ):
        data.view([ranked(1)], "ranked")
    with pytest.raises(UserError, match="needs a reward on each"):
        data.view(
            [
                data.parse_group(
                    {"prompt": "p", "responses": [{"text": "a"}, {"text": "b", "reward": 1}]}, "here"
                )
            ],
            "pairs.all",
        )


def decode(ids):
    return byte_tokenizer().decode(list(ids))


def test_spans_are_known_by_construction():
    row = {
        **GOOD,
        "responses": [
            {"text": "a > b, 4<x>", "belief": {"class": "4", "text": "Good"}},
            {"text": "no", "belief": {"class": "2", "text": "Poor"}},
        ],
    }
    group = data.parse_group(row, "here")
    limits = data.Limits(200, 100)
    (conditioned,) = data.tokenize([group], [data.Example(0, (0, 1), True)], byte_tokenizer(), limits)
    assert decode(conditioned.belief) == "4<Good"  # the closing > belongs to the answer
    assert [decode(a) for a in conditioned.answers] == [">a > b, 4<x><eos>", ">no<eos>"]
    (own,) = data.tokenize([group], [data.Example(0, (0, 1), False)], byte_tokenizer(), limits)
    assert own.belief == () and [decode(a) for a in own.answers] == [
        "4<Good>a > b, 4<x><eos>",
        "2<Poor>no<eos>",
    ]
    assert own.is_majority is True and own.class_probs == tuple(GOOD["belief_probs"])


def test_a_class_token_alone_never_merges_with_the_answer():
    row = {
        "prompt": "A film",
        "responses": [
            {"text": "10 out of 10", "belief": {"class": "5"}},
            {"text": "meh", "belief": {"class": "3"}},
        ],
    }
    (tree,) = data.tokenize(
        [data.parse_group(row, "here")],
        [data.Example(0, (0, 1), True)],
        byte_tokenizer(),
        data.Limits(50, None),
    )
    assert decode(tree.belief) == "5" and decode(tree.answers[0]) == "10 out of 10<eos>"


def test_truncation_cuts_prompt_then_response_and_counts():
    group = data.parse_group(
        {"prompt": "p" * 30 + "END", "responses": [{"text": "r" * 40}, {"text": "short"}]}, "here"
    )
    audit = Counter()
    (tree,) = data.tokenize(
        [group], [data.Example(0, (0, 1), False)], byte_tokenizer(), data.Limits(20, 10), audit=audit
    )
    assert decode(tree.prompt) == "pppppppEND" and [len(a) for a in tree.answers] == [10, 6]
    assert (
        decode(tree.answers[0]) == "r" * 10 and decode(tree.answers[1]) == "short<eos>"
    )  # a cut response gets no forced EOS
    assert audit == Counter(prompts_truncated=1, responses_truncated=1)
    (tree,) = data.tokenize(
        [group], [data.Example(0, (0,), False)], byte_tokenizer(), data.Limits(20, 10, "keep_start")
    )
    assert decode(tree.prompt) == "p" * 10


def test_sharing_on_the_embedded_data():
    groups = data.load_groups("opinions/republican", "eval")
    examples = data.view(groups, "conditioned")
    trees = data.tokenize(groups, examples, byte_tokenizer(), data.Limits(512, 256))
    found = data.audit_groups(groups, examples, trees)
    assert found["prompts"] == 39 and found["examples"] == 39 * 16
    assert (
        found["tokens_shared"]
        == sum(tree_tokens(trees[i : i + 16]) for i in range(0, len(trees), 16))
        < found["tokens_one_by_one"] / 5
    )


def test_files_hold_out_an_eval_split(tmp_path):
    import pyarrow
    import pyarrow.parquet

    rows = [{**GOOD, "id": str(i), "prompt": f"Question {i}?"} for i in range(50)]
    path = write(tmp_path / "mine.jsonl", *rows)
    train, held = (data.load_groups(path, s) for s in ("train", "eval"))
    assert len(train) == 47 and len(held) == 3 and not {g.id for g in train} & {g.id for g in held}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "mine.parquet")
    again = data.load_groups(str(tmp_path / "mine.parquet"), "eval")
    assert [g._replace(where="", dataset="") for g in again] == [
        g._replace(where="", dataset="") for g in held
    ]
    (tmp_path / "mine.json").write_text(json.dumps(rows))
    assert [g.id for g in data.load_groups(str(tmp_path / "mine.json"), "eval")] == [g.id for g in held]


def test_the_authors_opinion_rows_become_groups(tmp_path):
    row = {
        "prompt": "How?",
        "accept_response": "good",
        "reject_response": "bad",
        "accept_choice": "Good",
        "reject_choice": "Poor",
        "accept_choice_id": 4,
        "reject_choice_id": 2,
        "probabilities": [0, 0, 0.5, 0, 0.5, 0],
    }
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
    kept = data.load_groups(
        write(tmp_path / "z.jsonl", row, {**row, "probabilities": [0] * 6}, same), "all", dropped=dropped
    )
    assert len(kept) == 1 and dropped == Counter(
        rows_read=3, all_zero_probabilities=1, preferred_equal_to_rejected=1
    )
    for change, message in (
        ({"prompt": None}, "field prompt: missing"),
        ({"accept_choice_id": 9}, "field accept_choice_id: 9 is none of"),
        ({"probabilities": [0.5, -0.5, 0, 0, 1, 0]}, "not 6 non-negative"),
        ({"probabilities": [1]}, "not 6 non-negative"),
    ):
        with pytest.raises(UserError, match=f"row 2: {message}" if message.startswith("field") else message):
            data.load_groups(write(tmp_path / "b.jsonl", row, {**row, **change}), "all")


def test_several_responses_of_a_class_all_take_part():
    row = {
        **GOOD,
        "responses": [*GOOD["responses"], {"text": "Splendid.", "belief": {"class": "4", "text": "Good"}}],
    }
    pairs = data.draw_pairs(data.parse_group(row, "here"), data.CLASSES, 200, seed=0)
    assert {w for w, _ in pairs} == {0, 1, 2}


def without(key):
    return {k: v for k, v in GOOD.items() if k != key}


@pytest.mark.parametrize(
    "row,message",
    [
        (without("prompt"), "row 2: field prompt: missing or empty"),
        ({**GOOD, "prompt": [{"role": "user"}]}, "field prompt: messages need a role and a content"),
        ({**GOOD, "belief_probs": [0.1, 0.9]}, "field belief_probs: has 2 entries for 6 classes"),
        ({**GOOD, "belief_probs": [-0.1, 0.2, 0.3, 0, 0.6, 0]}, "negative or no number"),
        ({**GOOD, "belief_probs": [0.1, 0, 0.3, 0, 0.7, 0]}, "sums to 1.1; make it sum to 1"),
        ({**GOOD, "responses": []}, "field responses: missing or empty"),
        ({**GOOD, "responses": [{"text": "  "}]}, r"field responses\[0\].text: missing or empty"),
        ({**GOOD, "responses": [{"text": "x", "reward": float("nan")}]}, "no finite number"),
        (
            {**GOOD, "responses": [{"text": "x", "belief": {"class": "9"}}]},
            r"field responses\[0\].belief: .* has no class among 0, 1, 2, 3, 4, 5",
        ),
        (
            {**GOOD, "responses": [{"text": "x"}, {"text": "y"}]},
            "belief_probs is given but a response has no belief",
        ),
        ({**GOOD, "pairs": [[0, 7]]}, r"field pairs: \[0, 7\] is no"),
        ({**GOOD, "pairs": [[1, 1]]}, r"field pairs: \[1, 1\] is no"),
        ({**GOOD, "pairs": [[0, 1], [1, 0], [0, 1]]}, r"field pairs: \[0, 1\] stands there twice"),
        ({**GOOD, "prompts": "x"}, "field prompts: unknown; known fields are"),
        ("{half a row", "row 2: not valid JSON"),
        ("[1]", "row 2: not a JSON object"),
    ],
)
def test_a_bad_row_is_named(tmp_path, row, message):
    with pytest.raises(UserError, match=message):
        data.load_groups(write(tmp_path / "bad.jsonl", GOOD, row), "train")


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


def test_class_labels_must_be_single_tokens():
    tokenizer = byte_tokenizer()
    assert data.class_token_ids(tokenizer, ["0", "5"]) == tuple(tokenizer("05")["input_ids"])
    with pytest.raises(UserError, match="'yes' is no single token"):
        data.class_token_ids(tokenizer, ["yes", "n"])


def test_a_prompt_that_leaves_no_room():
    group = data.parse_group({**GOOD, "prompt": "p" * 30}, "file.jsonl, row 3")
    with pytest.raises(
        UserError,
        match="file.jsonl, row 3: field prompt: 30 tokens leave no room for a response within max_length=30",
    ):
        data.tokenize([group], [data.Example(0, (0,), False)], byte_tokenizer(), data.Limits(30, None))


def test_message_prompts_go_through_the_chat_template():
    tokenizer = byte_tokenizer()
    group = data.parse_group(
        {"prompt": [{"role": "user", "content": "Hi"}], "responses": [{"text": "Yo"}]}, "here"
    )
    (tree,) = data.tokenize([group], [data.Example(0, (0,), False)], tokenizer, data.Limits(50, None))
    assert decode(tree.prompt) == "\n\nHuman: Hi\n\nAssistant:"  # no template: the DPO repository's turns
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(
        UserError, match="here: field prompt messages: the chat template refuses them .roles must alternate"
    ):
        data.tokenize([group], [data.Example(0, (0,), False)], tokenizer, data.Limits(50, None))
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}[bot]{% endif %}"
    )
    (tree,) = data.tokenize([group], [data.Example(0, (0,), False)], tokenizer, data.Limits(50, None))
    assert decode(tree.prompt) == "[user]Hi[bot]" and decode(tree.answers[0]) == "Yo<eos>"


def test_a_text_with_the_eos_or_bos_token_inside_is_refused():
    tokenizer, limits = byte_tokenizer(), data.Limits(90, None)
    for prompt, text, message in (
        ("a<eos>b", "r", "here: field prompt text: holds the tokenizer's eos_token <eos>"),
        ("x<bos>a", "r", "holds the tokenizer's bos_token <bos>"),
        ("a", "r<eos>", "here: field responses: text: holds the tokenizer's eos_token"),
        ([{"role": "user", "content": "<eos>"}], "r", "here: field prompt text: holds"),
    ):
        with pytest.raises(UserError, match=message):
            group = data.parse_group({"prompt": prompt, "responses": [{"text": text}]}, "here")
            data.tokenize([group], [data.Example(0, (0,), False)], tokenizer, limits)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.content }}<eos>{% endfor %}"  # a template may end turns with it
    )
    chat = data.parse_group(
        {"prompt": [{"role": "user", "content": "Hi"}], "responses": [{"text": "Yo"}]}, "here"
    )
    assert (
        decode(data.tokenize([chat], [data.Example(0, (0,), False)], tokenizer, limits)[0].prompt)
        == "Hi<eos>"
    )


def test_examples_without_room_are_left_out_and_counted():
    groups = [
        data.parse_group({"prompt": "p" * n, "responses": [{"text": "answer"}]}, "here") for n in (30, 5)
    ]
    audit = Counter()
    (tree,) = data.tokenize(
        groups,
        [data.Example(i, (0,), False) for i in (0, 1)],
        byte_tokenizer(),
        data.Limits(10, None),
        audit=audit,
    )
    assert tree.group == 1 and tree.truncated == (True,) and len(tree.answers[0]) == 5
    assert audit == Counter(examples_without_room=1, responses_truncated=1)


def test_the_whole_group_under_one_belief():
    group = data.parse_group(
        {
            **GOOD,
            "pairs": [[1, 0], [0, 1]],
            "responses": [
                *GOOD["responses"],
                {"text": "Good, too.", "belief": {"class": "4", "text": "Good"}},
            ],
        },
        "here",
    )
    assert data.view([group], "conditioned.all") == [
        data.Example(0, (1, 0, 2), True, (1.0, 0.0, 0.0)),
        data.Example(0, (0, 1, 2), True, (1.0, 0.0, 1.0)),
    ]
    tree = data.tokenize(
        [group], data.view([group], "conditioned.all"), byte_tokenizer(), data.Limits(90, None)
    )[1]
    assert decode(tree.belief) == "4<Good" and len(tree.answers) == 3 and tree.rewards == (1.0, 0.0, 1.0)


def test_shots_come_from_other_prompts_and_follow_the_seed():
    donors = [
        data.parse_group({**GOOD, "id": str(i), "prompt": f"<Q>Question {i}?<A>"}, "here") for i in range(6)
    ]
    shown = data.with_shots(donors, donors, 2, seed=1)
    for group, plain in zip(shown, donors):
        assert group.prompt.endswith("\n\n" + plain.prompt) and group.prompt.count("<A>4<Good>Fine.\n\n") == 2
        assert group.prompt.count(plain.prompt) == 1
    assert shown == data.with_shots(donors, donors, 2, seed=1) != data.with_shots(donors, donors, 2, seed=2)
    assert data.with_shots(donors, donors, 0, seed=1) == donors
    chats = [d._replace(prompt=[{"role": "user", "content": d.prompt}]) for d in donors]
    assert [m["role"] for m in data.with_shots(chats, chats, 2, seed=1)[0].prompt] == [
        "user",
        "assistant",
    ] * 2 + ["user"]
    with pytest.raises(UserError, match="6 shots need more than 6 different train prompts"):
        data.with_shots(donors, donors, 6, seed=1)
    with pytest.raises(UserError, match="shots mix messages and plain texts"):
        data.with_shots(donors, chats, 2, seed=1)


def test_mismatched_pairs_are_fixed_by_the_seed():
    groups = [data.parse_group({**GOOD, "prompt": f"Question {i}?"}, "here") for i in range(4)]
    trees = data.tokenize(
        groups, [data.Example(i, (0, None), False) for i in range(4)], byte_tokenizer(), data.Limits(40, None)
    )
    made = data.mismatch(trees, trees, 0, 20)
    assert made == data.mismatch(trees, trees, 0, 20) and [m.prompt for m in made] == [
        t.prompt for t in trees
    ]
    assert all(len(m.prompt) + len(m.answers[0]) <= 20 and len(m.answers) == 1 for m in made)
    with pytest.raises(UserError, match="responses to two or more different prompts"):
        data.mismatch(trees, trees[:1], 0, 20)


CHAT = [{"role": "user", "content": "How?"}]
TURN = lambda text: [*CHAT, {"role": "assistant", "content": text}]  # noqa: E731
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
                "chosen": TURN("a"),
                "rejected": TURN("b"),
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
                "chosen": TURN("a"),
                "rejected": TURN("a"),
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
    assert dropped == drops + Counter(rows_read=len(rows))
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
        ("binarized", {"chosen": "x"}, "row 2: fields chosen and rejected: need lists"),
        (
            "binarized",
            {"rejected": [{"role": "user", "content": "?"}, TURN("x")[-1]]},
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
    (tree,) = data.tokenize(
        [group], data.view([group], "conditioned"), byte_tokenizer(), data.Limits(60, None)
    )
    assert decode(tree.belief) == "5" and decode(tree.answers[0]) == "10 of 10<eos>"
    (group,) = data.load_groups(write(tmp_path / "c.jsonl", {**row, "context": "Seen before."}), "all")
    assert group.prompt == "Seen before.<Q>A film<A>"


def test_survey_data_of_countries(tmp_path):
    import csv

    printed = "defaultdict(<class 'list'>, {'Chile (national)': [0.25, 0.75], 'Peru': [0.0, 0.0]})"
    with (tmp_path / "g.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["question", "selections", "options", "source"])
        writer.writeheader()
        writer.writerow(
            {"question": "Good?", "selections": printed, "options": "['Yes', 'No']", "source": "S"}
        )
    (group,) = data.load_groups(f"{tmp_path}/g.csv:Chile (national)", "all")
    assert (
        group.prompt == "<Q>Good?\n0: Yes\n1: No<A>"
        and group.belief_probs == (0.25, 0.75, 0, 0, 0, 0)
        and len(group.pairs) == 16
    )
    (tree, *_) = data.tokenize(
        [group], data.view([group], "conditioned"), byte_tokenizer(), data.Limits(60, None)
    )
    assert decode(tree.belief) in ("0<Yes", "1<No") and decode(tree.answers[0]) == "><eos>"
    dropped = Counter()
    assert data.load_groups(f"{tmp_path}/g.csv:Peru", "all", dropped=dropped) == []
    assert dropped == Counter(rows_read=1, all_zero_probabilities=1)
    for name, message in (
        ("g.csv", "no country is named; give one after a colon, .*Chile"),
        ("g.csv:Mars", "no country Mars"),
    ):
        with pytest.raises(UserError, match=message):
            data.load_groups(f"{tmp_path}/{name}", "all")
    with pytest.raises(UserError, match="no members to choose from; remove :x"):
        data.load_groups(write(tmp_path / "own.jsonl", GOOD) + ":x", "all")


def test_hub_splits_go_by_their_usual_names(monkeypatch):
    import datasets

    rows = [{**GOOD, "id": str(i), "prompt": f"Question {i}?"} for i in range(40)]
    for present, wanted, held_out in (
        (["train", "validation"], {"train": "train", "eval": "validation"}, False),
        (["train_prefs", "test_prefs", "train_gen"], {"train": "train_prefs", "eval": "test_prefs"}, False),
        (["train"], {"train": "train", "eval": "train"}, True),
    ):
        monkeypatch.setattr(datasets, "get_dataset_split_names", lambda name, present=present: present)
        asked = []
        monkeypatch.setattr(
            datasets, "load_dataset", lambda name, split, asked=asked: asked.append(split) or rows
        )
        sizes = {s: len(data.load_groups("owner/name", s)) for s in wanted}
        assert asked == list(wanted.values()) and sizes == (
            {"train": 38, "eval": 2} if held_out else {"train": 40, "eval": 40}
        )
    with pytest.raises(UserError, match="data set owner/name: no split dev; it has train"):
        data.load_groups("owner/name", "dev")
    monkeypatch.setattr(
        datasets, "get_dataset_split_names", lambda name: 1 / 0 if name != "Anthropic/hh-rlhf" else ["train"]
    )
    data.load_groups("hh", "train")


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


def test_unreadable_files(tmp_path):
    (tmp_path / "half.json").write_text('[{"prompt": "a"')
    (tmp_path / "object.json").write_text('{"prompt": "a"}')
    (tmp_path / "cut.parquet").write_bytes(b"PAR1abc")
    (tmp_path / "latin.jsonl").write_bytes(b'{"prompt": "\xe9"}')
    for name, message in (
        ("half.json", "not valid JSON"),
        ("object.json", "holds no list"),
        ("cut.parquet", "not a readable parquet file"),
        ("latin.jsonl", "not UTF-8 text at byte 12"),
    ):
        with pytest.raises(UserError, match=message):
            data.load_groups(str(tmp_path / name), "train")


def test_the_audit_names_what_it_found(tmp_path):
    rows = [
        {"prompt": "p", "responses": [{"text": "same", "reward": 2}, {"text": "same", "reward": 1}]},
        {"prompt": "p", "responses": [{"text": "a", "reward": 1}, {"text": "b", "reward": 1}]},
        {
            "prompt": "q",
            "responses": [{"text": "a", "reward": 3}, {"text": "b", "reward": 1}, {"text": "b", "reward": 1}],
        },
    ]
    counts = Counter()
    groups = data.load_groups(write(tmp_path / "a.jsonl", *rows), "all", dropped=counts)
    audit = data.audit_groups(groups, data.view(groups, "pairs.all", dropped=counts), counts=counts)
    assert audit["rows_read"] == 3 and audit["duplicate_prompts"] == 1 and audit["duplicate_responses"] == 1
    assert (
        audit["preferred_equal_to_rejected"] == 1
        and audit["equal_rewards"] == 1
        and audit["some_equal_rewards"] == 2
    )
    assert (
        audit["dropped"] == {"equal_rewards": 1}
        and audit["reward"]["max"] == 3
        and audit["answer_characters"]["max"] == 4
    )
