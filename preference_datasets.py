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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import numpy as np

from forest import TokenTree
from groups import (
    CLASSES,
    DATA,
    OPINION_GROUPS,
    OPINION_SPLITS,
    SUFFIXES,
    VIEWS,
    Audit,
    Belief,
    Example,
    Group,
    Limits,
    Reader,
    Response,
    Rows,
    Source,
    audit_groups,
    audit_splits,
    class_token_ids,
    cut_prompt,
    draw_pairs,
    encode_prompt,
    hold_out,
    limits_with_shots,
    mismatch,
    numbered,
    parse_group,
    read_armorm,
    read_binarized,
    read_goqa,
    read_hh,
    read_mmoqa,
    read_opinions,
    read_own,
    read_rows,
    read_se,
    read_shp,
    read_table,
    read_ultrafeedback,
    response_text,
    rng_of,
    tokenize,
    view,
    with_shots,
)
from losses import Needs
from settings import TrainSettings
from utils import UserError, is_name, run_entry

if TYPE_CHECKING:  # slow to import, and needed for its name alone
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "CLASSES",
    "DATA",
    "OPINION_GROUPS",
    "OPINION_SPLITS",
    "READERS",
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

MMOQA_COLUMNS = {
    "prompt",
    "accept_response",
    "reject_response",
    "accept_choice_id",
    "reject_choice_id",
    "probabilities",
}
READERS: list[tuple[set[str], Reader]] = [  # the first whose columns are all there reads the file
    (MMOQA_COLUMNS, read_mmoqa),
    ({"instruction", "completions"}, read_ultrafeedback),
    ({"prompt", "all_generated_responses", "all_rm_scores"}, read_armorm),
    ({"chosen", "rejected", "score_chosen", "score_rejected"}, read_binarized),
    ({"history", "human_ref_A", "human_ref_B", "labels", "score_A", "score_B"}, read_shp),
    ({"question", "selections", "options"}, read_goqa),
    ({"question", "answers"}, read_se),
    ({"chosen", "rejected"}, read_hh),
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

    A file has no splits of its own: its `eval` (or `test`) split is the ceil(eval_fraction * prompts) rows
    whose prompt has the smallest hash, `train` the others, `all` every row; so it is with hub data that has a
    train split alone. Survey data of many countries takes the country after a colon, `goqa:Germany`.
    `dropped` counts rows left out, by reason.
    Raises UserError for an unknown name or split, or an invalid row.
    """
    dropped = Counter() if dropped is None else dropped
    if name == "opinions" or name.startswith("opinions/"):
        opinions = read_opinions(name, split, seed, pairs_per_prompt)
        dropped["rows_read"] += len(opinions)
        return [group._replace(dataset=name) for group in opinions]
    table = read_table(name, split)
    rows = numbered(table)
    read = _reader_of(rows, table.place)
    if table.member and read is not read_goqa:
        raise UserError(
            f"data set {name}: its columns have no members to choose from; remove :{table.member}"
        )
    dropped["rows_read"] += len(rows)
    groups = []
    for group in read(rows, Source(classes, table.member, dropped)):
        if group.belief_probs and not group.pairs:
            group = group._replace(pairs=draw_pairs(group, classes, pairs_per_prompt, seed))
        groups.append(group._replace(dataset=name))
    kept = hold_out(groups, split, eval_fraction) if table.whole else groups
    dropped["in_other_splits"] += len(groups) - len(kept)
    return kept


def _reader_of(rows: Rows, place: str) -> Reader:
    """The reader that knows the first row's columns. Raises UserError where none does."""
    columns = set(rows[0][1]) if rows else set()
    for needed, reader in READERS:
        if needed <= columns:
            return reader
    if {"prompt", "responses"} & columns:
        return read_own
    known = "; ".join(", ".join(sorted(needed)) for needed, _ in READERS)
    raise UserError(
        f"{place}, row 1: columns {', '.join(sorted(columns)) or 'none'} are no known data set; write prompt "
        f"and responses, or the columns of a supported data set ({known})"
    )


# --- the splits of a run ------------------------------------------------------------------------------------


class Split(NamedTuple):
    """The groups of all data sets of a split, what is compared of them, and by data set what was left out."""

    groups: list[Group]
    examples: list[Example]
    dropped: dict[str, Counter]


def read_splits(settings: TrainSettings, needs: Needs) -> dict[str, Split]:
    """The train and eval splits of a run, checked against what its loss needs. Raises UserError."""
    sources = {"train": settings.datasets, "eval": settings.eval_datasets or settings.datasets}
    splits: dict[str, Split] = {}
    for name, data_sets in sources.items():
        splits[name] = _read_split(name, data_sets, settings, needs)
        _check_split(name, splits[name], settings, needs)
    donors = splits["train"].groups
    for name, split in splits.items():
        shown = with_shots(split.groups, donors, settings.icf_shots, settings.seed)
        splits[name] = split._replace(groups=shown)
    some = drawn(splits["eval"].examples, settings.n_eval_examples, settings.seed)
    splits["eval"] = splits["eval"]._replace(examples=some)
    return splits


def _read_split(split: str, names: Sequence[str], settings: TrainSettings, needs: Needs) -> Split:
    """Groups and examples of several data sets, one after the other."""
    groups: list[Group] = []
    examples: list[Example] = []
    dropped: dict[str, Counter] = {}
    for name in dict.fromkeys(names):
        dropped[name] = Counter()
        whole_file = settings.eval_datasets and Path(name).is_file()
        of_name = load_groups(
            name,
            "all" if whole_file else split,
            settings.seed,
            settings.belief_classes,
            settings.pairs_per_prompt,
            settings.eval_fraction,
            dropped[name],
        )
        if needs.beliefs:
            _check_beliefs(of_name, settings.loss.name)
        for example in view(of_name, settings.responses, settings.seed, dropped[name]):
            examples.append(example._replace(group=example.group + len(groups)))
        groups += of_name
    if not groups:
        raise UserError(f"datasets={list(names)}: split {split} is empty; add data or set eval_datasets")
    return Split(groups, examples, dropped)


def _check_beliefs(groups: Sequence[Group], loss: str) -> None:
    """Raises UserError where a group has no distribution that the loss could calibrate to."""
    for group in groups:
        if not group.belief_probs:
            raise UserError(
                f"{group.where}: field belief_probs: missing, and loss.name={loss} needs it; add the group's "
                "distribution or choose loss=dpo"
            )


def _check_split(name: str, split: Split, settings: TrainSettings, needs: Needs) -> None:
    """Raises UserError where the examples do not have the columns or rewards that the loss reads."""
    if not split.examples:
        raise UserError(
            f"datasets={settings.datasets}: split {name} has no example left (all rewards are equal); "
            "add data"
        )
    if needs.beliefs and not settings.responses.startswith("conditioned"):
        raise UserError(
            f"responses={settings.responses}: gdpo's answers stand under one belief; "
            "set responses=conditioned"
        )
    _check_columns(split, settings, needs)
    if needs.rewards:
        _check_rewards(split, settings, needs)


# what a loss compares: in words, the view that gives it, and the view where answers stand under a belief
COLUMNS = {
    "pair": ("two responses", "pairs", "conditioned"),
    "side": ("responses to like with others to avoid", "binary", "conditioned.all"),
    "several": ("several responses", "ranked", "conditioned.all"),
}


def _check_columns(split: Split, settings: TrainSettings, needs: Needs) -> None:
    if all(_has_columns(example.columns, needs.columns) for example in split.examples):
        return
    what, remedy, under_belief = COLUMNS[needs.columns]
    raise UserError(
        f"responses={settings.responses}: loss.name={settings.loss.name} compares {what}; "
        f"set responses={under_belief if needs.beliefs else remedy}"
    )


def _has_columns(columns: Sequence[int | None], wanted: str) -> bool:
    """Does an example have the columns that a loss reads?"""
    whole = None not in columns
    return {
        "any": True,
        "side": len(columns) == 2,
        "pair": len(columns) == 2 and whole,
        "several": len(columns) > 1 and whole,
    }[wanted]


def _check_rewards(split: Split, settings: TrainSettings, needs: Needs) -> None:
    bare = next((example for example in split.examples if not example.rewards), None)
    if bare is None:
        return
    remedy = "set responses=ranked, with a reward on each, or choose loss=dpo"
    if needs.beliefs:
        remedy = "set responses=conditioned.all"
    raise UserError(
        f"{split.groups[bare.group].where}: field responses: loss.name={settings.loss.name} needs rewards, "
        f"and responses={settings.responses} carries none; {remedy}"
    )


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
