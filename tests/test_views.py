"""Views: which responses an example compares; shots before a prompt."""

from collections import Counter

import pytest
from data_helpers import GOOD, decode, group_of
from helpers import byte_tokenizer

import preference_datasets as data
from utils import UserError


def ranked(*rewards, **extra):
    responses = [{"text": str(i), "reward": reward} for i, reward in enumerate(rewards)]
    return group_of({"prompt": "p", "responses": responses, **extra})


def columns(group, name, seed=0):
    return [example.columns for example in data.view([group], name, seed)]


def test_views():
    group = group_of({**GOOD, "pairs": [[1, 0], [0, 1]]})
    assert data.view([group], "target") == [data.Example(0, (1,), False), data.Example(0, (0,), False)]
    own_pairs = [data.Example(0, (1, 0), False), data.Example(0, (0, 1), False)]
    assert data.view([group], "pairs") == data.view([group], "own_belief") == own_pairs
    assert data.view([group], "conditioned")[0] == data.Example(0, (1, 0), True)
    assert data.view([group], "pairs.best_vs_worst") == [data.Example(0, (0, 1), False, (7.5, 2))]
    assert columns(group, "binary") == [(1, None), (None, 0), (0, None), (None, 1)]
    with pytest.raises(UserError, match="responses=rankd: choose one of"):
        data.view([group], "rankd")


def test_views_by_reward():
    group = ranked(1, 5, 3, 5)
    assert columns(group, "ranked") == [(1, 3, 2, 0)]
    assert columns(group, "pairs.best_vs_worst") == columns(group, "pairs") == [(1, 0)]
    assert columns(group, "pairs.best_vs_rest") == [(1, 2), (1, 0)]  # the tie is no preference
    assert columns(group, "pairs.all") == [(1, 2), (1, 0), (3, 2), (3, 0), (2, 0)]
    assert columns(group, "target") == [(1,)]
    assert columns(group, "binary") == [(None, 0), (1, None), (None, 2), (3, None)]  # the mean is 3.5
    drawn = [columns(group, "pairs.best_vs_random", seed) for seed in range(20)]
    assert {pair for (pair,) in drawn} == {(1, 2), (1, 0)}
    assert columns(group, "pairs.best_vs_random", 3) == drawn[3]


def test_equal_rewards_are_left_out_and_counted():
    dropped = Counter()
    examples = data.view([ranked(2, 2, 2), ranked(1, 2)], "ranked", dropped=dropped)
    assert len(examples) == 1 and dropped == Counter(equal_rewards=1)
    too_few = "here: field responses: responses=ranked needs two or more responses"
    with pytest.raises(UserError, match=too_few):
        data.view([ranked(1)], "ranked")
    half = group_of({"prompt": "p", "responses": [{"text": "a"}, {"text": "b", "reward": 1}]})
    with pytest.raises(UserError, match="needs a reward on each"):
        data.view([half], "pairs.all")


def test_the_whole_group_under_one_belief():
    third = {"text": "Good, too.", "belief": {"class": "4", "text": "Good"}}
    group = group_of({**GOOD, "pairs": [[1, 0], [0, 1]], "responses": [*GOOD["responses"], third]})
    examples = data.view([group], "conditioned.all")
    assert examples == [
        data.Example(0, (1, 0, 2), True, (1.0, 0.0, 0.0)),
        data.Example(0, (0, 1, 2), True, (1.0, 0.0, 1.0)),
    ]
    _, tree = data.tokenize([group], examples, byte_tokenizer(), data.Limits(90, None))
    assert decode(tree.belief) == "4<Good" and len(tree.answers) == 3 and tree.rewards == (1.0, 0.0, 1.0)


def test_shots_come_from_other_prompts_and_follow_the_seed():
    donors = [group_of({**GOOD, "id": str(i), "prompt": f"<Q>Question {i}?<A>"}) for i in range(6)]
    shown = data.with_shots(donors, donors, 2, seed=1)
    for group, plain in zip(shown, donors):
        assert group.prompt.endswith("\n\n" + plain.prompt)
        assert group.prompt.count("<A>4<Good>Fine.\n\n") == 2
        assert group.prompt.count(plain.prompt) == 1
    assert shown == data.with_shots(donors, donors, 2, seed=1) != data.with_shots(donors, donors, 2, seed=2)
    assert data.with_shots(donors, donors, 0, seed=1) == donors
    chats = [d._replace(prompt=[{"role": "user", "content": d.prompt}]) for d in donors]
    turns = [message["role"] for message in data.with_shots(chats, chats, 2, seed=1)[0].prompt]
    assert turns == ["user", "assistant", "user", "assistant", "user"]
    with pytest.raises(UserError, match="6 shots need more than 6 different train prompts"):
        data.with_shots(donors, donors, 6, seed=1)
    with pytest.raises(UserError, match="shots mix messages and plain texts"):
        data.with_shots(donors, chats, 2, seed=1)
