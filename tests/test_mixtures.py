"""Mixtures of data sets by shares and numbers, and fewer responses a prompt."""

from collections import Counter

import pytest
import yaml
from data_helpers import GOOD, group_of, prepared, settings_of, splits_of, write
from helpers import audit_of
from hypothesis import given, settings
from hypothesis import strategies as st

import preference_datasets as data
from groups import compared
from groups.views import with_fewer_responses
from utils import UserError


def pairs_file(path, name, count):
    """A file of pairs, whose prompts say where they are from."""
    rows = [{"prompt": f"{name} {i}", "chosen": "good", "rejected": "bad"} for i in range(count)]
    return write(path / f"{name}.jsonl", *rows)


@pytest.fixture
def two(tmp_path):
    """Files of 100 and 1000 pairs, and one whose prompts are held out."""
    held_out = pairs_file(tmp_path, "held_out", 3)
    return pairs_file(tmp_path, "a", 100), pairs_file(tmp_path, "b", 1000), f"eval_datasets=[{held_out}]"


def taken(splits):
    """How many examples the train split takes of each data set, by the file's name."""
    return {member.name.split("/")[-1][0]: member.taken for member in splits["train"].members}


@pytest.mark.parametrize(
    "of_a,of_b,expected",
    [
        ("weight: 0.7", "weight: 0.3", {"a": 100, "b": 43}),  # 142.86 in all
        ("weight: 7", "weight: 3", {"a": 100, "b": 43}),  # weights are relative
        ("weight: 0.05", "weight: 0.95", {"a": 53, "b": 1000}),
        ("weight: 1", "weight: 10", {"a": 100, "b": 1000}),
        ("n: 40", "n: 500", {"a": 40, "b": 500}),
        ("n: 100", "n: 1", {"a": 100, "b": 1}),
        ("n: 7", "weight: 0.3", {"a": 7, "b": 1000}),  # the only share: all
        ("weight: 0.2", "", {"a": 100, "b": 1000}),
        ("n: 5", "", {"a": 5, "b": 1000}),
        ("", "", {"a": 100, "b": 1000}),
    ],
)
def test_a_mixture_has_exactly_its_shares(two, of_a, of_b, expected):
    a, b, evals = two
    entries = [f"{{name: {name}{', ' * bool(more)}{more}}}" for name, more in ((a, of_a), (b, of_b))]
    splits = splits_of(f"datasets=[{','.join(entries)}]", evals)
    assert taken(splits) == expected
    for member in splits["train"].members:
        left_out = member.dropped["not_drawn_for_the_mixture"]
        assert left_out == member.available - member.taken
        if member.chosen is not None:
            assert (member.chosen[1:] > member.chosen[:-1]).all()  # each once, in their order


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(0.01, 1), st.integers(1, 5000)), min_size=1, max_size=5))
def test_shares_are_the_largest_that_the_data_has(parts):
    shares = {str(i): part for i, part in enumerate(parts)}
    numbers = compared._by_share(shares)
    total = sum(weight for weight, _ in parts)
    whole = min(available * total / weight for weight, available in parts)
    assert any(numbers[name] == available for name, (_, available) in shares.items())
    for name, (weight, available) in shares.items():
        assert numbers[name] <= available
        assert abs(numbers[name] - whole * weight / total) <= 0.5 + 1e-6


def test_what_is_drawn_is_fixed_by_the_seed(two):
    a, b, evals = two
    names = f"datasets=[{{name: {a}, n: 30}},{{name: {b}, n: 30}}]"
    drawn = {}
    for seed in (0, 0, 1):
        members = splits_of(names, evals, f"seed={seed}")["train"].members
        drawn.setdefault(seed, []).append([member.chosen.tolist() for member in members])
    assert drawn[0][0] == drawn[0][1] != drawn[1][0]
    assert drawn[0][0][0] != drawn[0][0][1]


def test_the_prepared_data_are_those_that_were_drawn(two):
    a, b, evals = two
    ours = prepared(f"datasets=[{{name: {a}, weight: 0.7}},{{name: {b}, weight: 0.3}}]", evals)
    starts = Counter(chr(tree.prompt[0]) for tree in ours.trees["train"])
    assert sum(starts.values()) == 143
    assert ours.audit[a]["train"]["dropped"] == {}
    assert ours.audit[b]["train"]["dropped"] == {"not_drawn_for_the_mixture": 957}
    assert ours.audit[b]["train"]["examples"] == 43


