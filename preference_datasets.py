"""The data's way in order: name -> groups -> examples -> token trees.

Contract: `load_groups` gives `Group`s (a prompt with its responses), `view` says which responses an example
compares and under which belief, `tokenize` gives a `TokenTree`. Nothing is silently repaired: a bad row
raises `UserError` with file, row, field and remedy; what is dropped on purpose is counted in the audit.

    python preference_datasets.py opinions/republican        # the audit of a data set, without a model
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import numpy as np

from forest import TokenTree
from groups import (
    CLASSES,
    DATA,
    FORMATS,
    OPINION_GROUPS,
    OPINION_SPLITS,
    SUFFIXES,
    VIEWS,
    Audit,
    Belief,
    Drops,
    Example,
    Group,
    Limits,
    Loaded,
    Response,
    Source,
    add_drops,
    audit_groups,
    audit_splits,
    check_beliefs,
    check_examples,
    check_member,
    choose_format,
    class_token_ids,
    cut_prompt,
    draw_pairs,
    encode_prompt,
    hold_out,
    keep_apart,
    limits_with_shots,
    mismatch,
    open_table,
    parse_group,
    read_groups,
    read_opinions,
    read_rows,
    response_text,
    rng_of,
    tokenize,
    view,
    why_dropped,
    with_shots,
)
from losses import Needs
from settings import TrainSettings
from utils import UserError, is_name, log, run_entry

if TYPE_CHECKING:  # slow to import, and needed for its name alone
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "CLASSES",
    "DATA",
    "OPINION_GROUPS",
    "OPINION_SPLITS",
    "FORMATS",
    "SUFFIXES",
    "VIEWS",
    "Belief",
    "Example",
    "Group",
    "Limits",
    "Response",
    "audit_groups",
    "audit_splits",
    "class_token_ids",
    "cut_prompt",
    "draw_pairs",
    "encode_prompt",
    "limits_with_shots",
    "load_groups",
    "mismatch",
    "parse_group",
    "read_rows",
    "response_text",
    "rng_of",
    "tokenize",
    "view",
    "with_shots",
]


def load_groups(
    name: str,
    split: str,
    seed: int = 0,
    classes: Sequence[str] = CLASSES,
    pairs_per_prompt: int = 16,
    eval_fraction: float = 0.05,
    dropped: Counter | None = None,
) -> list[Group]:
    """Read a data set's split: a known name, a path to .jsonl, .json, .parquet or .csv, or a hub id.

    A file has no splits of its own: its `eval` (or `test`) split is the ceil(eval_fraction * prompts) prompts
    of smallest hash, with all of their rows, `train` the others, `all` every row; prompts of one question
    stay together. So it is with hub data that has a train split alone. Survey data of many countries takes
    the country after a colon, `goqa:Germany`. `dropped` counts rows left out, by reason.
    Raises UserError for an unknown name or split, or an invalid row.
    """
    dropped = Drops() if dropped is None else dropped
    return _load(name, split, Reading(seed, classes, pairs_per_prompt, eval_fraction), dropped).groups


class Reading(NamedTuple):
    """How data sets are read, whatever their names."""

    seed: int
    classes: Sequence[str]
    pairs_per_prompt: int
    eval_fraction: float


def _load(name: str, split: str, reading: Reading, dropped: Counter) -> Loaded:
    """A data set's split, see `load_groups`."""
    if name == "opinions" or name.startswith("opinions/"):
        opinions = read_opinions(name, split, reading.seed, reading.pairs_per_prompt, reading.classes)
        dropped["rows_read"] += len(opinions)
        return Loaded([group._replace(dataset=name) for group in opinions], False)
    table = open_table(name, split)
    rows = list(table.rows())
    known = choose_format(rows, table.place)
    if table.member and not known.takes_member:
        raise UserError(
            f"data set {name}: its columns have no members to choose from; remove :{table.member}"
        )
    check_member(known.name, rows, table.member, table.place)
    dropped["rows_read"] += len(rows)
    groups = []
    of_table = Drops()
    for group in read_groups(known, rows, Source(reading.classes, table.member, of_table)):
        if group.belief_probs and not group.pairs:
            pairs = draw_pairs(group, reading.classes, reading.pairs_per_prompt, reading.seed)
            group = group._replace(pairs=pairs)
        groups.append(group._replace(dataset=name))
    add_drops(dropped, of_table)
    if not groups:
        log.warning("%s: all %d rows are left out: %s", table.place, len(rows), why_dropped(of_table))
    kept = hold_out(groups, split, reading.eval_fraction) if table.whole else groups
    dropped["in_other_splits"] += len(groups) - len(kept)
    return Loaded(kept, table.whole and split != "all")


