"""Views: which responses an example compares; shots before a prompt."""

from collections import Counter

import pytest
from data_helpers import GOOD, decode
from helpers import byte_tokenizer

import preference_datasets as data
from utils import UserError


def ranked(*rewards, **extra):
    return data.parse_group(
        {"prompt": "p", "responses": [{"text": str(i), "reward": r} for i, r in enumerate(rewards)], **extra},
        "here",
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