@pytest.mark.parametrize(
    "entry,message",
    [
        (
            "n: 101",
            "config key datasets: .*a.jsonl has n=101 and 100 examples to train on; set n=100 or less",
        ),
        ("n: 0", "n=0"),
        ("n: -3", "n=-3"),
        ("n: 2.5", "n=2.5"),
        ("weight: 0", "weight=0"),
        ("weight: -1", "weight=-1"),
        ("weight: x", "weight=x"),
        ("share: 0.5", "datasets.*share"),
        ("format: nope", "format.*nope"),
    ],
)
def test_a_wrong_entry_is_one_line_that_names_it(two, entry, message):
    a, _, evals = two
    with pytest.raises(UserError, match=message) as caught:
        splits_of(f"datasets=[{{name: {a}, {entry}}}]", evals)
    assert "\n" not in str(caught.value)


def test_an_entry_without_a_name_is_one_line(two):
    with pytest.raises(UserError, match="datasets.*name"):
        splits_of("datasets=[{n: 3}]", two[-1])


def test_a_share_of_data_that_has_nothing_to_train_on_is_one_line(two, tmp_path):
    """It could have no share of any mixture but the empty one."""
    a, _, evals = two
    rows = [
        {"prompt": f"c {i}", "responses": [{"text": "x", "reward": 1}, {"text": "y", "reward": 1}]}
        for i in range(3)
    ]
    empty = write(tmp_path / "c.jsonl", *rows)
    names = f"datasets=[{{name: {a}, weight: 0.5}},{{name: {empty}, weight: 0.5}}]"
    with pytest.raises(
        UserError, match="config key datasets: .*c.jsonl has weight=0.5 and no example.*equal_rewards"
    ):
        splits_of(names, evals)


def test_a_share_that_comes_to_nothing_is_one_line(two):
    a, b, evals = two
    names = f"datasets=[{{name: {a}, weight: 1}},{{name: {b}, weight: 0.001}}]"
    with pytest.raises(UserError, match="b.jsonl has weight=0.001 and comes to none of its 1000 examples"):
        splits_of(names, evals)


def test_a_data_set_that_is_named_twice_counts_once_or_is_refused(two):
    a, b, evals = two
    assert taken(splits_of(f"datasets=[{a},{b},{a}]", evals)) == {"a": 100, "b": 1000}
    with pytest.raises(UserError, match="config key datasets: .*a.jsonl stands there twice, and differs"):
        splits_of(f"datasets=[{a},{{name: {a}, n: 5}}]", evals)


def test_a_mixture_to_validate_on_is_refused(two):
    a, b, _ = two
    with pytest.raises(UserError, match="config key eval_datasets: .*b.jsonl has a weight or n"):
        splits_of(f"datasets=[{a}]", f"eval_datasets=[{{name: {b}, n: 5}}]")


# --- what a run says and remembers --------------------------------------------------------------------------


def test_a_run_remembers_its_mixture_as_given_and_resumes_no_other(bench, tmp_path):
    other = write(
        tmp_path / "other.jsonl",
        *({"prompt": f"Tell {i}", "chosen": "yes", "rejected": "no"} for i in range(20)),
    )

    def given(n):
        return f"datasets=[{bench.file},{{name: {other}, n: {n}}}]"

    run = bench.go("run", given(6), "n_examples=8")
    saved = yaml.safe_load((run / "config.yaml").read_text())
    assert saved["datasets"] == [str(bench.file), {"name": other, "n": 6}]
    assert audit_of(run)[other]["train"]["examples"] == 6
    bench.go("run", given(6), "n_examples=16")
    for changed in (given(7), f"datasets=[{bench.file},{other}]"):
        with pytest.raises(UserError, match="another config: datasets") as caught:
            bench.go("run", changed, "n_examples=16")
        assert "\n" not in str(caught.value)


def test_plain_names_stay_plain(bench):
    saved = yaml.safe_load((bench.go("run", "n_examples=4") / "config.yaml").read_text())
    assert saved["datasets"] == [str(bench.file)]
    assert saved["eval_datasets"] is None


# --- fewer responses ----------------------------------------------------------------------------------------

TEXTS = "abcdefgh"
REWARDS = st.lists(st.integers(0, 5), min_size=1, max_size=8)


def ranked_group(rewards, **more):
    """A group whose responses are a, b, c, ..."""
    responses = [{"text": TEXTS[i], "reward": reward} for i, reward in enumerate(rewards)]
    return group_of({"prompt": "Say", "responses": responses, **more})


def text_of(group):
    return "".join(response.text for response in group.responses)


