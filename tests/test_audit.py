"""The audit: what a data set holds, and what was dropped."""

from collections import Counter

from data_helpers import write
from helpers import byte_tokenizer

import preference_datasets as data
from forest import tree_tokens


def test_sharing_on_the_embedded_data():
    groups = data.load_groups("opinions/republican", "eval")
    examples = data.view(groups, "conditioned")
    trees = data.tokenize(groups, examples, byte_tokenizer(), data.Limits(512, 256))
    audit = data.audit_groups(groups, examples, trees)
    assert audit["prompts"] == 39 and audit["examples"] == 39 * 16
    shared = sum(tree_tokens(trees[i : i + 16]) for i in range(0, len(trees), 16))
    assert audit["tokens_shared"] == shared < audit["tokens_one_by_one"] / 5


def test_the_audit_names_what_it_found(tmp_path):
    a, b = {"text": "a", "reward": 3}, {"text": "b", "reward": 1}
    rows = [
        {"prompt": "p", "responses": [{"text": "same", "reward": 2}, {"text": "same", "reward": 1}]},
        {"prompt": "p", "responses": [{"text": "a", "reward": 1}, b]},
        {"prompt": "q", "responses": [a, b, b]},
    ]
    counts = Counter()
    groups = data.load_groups(write(tmp_path / "a.jsonl", *rows), "all", dropped=counts)
    audit = data.audit_groups(groups, data.view(groups, "pairs.all", dropped=counts), counts=counts)
    assert audit["rows_read"] == 3 and audit["duplicate_prompts"] == 1 and audit["duplicate_responses"] == 1
    assert audit["preferred_equal_to_rejected"] == 1
    assert audit["equal_rewards"] == 1 and audit["some_equal_rewards"] == 2
    assert audit["dropped"] == {"equal_rewards": 1}
    assert audit["reward"]["max"] == 3 and audit["answer_characters"]["max"] == 4
