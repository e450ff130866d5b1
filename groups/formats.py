"""Which format rows are in: the table of formats, and how one is recognised.

Contract: a format is recognised by its columns and the kinds of their values, exactly; `format=` names one
where rows could be of two. A row that does not fit raises `UserError` with the place and the remedy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

from groups.beliefs import read_mmoqa
from groups.own import read_own
from groups.preferences import (
    read_armorm,
    read_binarized,
    read_hh,
    read_se,
    read_shp,
    read_ultrafeedback,
)
from groups.rows import Reader, Row, Rows
from groups.surveys import key_of_shares, read_goqa, read_opinionqa, read_shares, read_subpop
from utils import UserError

MMOQA_COLUMNS = {
    "prompt",
    "accept_response",
    "reject_response",
    "accept_choice_id",
    "reject_choice_id",
    "probabilities",
}


SUBPOP_COLUMNS = frozenset({"question", "options", "responses", "attribute", "group"})


class Format(NamedTuple):
    """A layout of rows that people have."""

    name: str  # as `format=` takes it
    columns: frozenset[str]  # that every row has
    read: Reader  # of some rows, in their order
    # rows with one key belong to one prompt and are read together; None: a row has all of its prompt
    key: Callable[[Row], Hashable] | None = None
    takes_member: bool = False  # one of its members (a country) may be named behind a colon

    def fits(self, row: Row) -> bool:
        """Has a row what this format needs?"""
        return self.columns <= set(row)


def _of_prompt(row: Row) -> Hashable:
    return str(row.get("prompt")), str(row.get("probabilities")), str(row.get("context"))


def _of_history(row: Row) -> Hashable:
    return str(row.get("history"))


def _of_dialogue(row: Row) -> Hashable:
    chosen = str(row.get("chosen"))
    return chosen[: chosen.rfind("Assistant:")]


FORMATS = (  # of the most rows: the first that fits
    Format("mmoqa", frozenset(MMOQA_COLUMNS), read_mmoqa, key=_of_prompt),
    Format("ultrafeedback", frozenset({"instruction", "completions"}), read_ultrafeedback),
    Format("armorm", frozenset({"prompt", "all_generated_responses", "all_rm_scores"}), read_armorm),
    Format("binarized", frozenset({"chosen", "rejected", "score_chosen", "score_rejected"}), read_binarized),
    Format(
        "shp",
        frozenset({"history", "human_ref_A", "human_ref_B", "labels", "score_A", "score_B"}),
        read_shp,
        key=_of_history,
    ),
    Format("goqa", frozenset({"question", "selections", "options"}), read_goqa, takes_member=True),
    Format("opinionqa", frozenset({"MC_options", "question_text"}), read_opinionqa, takes_member=True),
    Format("subpop", SUBPOP_COLUMNS, read_subpop, takes_member=True),
    Format(
        "shares", frozenset({"question", "option", "share"}), read_shares, key_of_shares, takes_member=True
    ),
    Format(
        "counts", frozenset({"question", "option", "count"}), read_shares, key_of_shares, takes_member=True
    ),
    Format("se", frozenset({"question", "answers"}), read_se),
    Format("hh", frozenset({"chosen", "rejected"}), read_hh, key=_of_dialogue),
)
# reads what no other format fits, where a row has one of these columns
OWN = Format("grove", frozenset({"prompt", "responses"}), read_own)


def choose_format(rows: Rows, place: str, name: str | None = None) -> Format:
    """The format of most rows, or the one that `name` names.

    Raises UserError where no row is of a known one, or where a row lacks a column that most have.
    """
    if name is not None:
        named = next((known for known in (*FORMATS, OWN) if known.name == name), None)
        if named is None:
            known = ", ".join(known.name for known in (*FORMATS, OWN))
            raise UserError(f"format={name}: unknown; choose one of {known}")
        return named
    kinds = [next((known for known in FORMATS if known.fits(row)), None) for _, row in rows]
    counts = Counter(kind for kind in kinds if kind is not None)
    if counts:
        chosen = max(counts, key=lambda kind: (counts[kind], -FORMATS.index(kind)))
        if sum("responses" in row for _, row in rows) <= counts[chosen]:
            return chosen
    if any(OWN.columns & set(row) for _, row in rows):
        return OWN
    columns = ", ".join(sorted(rows[0][1])) if rows else ""
    supported = "; ".join(", ".join(sorted(known.columns)) for known in FORMATS)
    raise UserError(
        f"{place}, row 1: columns {columns or 'none'} are no known data set; write prompt "
        f"and responses, or the columns of a supported data set ({supported})"
    )


def read_groups(known: Format, rows: Sequence, source) -> list:
    """The groups of some rows, each of which must have the format's columns. Raises UserError."""
    if known is not OWN:
        _check_columns(rows, known.columns)
    return known.read(rows, source)


def _check_columns(rows: Rows, needed: frozenset[str]) -> None:
    for where, row in rows:
        missing = sorted(needed - set(row))
        if missing:
            has = ", ".join(sorted(row)) or "nothing"
            raise UserError(
                f"{where}: field {missing[0]}: missing, and most rows have it (this one has {has}); "
                "add it or leave the row out"
            )
