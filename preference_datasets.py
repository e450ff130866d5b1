"""The data's way in order: name -> groups -> examples -> token trees.

Contract: `load_groups` gives `Group`s (a prompt with its responses), `view` says which responses an example
compares and under which belief, `tokenize` gives a `TokenTree`. Nothing is silently repaired: a bad row
raises `UserError` with file, row, field and remedy; what is dropped on purpose is counted in the audit.
A run's data goes this way once, a part at a time, onto the disk (`prepare`), where all processes read it.

    python preference_datasets.py opinions/republican        # the audit of a data set, without a model
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NoReturn

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
    Response,
    audit_groups,
    cache,
    class_token_ids,
    cut_prompt,
    draw_pairs,
    encode_prompt,
    loading,
    mismatch,
    parse_group,
    prepared,
    read_rows,
    response_text,
    rng_of,
    tokenize,
    view,
    with_shots,
)
from groups.loading import Reading
from groups.prepared import Prepared, limits_of
from groups.run_splits import check_first_rows, drawn, read_splits
from losses import Needs
from ranks import World, by_turns, on_main
from settings import DataSet, TrainSettings
from utils import UserError, is_name, run_entry

if TYPE_CHECKING:  # slow to import, and needed for its name alone
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "CLASSES",
    "DATA",
    "FORMATS",
    "OPINION_GROUPS",
    "OPINION_SPLITS",
    "SUFFIXES",
    "VIEWS",
    "Belief",
    "Example",
    "Group",
    "Limits",
    "Response",
    "audit_groups",
    "check_first_rows",
    "class_token_ids",
    "cut_prompt",
    "draw_pairs",
    "drawn",
    "encode_prompt",
    "limits_of",
    "load_groups",
    "mismatch",
    "parse_group",
    "prepare",
    "read_rows",
    "read_splits",
    "response_text",
    "rng_of",
    "tokenize",
    "view",
    "with_shots",
]


def load_groups(
    name: str | DataSet,
    split: str,
    seed: int = 0,
    classes: Sequence[str] = CLASSES,
    pairs_per_prompt: int = 16,
    eval_fraction: float = 0.05,
    dropped: Counter | None = None,
) -> list[Group]:
    """Read a data set's split: a known name, a file, a folder of shards, or a hub id.

    A file has no splits of its own: its `eval` (or `test`) split is the ceil(eval_fraction * prompts) prompts
    of smallest hash, with all of their rows, `train` the others, `all` every row; prompts of one question
    stay together. So it is with hub data that has a train split alone. Survey data of many countries takes
    the country after a colon, `goqa:Germany`. `dropped` counts rows left out, by reason. A DataSet
    names the rows' format, or the one split of hub data to take, beside its name. Raises UserError for an
    unknown name or split, or an invalid row.
    """
    dropped = Drops() if dropped is None else dropped
    data_set = DataSet(name) if isinstance(name, str) else name
    reading = Reading(seed, classes, pairs_per_prompt, eval_fraction, data_set.format)
    return list(loading.load(data_set, split, reading, dropped).groups)


# --- a run's data -------------------------------------------------------------------------------------------


def prepare(
    settings: TrainSettings, needs: Needs, tokenizer: PreTrainedTokenizerBase, world: World
) -> Prepared:
    """The token trees of a run's splits, made once a machine and kept in the user's cache.

    Files, formats, tokenizer, limits, view and code determine what is made; where all are as before, nothing
    is read but the result. Raises UserError on all ranks.
    """
    key = on_main(world, lambda: cache.key_of(prepared.determined_by(settings, needs, tokenizer)))
    folder = cache.folder_of("data", key)
    work: Iterable[None] = ()
    if world.is_first_of_machine:
        work = cache.made(folder, lambda path: prepared.make(path, settings, needs, tokenizer))
    by_turns(work, world)
    return prepared.opened(folder)


# --- the command line ---------------------------------------------------------------------------------------


def main() -> None:
    """Print the audit of a data set's splits as JSON, {data set: {split: audit}}."""
    args = _parse_arguments()
    classes = _checked(args)
    default_splits = OPINION_SPLITS if args.name.startswith("opinions") else ("train", "eval")
    audits: dict[str, Audit] = {}
    for split in args.splits or default_splits:
        dropped = Drops()
        groups = load_groups(args.name, split, args.seed, classes, dropped=dropped)
        audits[split] = audit_groups(groups, view(groups, args.responses, args.seed, dropped), (), dropped)
    print(json.dumps({args.name: audits}, indent=1))


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