@settings(max_examples=60, deadline=None)
@given(REWARDS, st.integers(2, 9), st.integers(0, 3))
def test_best_and_worst_stay_and_so_many_in_all(rewards, most, seed):
    group = ranked_group(rewards)
    fewer = with_fewer_responses(group, most, seed)
    kept = [response.reward for response in fewer.responses]
    assert len(kept) == min(most, len(rewards))
    assert max(kept) == max(rewards) and min(kept) == min(rewards)
    assert text_of(fewer) == "".join(sorted(text_of(fewer)))  # in their old order
    assert fewer == with_fewer_responses(group, most, seed)
    assert fewer._replace(responses=group.responses) == group


def test_others_are_drawn_by_the_seed_and_the_prompt():
    group = ranked_group(range(8))
    kept = {text_of(with_fewer_responses(group, 4, seed)) for seed in range(12)}
    assert len(kept) > 3
    assert all(texts[0] == "a" and texts[-1] == "h" for texts in kept)
    of_names = {text_of(with_fewer_responses(group._replace(id=str(i)), 4, 0)) for i in range(12)}
    assert len(of_names) > 3


def test_all_responses_stay_where_there_are_no_more():
    group = ranked_group([1, 2, 3])
    assert with_fewer_responses(group, None, 0) is group
    assert with_fewer_responses(group, 3, 0) is group


@pytest.mark.parametrize("seed", range(6))
def test_pairs_are_those_of_the_responses_that_stay(seed):
    group = ranked_group(range(6), pairs=[[4, 1], [2, 0], [4, 5], [1, 3]])
    fewer = with_fewer_responses(group, 4, seed)
    by_text = [(fewer.responses[a].text, fewer.responses[b].text) for a, b in fewer.pairs]
    assert by_text[0] == ("e", "b")  # the first one always stays
    kept = text_of(fewer)
    assert by_text == [
        pair for pair in [("e", "b"), ("c", "a"), ("e", "f"), ("b", "d")] if set(pair) <= set(kept)
    ]
    assert len(kept) == 4


@pytest.mark.parametrize("seed", range(6))
def test_labels_stay_with_their_responses(seed):
    labels = (True, False, False, True, False, True)
    responses = [data.Response(text) for text in TEXTS[:6]]
    group = data.Group("x", "Say", tuple(responses), labels=labels)
    fewer = with_fewer_responses(group, 3, seed)
    assert len(fewer.responses) == len(fewer.labels) == 3
    for response, label in zip(fewer.responses, fewer.labels):
        assert label == labels[TEXTS.index(response.text)]


def test_a_run_compares_the_responses_that_stay():
    settings, needs = settings_of("max_responses=3", loss="swepo")
    some = compared.compare([ranked_group([3, 1, 4, 0, 2])], settings, needs, Counter())
    (example,) = some.examples
    assert len(example.columns) == 3
    assert example.rewards[0] == 4 and example.rewards[-1] == 0


# --- a split by its own name --------------------------------------------------------------------------------


@pytest.fixture
def of_splits(tmp_path):
    """A folder whose files are named by three splits, the prompts of each by their split."""
    for split in ("train", "extra", "test"):
        rows = [{**GOOD, "prompt": f"{split} {i}?"} for i in range(8)]
        write(tmp_path / f"{split}-00000-of-00001.jsonl", *rows)
    return tmp_path


def prompts_of(split):
    """Which splits of the folder a split's prompts are of."""
    return {group.prompt.split()[0] for group in split.groups}


def test_a_data_set_may_name_its_split(of_splits):
    splits = data.read_splits(*settings_of(f"datasets=[{{name: {of_splits}, split: extra}}]"))
    assert prompts_of(splits["train"]) == prompts_of(splits["eval"]) == {"extra"}
    assert len(splits["train"].groups) + len(splits["eval"].groups) == 8
    splits = data.read_splits(*settings_of(f"datasets=[{of_splits}]"))
    assert prompts_of(splits["train"]) == {"train"} and prompts_of(splits["eval"]) == {"test"}


def test_one_data_set_is_trained_on_and_validated_on_by_two_of_its_splits(of_splits):
    named = "{{name: {}, split: {}}}".format
    overrides = [
        f"datasets=[{named(of_splits, 'train')}]",
        f"eval_datasets=[{named(of_splits, 'extra')}]",
    ]
    splits = data.read_splits(*settings_of(*overrides))
    assert prompts_of(splits["train"]) == {"train"} and prompts_of(splits["eval"]) == {"extra"}
    assert len(splits["train"].groups) == len(splits["eval"].groups) == 8
