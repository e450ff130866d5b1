"""Data sets of the hub by name: aliases, configs, revisions and members. Nothing here reaches the hub."""

import datasets
import pytest

from groups import open_table
from utils import UserError

ROWS = [{"prompt": f"Question {i}?", "chosen": "yes", "rejected": "no"} for i in range(5)]


@pytest.fixture
def asked(monkeypatch):
    """What `datasets` was asked for; it answers with a set of two configs and three splits."""
    calls = []

    def answer(name, value):
        def function(*arguments, **options):
            calls.append((name, arguments, options))
            return value

        return function

    names = {
        "get_dataset_config_names": ["default", "hard"],
        "get_dataset_split_names": ["train", "validation", "test"],
        "load_dataset": datasets.Dataset.from_list(ROWS),
    }
    for name, value in names.items():
        monkeypatch.setattr(datasets, name, answer(name, value))
    return calls


@pytest.mark.parametrize(
    "name,arguments,revision,member",
    [
        ("org/name", ("org/name",), None, ""),
        ("org/name:hard", ("org/name", "hard"), None, ""),
        ("org/name@v1.0", ("org/name",), "v1.0", ""),
        ("org/name:hard@refs/convert/parquet", ("org/name", "hard"), "refs/convert/parquet", ""),
        ("org/name:Germany", ("org/name",), None, "Germany"),
        ("org/name:hard:Bolivia (national)", ("org/name", "hard"), None, "Bolivia (national)"),
        ("goqa:Germany+Japan", ("Anthropic/llm_global_opinions",), None, "Germany+Japan"),
        ("hh@main", ("Anthropic/hh-rlhf",), "main", ""),
    ],
)
def test_names_have_a_config_a_revision_and_a_member(asked, name, arguments, revision, member):
    table = open_table(name, "eval")
    assert list(table.rows()) == [(f"{name}/eval, row {n}", row) for n, row in enumerate(ROWS, 1)]
    assert table.member == member and not table.whole and table.place == f"{name}/eval"
    options = {} if revision is None else {"revision": revision}
    assert ("get_dataset_split_names", arguments, options) in asked
    assert asked[-1] == ("load_dataset", arguments, {"split": "validation", **options})


def test_rows_may_be_asked_for_again_and_are_loaded_once(asked):
    table = open_table("org/name", "train")
    assert [name for name, *_ in asked] == ["get_dataset_split_names"]
    assert list(table.rows()) == list(table.rows())
    assert len(table.identity()) == 32 and table.identity() != open_table("org/name", "test").identity()
    assert [name for name, *_ in asked].count("load_dataset") == 2


def test_all_is_every_split_one_behind_the_other(asked):
    table = open_table("org/name", "all")
    places = [
        f"org/name/{split}, row {n + 1}"
        for split in ("train", "validation", "test")
        for n in range(len(ROWS))
    ]
    assert [where for where, _ in table.rows()] == places and not table.whole
    assert table.identity() != open_table("org/name", "train").identity()


def test_unknown_splits_and_empty_ones_are_said(asked, monkeypatch):
    with pytest.raises(UserError, match="org/name: no split dev2; it has train, validation, test"):
        open_table("org/name", "dev2")
    monkeypatch.setattr(datasets, "load_dataset", lambda *names, **options: [])
    with pytest.raises(UserError, match="org/name/train: holds no rows"):
        list(open_table("org/name", "train").rows())


@pytest.mark.parametrize("name", ["name", "a/b/c", "org/na me", "org/name@", "", "goqa2:Germany"])
def test_other_names_are_no_hub_ids(asked, name):
    with pytest.raises(UserError, match="unknown; give opinions/"):
        open_table(name, "train")
    assert not asked


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError("Couldn't reach 'org/name' on the Hub\n(offline)"),
        ValueError("Config name is missing.\nPlease pick one among the available configs: ['a', 'b']"),
        datasets.exceptions.DatasetNotFoundError("Dataset 'org/name' is a gated dataset on the Hub."),
        datasets.exceptions.DatasetGenerationError("An error occurred while generating the dataset"),
    ],
)
def test_what_the_hub_says_is_one_line(asked, monkeypatch, error):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(UserError) as caught:
        list(open_table("org/name", "train").rows())
    assert "\n" not in str(caught.value) and " ".join(str(error).split()) in str(caught.value)
