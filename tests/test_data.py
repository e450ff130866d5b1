"""Readers, views and tokens: what comes out, and what bad input gets."""
import json
from collections import Counter

import numpy as np
import pytest
from helpers import byte_tokenizer

import preference_datasets as data
import synthesize
from forest import tree_tokens
from utils import UserError

GOOD = {"id": "a", "prompt": "How is it?", "responses": [
    {"text": "Fine.", "reward": 7.5, "belief": {"class": "4", "text": "Good"}},
    {"text": "Bad!", "reward": 2, "belief": {"class": "2", "text": "Poor"}}],
    "belief_probs": [0.1, 0, 0.3, 0, 0.6, 0]}


def write(path, *rows):
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return str(path)


def test_the_embedded_opinions_are_complete():
    counts = synthesize.check_opinions()
    assert counts == {"questions": 49, "prompts": 245, "answers": 765, "train": 117, "eval": 39, "test": 39, "test_questions": 50}


def test_the_check_sees_a_repeated_word_and_an_own_language_answer():
    assert synthesize.repeated_words("Somewhat favorable", "A favorable view.") == {"favorable"}
    assert synthesize.repeated_words("No", "No way.") and not synthesize.repeated_words("No", "There is no way.")
    assert not synthesize.repeated_words("About the right amount", "They found the right balance.")


@pytest.mark.parametrize("group,prompts", [("republican", 117), ("democrat", 117), ("independent", 117),
                                           ("strong_democrat", 84), ("strong_republican", 84)])
def test_opinion_groups(group, prompts):
    groups = data.load_groups(f"opinions/{group}", "train")
    assert len(groups) <= 117 and abs(len(groups) - prompts) <= 12
    assert all(sum(g.belief_probs) == pytest.approx(1) and len(g.pairs) == 16 for g in groups)
    held_out = {g.prompt for s in ("eval", "test", "test_questions") for g in data.load_groups(f"opinions/{group}", s)}
    assert not held_out & {g.prompt for g in groups}


def test_questions_of_the_question_split_are_in_no_other_split():
    names = {s: {g.id.split("/")[0] for g in data.load_groups("opinions/republican", s)} for s in data.OPINION_SPLITS}
    assert names["train"] == names["eval"] == names["test"] and len(names["train"]) == 39
    assert len(names["test_questions"]) == 10 and not names["test_questions"] & names["train"]


def test_pairs_follow_the_group_and_the_seed():
    group = data.parse_group(GOOD, "here")
    pairs = data.draw_pairs(group, data.CLASSES, 4000, seed=1)
    assert np.mean([w == 0 for w, _ in pairs]) == pytest.approx(0.6 / 0.9, abs=0.03)  # among the beliefs that have an answer
    assert pairs == data.draw_pairs(group, data.CLASSES, 4000, seed=1) != data.draw_pairs(group, data.CLASSES, 4000, seed=2)


def test_views():
    group = data.parse_group({**GOOD, "pairs": [[1, 0], [0, 1]]}, "here")
    assert data.view([group], "target") == [data.Example(0, (1,), False), data.Example(0, (0,), False)]
    assert data.view([group], "pairs") == data.view([group], "own_belief") == [data.Example(0, (1, 0), False),
                                                                               data.Example(0, (0, 1), False)]
    assert data.view([group], "conditioned")[0] == data.Example(0, (1, 0), True)
    assert data.view([group], "pairs.best_vs_worst") == [data.Example(0, (0, 1), False)]
    with pytest.raises(UserError, match="responses=rankd: choose one of"):
        data.view([group], "rankd")


def ranked(*rewards, **extra):
    return data.parse_group({"prompt": "p", "responses": [{"text": str(i), "reward": r} for i, r in enumerate(rewards)], **extra}, "here")


def test_views_by_reward():
    columns = lambda group, name, seed=0: [e.columns for e in data.view([group], name, seed)]  # noqa: E731
    group = ranked(1, 5, 3, 5)
    assert columns(group, "ranked") == [(1, 3, 2, 0)]
    assert columns(group, "pairs.best_vs_worst") == columns(group, "pairs") == [(1, 0)]
    assert columns(group, "pairs.best_vs_rest") == [(1, 2), (1, 0)]  # the tie is no preference
    assert columns(group, "pairs.all") == [(1, 2), (1, 0), (3, 2), (3, 0), (2, 0)]
    assert columns(group, "target") == [(1,)]
    drawn = [columns(group, "pairs.best_vs_random", seed) for seed in range(20)]
    assert {p for (p,) in drawn} == {(1, 2), (1, 0)} and columns(group, "pairs.best_vs_random", 3) == drawn[3]