# --- the splits of a run ------------------------------------------------------------------------------------


class Split(NamedTuple):
    """The groups of all data sets of a split, what is compared of them, and by data set what was left out."""

    groups: list[Group]
    examples: list[Example]
    dropped: dict[str, Counter]


def read_splits(settings: TrainSettings, needs: Needs) -> dict[str, Split]:
    """The train and eval splits of a run, checked against what its loss needs. Raises UserError."""
    sources = {"train": settings.datasets, "eval": settings.eval_datasets or settings.datasets}
    dropped: dict[str, dict[str, Counter]] = {}
    loaded: dict[str, dict[str, Loaded]] = {}
    for split, data_sets in sources.items():
        dropped[split] = {name: Drops() for name in dict.fromkeys(data_sets)}
        loaded[split] = {
            name: _load_for(name, split, settings, counts) for name, counts in dropped[split].items()
        }
    loaded["train"] = keep_apart(loaded["train"], loaded["eval"], dropped)
    splits: dict[str, Split] = {}
    for split, data_sets in sources.items():
        splits[split] = _compare(split, loaded[split], settings, needs, dropped[split])
        if not splits[split].examples:
            raise UserError(_empty(data_sets, split, "has no example left", dropped[split]))
        check_examples(splits[split].groups, splits[split].examples, settings, needs)
    donors = splits["train"].groups
    for name, split in splits.items():
        shown = with_shots(split.groups, donors, settings.icf_shots, settings.seed)
        splits[name] = split._replace(groups=shown)
    some = drawn(splits["eval"].examples, settings.n_eval_examples, settings.seed)
    splits["eval"] = splits["eval"]._replace(examples=some)
    return splits


def _load_for(name: str, split: str, settings: TrainSettings, dropped: Counter) -> Loaded:
    """A data set's part of a split; a file is taken whole where the run names its eval data."""
    reading = Reading(
        settings.seed, settings.belief_classes, settings.pairs_per_prompt, settings.eval_fraction
    )
    if settings.eval_datasets:
        loaded = _load(name, "all" if Path(name).is_file() else split, reading, dropped)
        return loaded._replace(is_held_out=False)
    return _load(name, split, reading, dropped)


def _compare(
    split: str,
    loaded: Mapping[str, Loaded],
    settings: TrainSettings,
    needs: Needs,
    dropped: dict[str, Counter],
) -> Split:
    """Groups and examples of several data sets, one after the other."""
    groups: list[Group] = []
    examples: list[Example] = []
    for name, (of_name, _) in loaded.items():
        if needs.beliefs:
            check_beliefs(of_name, settings.loss.name)
        for example in view(of_name, settings.responses, settings.seed, dropped[name]):
            examples.append(example._replace(group=example.group + len(groups)))
        groups += of_name
    if not groups:
        raise UserError(_empty(loaded, split, "is empty", dropped))
    return Split(groups, examples, dropped)


