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
from collections.abc import Sequence

from groups import (
    CLASSES,
    DATA,
    OPINION_GROUPS,
    OPINION_SPLITS,
    SUFFIXES,
    VIEWS,
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
from utils import UserError, run_entry

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


def main() -> None:
    """Print the audit of a data set's splits as JSON, {data set: {split: audit}}."""
    args = _parse_arguments()
    default_splits = OPINION_SPLITS if args.name.startswith("opinions") else ("train", "eval")
    splits, counts = {}, {}
    for split in args.splits or default_splits:
        dropped: Counter = Counter()
        groups = load_groups(args.name, split, args.seed, args.belief_classes.split(","), dropped=dropped)
        splits[split] = (groups, view(groups, args.responses, args.seed, dropped), [])
        counts[split] = {args.name: dropped}
    print(json.dumps(audit_splits(splits, counts), indent=1))


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
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