def test_equal_rewards_are_left_out_and_counted():
    dropped = Counter()
    assert len(data.view([ranked(2, 2, 2), ranked(1, 2)], "ranked", dropped=dropped)) == 1 and dropped == Counter(equal_rewards=1)
    with pytest.raises(UserError, match="here: field responses: responses=ranked needs two or more responses"):
        data.view([ranked(1)], "ranked")
    with pytest.raises(UserError, match="needs a reward on each"):
        data.view([data.parse_group({"prompt": "p", "responses": [{"text": "a"}, {"text": "b", "reward": 1}]}, "here")], "pairs.all")


def decode(ids):
    return byte_tokenizer().decode(list(ids))


def test_spans_are_known_by_construction():
    row = {**GOOD, "responses": [{"text": "a > b, 4<x>", "belief": {"class": "4", "text": "Good"}},
                                 {"text": "no", "belief": {"class": "2", "text": "Poor"}}]}
    group = data.parse_group(row, "here")
    limits = data.Limits(200, 100)
    (conditioned,) = data.tokenize([group], [data.Example(0, (0, 1), True)], byte_tokenizer(), limits)
    assert decode(conditioned.belief) == "4<Good"  # the closing > belongs to the answer
    assert [decode(a) for a in conditioned.answers] == [">a > b, 4<x><eos>", ">no<eos>"]
    (own,) = data.tokenize([group], [data.Example(0, (0, 1), False)], byte_tokenizer(), limits)
    assert own.belief == () and [decode(a) for a in own.answers] == ["4<Good>a > b, 4<x><eos>", "2<Poor>no<eos>"]
    assert own.is_majority is True and own.class_probs == tuple(GOOD["belief_probs"])


def test_a_class_token_alone_never_merges_with_the_answer():
    row = {"prompt": "A film", "responses": [{"text": "10 out of 10", "belief": {"class": "5"}}, {"text": "meh", "belief": {"class": "3"}}]}
    (tree,) = data.tokenize([data.parse_group(row, "here")], [data.Example(0, (0, 1), True)], byte_tokenizer(), data.Limits(50, None))
    assert decode(tree.belief) == "5" and decode(tree.answers[0]) == "10 out of 10<eos>"


def test_truncation_cuts_prompt_then_response_and_counts():
    group = data.parse_group({"prompt": "p" * 30 + "END", "responses": [{"text": "r" * 40}, {"text": "short"}]}, "here")
    audit = Counter()
    (tree,) = data.tokenize([group], [data.Example(0, (0, 1), False)], byte_tokenizer(), data.Limits(20, 10), audit=audit)
    assert decode(tree.prompt) == "pppppppEND" and [len(a) for a in tree.answers] == [10, 6]
    assert decode(tree.answers[0]) == "r" * 10 and decode(tree.answers[1]) == "short<eos>"  # a cut response gets no forced EOS
    assert audit == Counter(prompts_truncated=1, responses_truncated=1)
    (tree,) = data.tokenize([group], [data.Example(0, (0,), False)], byte_tokenizer(), data.Limits(20, 10, "keep_start"))
    assert decode(tree.prompt) == "p" * 10


def test_sharing_on_the_embedded_data():
    groups = data.load_groups("opinions/republican", "eval")
    examples = data.view(groups, "conditioned")
    trees = data.tokenize(groups, examples, byte_tokenizer(), data.Limits(512, 256))
    found = data.audit_groups(groups, examples, trees)
    assert found["prompts"] == 39 and found["examples"] == 39 * 16
    assert found["tokens_shared"] == sum(tree_tokens(trees[i : i + 16]) for i in range(0, len(trees), 16)) < found["tokens_one_by_one"] / 5


def test_files_hold_out_an_eval_split(tmp_path):
    import pyarrow
    import pyarrow.parquet

    rows = [{**GOOD, "id": str(i), "prompt": f"Question {i}?"} for i in range(50)]
    path = write(tmp_path / "mine.jsonl", *rows)
    train, held = (data.load_groups(path, s) for s in ("train", "eval"))
    assert len(train) == 47 and len(held) == 3 and not {g.id for g in train} & {g.id for g in held}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "mine.parquet")
    again = data.load_groups(str(tmp_path / "mine.parquet"), "eval")
    assert [g._replace(where="") for g in again] == [g._replace(where="") for g in held]


def test_the_authors_opinion_rows_become_groups(tmp_path):
    row = {"prompt": "How?", "accept_response": "good", "reject_response": "bad", "accept_choice": "Good", "reject_choice": "Poor",
           "accept_choice_id": 4, "reject_choice_id": 2, "probabilities": [0, 0, 0.5, 0, 0.5, 0]}
    other = {**row, "accept_response": "bad", "reject_response": "good", "accept_choice": "Poor", "reject_choice": "Good",
             "accept_choice_id": 2, "reject_choice_id": 4}
    (group,) = data.load_groups(write(tmp_path / "m.jsonl", row, other), "all")
    assert group.prompt == "<Q>How?<A>" and group.pairs == ((0, 1), (1, 0)) and len(group.responses) == 2
    dropped = Counter()
    same = {**row, "reject_response": "good", "reject_choice": "Good", "reject_choice_id": 4}
    kept = data.load_groups(write(tmp_path / "z.jsonl", row, {**row, "probabilities": [0] * 6}, same), "all", dropped=dropped)
    assert len(kept) == 1 and dropped == Counter(all_zero_probabilities=1, preferred_equal_to_rejected=1)
    for change, message in (({"prompt": None}, "field prompt: missing"),
                            ({"accept_choice_id": 9}, "field accept_choice_id: 9 is none of"),
                            ({"probabilities": [0.5, -0.5, 0, 0, 1, 0]}, "not 6 non-negative"),
                            ({"probabilities": [1]}, "not 6 non-negative")):
        with pytest.raises(UserError, match=f"row 2: {message}" if message.startswith("field") else message):
            data.load_groups(write(tmp_path / "b.jsonl", row, {**row, **change}), "all")


