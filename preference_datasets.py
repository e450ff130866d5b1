"""The data's way in order: name -> groups -> examples -> token trees.

Contract: `load_groups` gives `Group`s (a prompt with its responses), `view` says which responses an example
compares and under which belief, `tokenize` gives a `TokenTree`. Nothing is silently repaired: a bad row
raises `UserError` with file, row, field and remedy; what is dropped on purpose is counted in the audit.
A run's data goes this way once, a part at a time, onto the disk (`prepare`), where all processes read it.

    python preference_datasets.py opinions/republican        # what it was taken for, with examples
"""

from __future__ import annotations

import environment  # noqa: F401  # isort: skip  # first: it says what is missing, in one line

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NoReturn

from checking import check_options
from groups import (
    CLASSES,
    DATA,
    FORMATS,
    OPINION_GROUPS,
    OPINION_SPLITS,
    SUFFIXES,
    VIEWS,
    Belief,
    Drops,
    Example,
    Group,
    Limits,
    Response,
    audit_groups,
    audit_lines,
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
    shown,
    tokenize,
    view,
    with_shots,
)
from groups.loading import Reading
from groups.people import Naming, naming_of, told_apart
from groups.prepared import Prepared, limits_of
from groups.run_splits import check_first_rows, drawn, each_once, read_splits
from settings import DataSet, TrainSettings
from utils import UserError, is_name, run_entry

if TYPE_CHECKING:  # slow to import, and needed for their names alone
    from transformers import PreTrainedTokenizerBase

    from losses import Needs
    from ranks import World

EMBEDDED_TOKENIZER = "embedded:smollm2-135m-instruct"

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
    "Naming",
    "Response",
    "audit_groups",
    "audit_lines",
    "check_first_rows",
    "class_token_ids",
    "cut_prompt",
    "draw_pairs",
    "drawn",
    "each_once",
    "encode_prompt",
    "limits_of",
    "load_groups",
    "mismatch",
    "naming_of",
    "parse_group",
    "prepare",
    "read_rows",
    "read_splits",
    "response_text",
    "rng_of",
    "tokenize",
    "told_apart",
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
    from ranks import by_turns, on_main  # which imports torch

    key = on_main(world, lambda: cache.key_of(prepared.determined_by(settings, needs, tokenizer)))
    folder = cache.folder_of("data", key)
    work: Iterable[None] = ()
    if world.is_first_of_machine:
        work = cache.made(folder, lambda path: prepared.make(path, settings, needs, tokenizer))
    by_turns(work, world)
    return prepared.opened(folder)


# --- the command line ---------------------------------------------------------------------------------------


def main() -> None:
    """Print what a data set was taken for, or with --json its audit, {data set: {split: audit}}."""
    args = _parse_arguments()
    asked = _asked(args)
    parts = shown.read(asked)
    responses = args.responses or shown.fitting_view(group for part in parts for group in part.groups)
    tokenizer, note = _tokenizer(args)
    looks = [shown.look(part, asked, responses, tokenizer) for part in parts]
    if args.json:
        audits = {look.part.split: look.audit for look in looks}
        print(json.dumps({args.name: audits}, indent=1))
        return
    encoding = sys.stdout.encoding or "utf-8"
    for line in shown.report(asked, looks, responses, tokenizer, note):
        print(line.encode(encoding, "backslashreplace").decode(encoding))


def _asked(args: argparse.Namespace) -> shown.Asked:
    """The arguments as what is to be shown. Raises UserError for one that is impossible."""
    classes = args.belief_classes.split(",")
    if "" in classes or len(set(classes)) < len(classes):
        raise UserError(f"--belief-classes={args.belief_classes}: must be different labels, 0,1,2")
    if args.seed < 0 or not is_name(args.name):
        raise UserError("give a seed of 0 or more, and a name that the system takes (its length, its bytes)")
    if args.max_length < 2 or args.max_prompt_length < 1:
        raise UserError("give a --max-length of 2 or more, and a --max-prompt-length of 1 or more")
    if args.responses is not None and args.responses not in VIEWS:
        raise UserError(f"responses={args.responses}: choose one of {', '.join(VIEWS)}")
    splits = args.splits or loading.embedded_splits(args.name) or ("train", "eval")
    reading = Reading(args.seed, classes, pairs_per_prompt=16, eval_fraction=0.05, format=args.format)
    limits = Limits(args.max_length, args.max_prompt_length)
    return shown.Asked(args.name, splits, reading, args.responses, limits)


def _tokenizer(args: argparse.Namespace) -> tuple[PreTrainedTokenizerBase | None, str]:
    """The tokenizer, with its name; or none, with the reason. Raises UserError where the one that was named
    cannot be loaded.
    """
    if args.json and args.tokenizer is None:
        return None, "none asked for"
    import models  # which imports torch and transformers

    name = args.tokenizer or EMBEDDED_TOKENIZER
    try:
        tokenizer = models.load_tokenizer(name)
    except UserError as error:
        if args.tokenizer is not None:
            problem, _, _ = str(error).rpartition(";")  # its remedy is of training
            raise UserError(f"--{problem}; give a folder or a hub id that has one") from error
        return None, f"not shown: {error}; or give --tokenizer=NAME"
    limits = f"max_length {args.max_length}, max_prompt_length {args.max_prompt_length}"
    return tokenizer, f"as {name} makes them, within {limits}; --tokenizer=NAME takes another"


class _Parser(argparse.ArgumentParser):
    """One line for a wrong argument, as at the other doors."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see python preference_datasets.py --help")


def _parse_arguments() -> argparse.Namespace:
    parser = _Parser(
        prog="python preference_datasets.py",
        description="Print what a data set was taken for, with lengths, drops and examples.",
    )
    parser.add_argument("name", help="a known name, a file, a folder, a pattern in quotes, or a hub id")
    parser.add_argument(
        "splits", nargs="*", help="default: all splits of embedded data, train and eval of others"
    )
    views = ", ".join(VIEWS)
    parser.add_argument("--responses", help=f"the view, by default the one that fits: {views}")
    parser.add_argument("--format", help="of the rows, where it is not recognised; see docs/data.md")
    parser.add_argument("--tokenizer", help="a folder or a hub id; default: the embedded model's")
    parser.add_argument("--max-length", type=int, default=512, help="in tokens (default: %(default)s)")
    parser.add_argument("--max-prompt-length", type=int, default=256, help="in tokens (default: %(default)s)")
    classes = ",".join(CLASSES)
    parser.add_argument("--belief-classes", default=classes, help="class labels (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print the audit of every split as JSON")
    arguments = parser.parse_args()
    check_options(arguments.splits, set(vars(arguments)) - {"name", "splits", "json"})
    return arguments


if __name__ == "__main__":
    run_entry(main)
