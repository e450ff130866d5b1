"""A run's data is prepared a part at a time, and is what encoding all of it at once gives."""

from collections import Counter

import pytest
from data_helpers import prepared, rows_with_beliefs, settings_of, write
from helpers import byte_tokenizer

import preference_datasets as data
from groups import compared, loading
from groups import prepared as preparing
from groups.audit import Auditor
from groups.prepared import limits_of
from groups.stored import TreeWriter

LOSSES = ("sft", "dpo", "kto", "swepo", "gdpo")
QUICK = ["eval_fraction=0.3", "max_length=60", "max_prompt_length=40", "n_eval_examples=9"]


@pytest.fixture
def file(tmp_path):
    """Rows of which some prompts are cut, two are the same, and one has equal rewards."""
    rows = rows_with_beliefs(23)
    rows[3]["prompt"] = "Long " * 12
    rows[5]["prompt"] = rows[6]["prompt"]
    for response in rows[8]["responses"]:
        response["reward"] = 2
    return write(tmp_path / "rows.jsonl", *rows)


# --- all at once --------------------------------------------------------------------------------------------


def at_once(folder, *overrides, loss):
    """Trees, digests, audits and KTO's pairs of each split, from all of its groups and examples in memory."""
    settings, needs = settings_of(*overrides, loss=loss)
    splits = data.read_splits(settings, needs)
    donors = list(splits["train"].groups)
    trees, audits = {}, {}
    for name, split in splits.items():
        trees[name], before = [], 0
        for member in split.members:
            of_member, audit = member_at_once(member, donors, settings, needs)
            trees[name] += [tree._replace(group=tree.group + before) for tree in of_member]
            audits.setdefault(member.name, {})[name] = audit
            before += len(member.groups)
    kinds, pairs = [trees], None
    if needs.mismatched:
        limit = limits_of(settings).max_length
        pairs = {name: data.mismatch(trees[name], trees["train"], settings.seed, limit) for name in trees}
        kinds.append(pairs)
    digests = {name: " ".join(digest_of(folder / "x.arrow", kind[name]) for kind in kinds) for name in trees}
    return trees, digests, audits, pairs


def member_at_once(member, donors, settings, needs):
    """The trees of a data set, and its audit."""
    whole = list(member.groups)
    shown = data.with_shots(whole, donors, settings.icf_shots, settings.seed)
    _, groups, examples = compared.compare(shown, settings, needs, Counter())
    if member.chosen is not None:
        examples = [examples[i] for i in member.chosen]
    of_run = (limits_of(settings), settings.belief_classes, member.dropped)
    trees = data.tokenize(groups, examples, byte_tokenizer(), *of_run)
    auditor = Auditor()
    auditor.add_groups(whole)
    auditor.add_examples(groups, examples)
    auditor.add_trees(trees)
    return trees, auditor.audit(member.dropped)


def digest_of(path, trees):
    """The digest of trees that are written all at once."""
    writer = TreeWriter(path)
    writer.append(trees)
    return writer.close().digest


def without_savings(audits):
    """Audits without what sharing saves: answers that two parts of the data share count in both."""
    spared = ("tokens_shared", "saved_by_sharing")
    return {
        name: {split: {k: v for k, v in audit.items() if k not in spared} for split, audit in splits.items()}
        for name, splits in audits.items()
    }


CASES = {
    **{loss: (loss,) for loss in LOSSES},
    "shots": ("sft", "icf_shots=2", "max_length=120"),
    "fewer": ("swepo", "max_responses=3"),
    "dpo_rule": ("dpo", "truncation=dpo", "shuffle=prompts"),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_data_prepared_in_parts_is_that_of_encoding_all_at_once(file, tmp_path, monkeypatch, size, case):
    loss, *overrides = CASES[case]
    other = write(tmp_path / "other.jsonl", *rows_with_beliefs(40)[25:])
    names = [f"datasets=[{file},{{name: {other}, n: 5}}]", *QUICK, *overrides]
    trees, digests, audits, pairs = at_once(tmp_path, *names, loss=loss)
    for place, name in ((compared, "AT_ONCE"), (loading, "AT_ONCE"), (preparing, "WRITTEN_AT_ONCE")):
        monkeypatch.setattr(place, name, size)
    ours = prepared(*names, loss=loss)
    for split in ("train", "eval"):
        assert list(ours.trees[split]) == trees[split]
        if pairs:
            assert list(ours.mismatched[split]) == pairs[split]
    assert (ours.mismatched is None) == (pairs is None)
    assert ours.digests == digests
    assert without_savings(ours.audit) == without_savings(audits)
    if size == 1000:
        assert ours.audit == audits


def test_a_second_start_gives_what_the_first_one_gave(file):
    first, second = (prepared(f"datasets=[{file}]", *QUICK, loss="kto") for _ in range(2))
    assert list(first.trees["train"]) == list(second.trees["train"])
    assert list(first.mismatched["eval"]) == list(second.mismatched["eval"])
    assert (first.digests, first.audit) == (second.digests, second.audit)
