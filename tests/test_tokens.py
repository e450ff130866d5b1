"""Tokens: spans are known by construction, what is cut is counted."""

from collections import Counter

import pytest
from data_helpers import GOOD, decode, group_of, tree_of
from helpers import byte_tokenizer

import preference_datasets as data
from groups import prompt_ids
from utils import UserError

CHAT = group_of({"prompt": [{"role": "user", "content": "Hi"}], "responses": [{"text": "Yo"}]})


def test_spans_are_known_by_construction():
    responses = [
        {"text": "a > b, 4<x>", "belief": {"class": "4", "text": "Good"}},
        {"text": "no", "belief": {"class": "2", "text": "Poor"}},
    ]
    group, limits = group_of({**GOOD, "responses": responses}), data.Limits(200, 100)
    conditioned = tree_of(group, (0, 1), limits, conditioned=True)
    assert decode(conditioned.belief) == "4<Good"  # the closing > belongs to the answer
    assert [decode(a) for a in conditioned.answers] == [">a > b, 4<x><eos>", ">no<eos>"]
    own = tree_of(group, (0, 1), limits)
    assert own.belief == ()
    assert [decode(a) for a in own.answers] == ["4<Good>a > b, 4<x><eos>", "2<Poor>no<eos>"]
    assert own.is_majority is True and own.class_probs == tuple(GOOD["belief_probs"])


def test_a_class_token_alone_never_merges_with_the_answer():
    responses = [
        {"text": "10 out of 10", "belief": {"class": "5"}},
        {"text": "meh", "belief": {"class": "3"}},
    ]
    group = group_of({"prompt": "A film", "responses": responses})
    tree = tree_of(group, (0, 1), data.Limits(50, None), conditioned=True)
    assert decode(tree.belief) == "5" and decode(tree.answers[0]) == "10 out of 10<eos>"


def test_truncation_cuts_prompt_then_response_and_counts():
    group = group_of({"prompt": "p" * 30 + "END", "responses": [{"text": "r" * 40}, {"text": "short"}]})
    audit = Counter()
    tree = tree_of(group, (0, 1), data.Limits(20, 10), audit=audit)
    assert decode(tree.prompt) == "pppppppEND" and [len(a) for a in tree.answers] == [10, 6]
    assert decode(tree.answers[0]) == "r" * 10  # a cut response gets no forced EOS
    assert decode(tree.answers[1]) == "short<eos>"
    assert audit == Counter(prompts_truncated=1, responses_truncated=1)
    tree = tree_of(group, (0,), data.Limits(20, 10, "keep_start"))
    assert decode(tree.prompt) == "p" * 10


def test_class_labels_must_be_single_tokens():
    tokenizer = byte_tokenizer()
    assert data.class_token_ids(tokenizer, ["0", "5"]) == tuple(tokenizer("05")["input_ids"])
    with pytest.raises(UserError, match="'yes' is no single token"):
        data.class_token_ids(tokenizer, ["yes", "n"])


def test_a_prompt_that_leaves_no_room():
    group = group_of({**GOOD, "prompt": "p" * 30}, "file.jsonl, row 3")
    no_room = "file.jsonl, row 3: field prompt: 30 tokens leave no room for a response within max_length=30"
    with pytest.raises(UserError, match=no_room):
        tree_of(group, (0,), data.Limits(30, None))


def test_message_prompts_go_through_the_chat_template():
    tokenizer, limits = byte_tokenizer(), data.Limits(50, None)
    tree = tree_of(CHAT, (0,), limits, tokenizer=tokenizer)
    assert decode(tree.prompt) == "\n\nHuman: Hi\n\nAssistant:"  # no template: the DPO repository's turns
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    refused = "here: field prompt messages: the chat template refuses them .roles must alternate"
    with pytest.raises(UserError, match=refused):
        tree_of(CHAT, (0,), limits, tokenizer=tokenizer)
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}[bot]{% endif %}"
    )
    tree = tree_of(CHAT, (0,), limits, tokenizer=tokenizer)
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
            group = group_of({"prompt": prompt, "responses": [{"text": text}]})
            tree_of(group, (0,), limits, tokenizer=tokenizer)
    # a template may end turns with it
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}<eos>{% endfor %}"
    assert decode(tree_of(CHAT, (0,), limits, tokenizer=tokenizer).prompt) == "Hi<eos>"


def test_examples_without_room_are_left_out_and_counted():
    groups = [group_of({"prompt": "p" * n, "responses": [{"text": "answer"}]}) for n in (30, 5)]
    examples = [data.Example(i, (0,), False) for i in (0, 1)]
    audit = Counter()
    (tree,) = data.tokenize(groups, examples, byte_tokenizer(), data.Limits(10, None), audit=audit)
    assert tree.group == 1 and tree.truncated == (True,) and len(tree.answers[0]) == 5
    assert audit == Counter(examples_without_room=1, responses_truncated=1)


def test_mismatched_pairs_are_fixed_by_the_seed():
    groups = [group_of({**GOOD, "prompt": f"Question {i}?"}) for i in range(4)]
    examples = [data.Example(i, (0, None), False) for i in range(4)]
    trees = data.tokenize(groups, examples, byte_tokenizer(), data.Limits(40, None))
    mismatched = data.mismatch(trees, trees, 0, 20)
    assert mismatched == data.mismatch(trees, trees, 0, 20)
    assert [m.prompt for m in mismatched] == [t.prompt for t in trees]
    assert all(len(m.prompt) + len(m.answers[0]) <= 20 and len(m.answers) == 1 for m in mismatched)
    with pytest.raises(UserError, match="responses to two or more different prompts"):
        data.mismatch(trees, trees[:1], 0, 20)


def test_a_prompt_of_no_tokens_is_named():
    class Deaf:
        bos_token_id, eos_token_id, chat_template, is_fast = None, 257, None, False

        def __call__(self, texts, **_):
            return {"input_ids": [[] for _ in texts]}

    group = group_of(GOOD, "rows.jsonl, row 3")
    with pytest.raises(UserError, match="rows.jsonl, row 3: field prompt text: gives no token"):
        prompt_ids(Deaf(), group, data.Limits(64, 32))