def _empty(data_sets: Iterable[str], split: str, problem: str, dropped: Mapping[str, Drops]) -> str:
    """Why a split has nothing in it: what was left out of each data set, and what stands in other splits."""
    reasons = [f"{name}: {why_dropped(counts)}" for name, counts in dropped.items() if counts.first]
    elsewhere = sum(counts["in_other_splits"] for counts in dropped.values())
    if elsewhere:
        reasons.append(f"{elsewhere} prompts stand in the other split")
    left_out = f"; left out: {'; '.join(reasons)}" if reasons else ""
    remedy = "add data" if problem != "is empty" else "add data or set eval_datasets"
    return f"datasets={list(data_sets)}: split {split} {problem}{left_out}; {remedy}"


def drawn(values: list, count: int | None, seed: int) -> list:
    """`count` values (None: all) drawn by the seed, in their old order: the first ones would be of a few
    topics.
    """
    if count is None or count >= len(values):
        return values
    chosen = np.random.default_rng(seed).permutation(len(values))[:count]
    return [values[i] for i in sorted(chosen)]


def limits_of(settings: TrainSettings) -> Limits:
    """The token limits of a run's examples."""
    return limits_with_shots(
        settings.max_length, settings.max_prompt_length, settings.truncation, settings.icf_shots
    )


def tokenize_splits(
    splits: Mapping[str, Split], tokenizer: PreTrainedTokenizerBase, settings: TrainSettings
) -> dict[str, list[TokenTree]]:
    """Token trees of every split; what was cut or left out is added to the counts of its data set."""
    limits = limits_of(settings)
    trees: dict[str, list[TokenTree]] = {}
    for name, split in splits.items():
        trees[name] = []
        for data_set, dropped in split.dropped.items():
            members = [e for e in split.examples if split.groups[e.group].dataset == data_set]
            trees[name] += tokenize(
                split.groups, members, tokenizer, limits, settings.belief_classes, dropped
            )
    return trees


def audit_of(
    splits: Mapping[str, Split], trees: Mapping[str, list[TokenTree]]
) -> dict[str, dict[str, Audit]]:
    """{data set: {split: audit}} of a run, for its data_audit.json."""
    parts = {name: (split.groups, split.examples, trees[name]) for name, split in splits.items()}
    return audit_splits(parts, {name: split.dropped for name, split in splits.items()})


# --- the command line ---------------------------------------------------------------------------------------


def main() -> None:
    """Print the audit of a data set's splits as JSON, {data set: {split: audit}}."""
    args = _parse_arguments()
    classes = _checked(args)
    default_splits = OPINION_SPLITS if args.name.startswith("opinions") else ("train", "eval")
    splits, counts = {}, {}
    for split in args.splits or default_splits:
        dropped: Counter = Counter()
        groups = load_groups(args.name, split, args.seed, classes, dropped=dropped)
        splits[split] = (groups, view(groups, args.responses, args.seed, dropped), [])
        counts[split] = {args.name: dropped}
    print(json.dumps(audit_splits(splits, counts), indent=1))


def _checked(args: argparse.Namespace) -> list[str]:
    """The belief classes' labels. Raises UserError for an argument that is none."""
    classes = args.belief_classes.split(",")
    if "" in classes or len(set(classes)) < len(classes):
        raise UserError(f"--belief-classes={args.belief_classes}: must be different labels, 0,1,2")
    if args.seed < 0 or not is_name(args.name):
        raise UserError("give a seed of 0 or more, and a name that the system takes (its length, its bytes)")
    return classes


class _Parser(argparse.ArgumentParser):
    """One line for a wrong argument, as at the other doors."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see python preference_datasets.py --help")


def _parse_arguments() -> argparse.Namespace:
    parser = _Parser(
        prog="python preference_datasets.py", description="Print the audit of a data set as JSON."
    )
    parser.add_argument("name", help="a known name, a .jsonl, .json, .parquet or .csv file, or a hub id")
    parser.add_argument("splits", nargs="*", help="default: all splits of opinions, train and eval of others")
    views = ", ".join(VIEWS)
    parser.add_argument("--responses", default="target", help=f"the view to count examples of: {views}")
    classes = ",".join(CLASSES)
    parser.add_argument("--belief-classes", default=classes, help="class labels (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    run_entry(main)
