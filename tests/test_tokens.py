"""Tokens: spans are known by construction, what is cut is counted."""

from collections import Counter

import pytest
from data_helpers import GOOD, decode
from helpers import byte_tokenizer

import preference_datasets as data
from utils import UserError


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