def test_several_responses_of_a_class_all_take_part():
    row = {**GOOD, "responses": [*GOOD["responses"], {"text": "Splendid.", "belief": {"class": "4", "text": "Good"}}]}
    pairs = data.draw_pairs(data.parse_group(row, "here"), data.CLASSES, 200, seed=0)
    assert {w for w, _ in pairs} == {0, 1, 2}


def without(key):
    return {k: v for k, v in GOOD.items() if k != key}


@pytest.mark.parametrize("row,message", [
    (without("prompt"), "row 2: field prompt: missing or empty"),
    ({**GOOD, "prompt": [{"role": "user"}]}, "field prompt: messages need a role and a content"),
    ({**GOOD, "belief_probs": [0.1, 0.9]}, "field belief_probs: has 2 entries for 6 classes"),
    ({**GOOD, "belief_probs": [-0.1, 0.2, 0.3, 0, 0.6, 0]}, "negative or no number"),
    ({**GOOD, "belief_probs": [0.1, 0, 0.3, 0, 0.7, 0]}, "sums to 1.1; make it sum to 1"),
    ({**GOOD, "responses": []}, "field responses: missing or empty"),
    ({**GOOD, "responses": [{"text": "  "}]}, r"field responses\[0\].text: missing or empty"),
    ({**GOOD, "responses": [{"text": "x", "reward": float("nan")}]}, "no finite number"),
    ({**GOOD, "responses": [{"text": "x", "belief": {"class": "9"}}]},
     r"field responses\[0\].belief: .* has no class among 0, 1, 2, 3, 4, 5"),
    ({**GOOD, "responses": [{"text": "x"}, {"text": "y"}]}, "belief_probs is given but a response has no belief"),
    ({**GOOD, "pairs": [[0, 7]]}, r"field pairs: \[0, 7\] is no"),
    ({**GOOD, "pairs": [[1, 1]]}, r"field pairs: \[1, 1\] is no"),
    ({**GOOD, "prompts": "x"}, "field prompts: unknown; known fields are"),
    ("{half a row", "row 2: not valid JSON"), ("[1]", "row 2: not a JSON object")])
def test_a_bad_row_is_named(tmp_path, row, message):
    with pytest.raises(UserError, match=message):
        data.load_groups(write(tmp_path / "bad.jsonl", GOOD, row), "train")


def test_unknown_data_sets(tmp_path):
    for name, message in (("opinions/whig", "no such group; choose one of opinions/democrat"), ("opinionz", "unknown; give opinions/"),
                          (str(tmp_path / "no.jsonl"), "no such file"), (write(tmp_path / "e.jsonl"), "holds no rows"),
                          (write(tmp_path / "c.jsonl", {"a": 1}), "columns a are no known data set"),
                          (write(tmp_path / "n.jsonl", "5"), "row 1: not a JSON object"),
                          (write(tmp_path / "opinions.jsonl", {**GOOD, "prompt": ""}), "field prompt: missing")):
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
    with pytest.raises(UserError, match="file.jsonl, row 3: field prompt: 30 tokens leave no room for a response within max_length=30"):
        data.tokenize([group], [data.Example(0, (0,), False)], byte_tokenizer(), data.Limits(30, None))


def test_message_prompts_go_through_the_chat_template():
    tokenizer = byte_tokenizer()
    group = data.parse_group({"prompt": [{"role": "user", "content": "Hi"}], "responses": [{"text": "Yo"}]}, "here")
    with pytest.raises(UserError, match="no chat template"):
        data.tokenize([group], [data.Example(0, (0,), False)], tokenizer, data.Limits(50, None))
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(UserError, match="here: field prompt messages: the chat template refuses them .roles must alternate"):
        data.tokenize([group], [data.Example(0, (0,), False)], tokenizer, data.Limits(50, None))
    tokenizer.chat_template = ("{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
                               "{% if add_generation_prompt %}[bot]{% endif %}")
    (tree,) = data.tokenize([group], [data.Example(0, (0,), False)], tokenizer, data.Limits(50, None))
    assert decode(tree.prompt) == "[user]Hi[bot]" and decode(tree.answers[0]) == "Yo<eos>"
