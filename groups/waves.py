"""Folders of OpinionQA's release (arXiv 2303.17548): the questions and the people's answers of one survey.

Contract: `info.csv` has the questions (key, question, references), `responses.csv` a row a person with an
answer a key, a weight (WEIGHT_W26) and attributes (POLPARTY), `metadata.csv` the values of attributes. They
make rows of {group of people: {option: weight}}, as OpinionQA's `*_data.json` have them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from groups.parsing import parse_csv
from groups.rows import Row, is_share
from groups.values import is_absent, parsed
from utils import UserError

EVERYBODY = "Overall"
INFO, RESPONSES, METADATA = "info.csv", "responses.csv", "metadata.csv"

Tally = dict[str, dict[str, Counter[str]]]  # {key of a question: {group of people: {option: weight}}}


def is_wave(folder: Path) -> bool:
    """Does a folder hold the questions and the answers of a survey?"""
    return (folder / INFO).is_file() and (folder / RESPONSES).is_file()


def wave_files(folder: Path) -> list[Path]:
    """The files of a survey that its rows come from."""
    return [path for name in (INFO, RESPONSES, METADATA) if (path := folder / name).is_file()]


def read_wave(folder: Path) -> list[tuple[str, Row]]:
    """A row for every question, with the weights of its options in every group: Overall, POLPARTY=Democrat.

    A person without a value of an attribute is in none of its groups. Raises UserError where a file lacks a
    column, or a weight is no number.
    """
    questions = list(_rows(folder / INFO, ("key", "question", "references")))
    keys = [row["key"] for _, row in questions]
    tally = _tally(folder, keys, _attributes(folder))
    return [
        (
            where,
            {
                "key": row["key"],
                "question_text": row["question"],
                "MC_options": parsed(row["references"]),
                **tally[row["key"]],
            },
        )
        for where, row in questions
    ]


def _rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, Row]]:
    for number, row in enumerate(parse_csv(path), 1):
        where = f"{path}, row {number}"
        for column in columns:
            if is_absent(row.get(column)):
                raise UserError(f"{where}: field {column}: missing or empty; correct the row")
        yield where, row


def _attributes(folder: Path) -> dict[str, list[Any]]:
    """{attribute: its values}, those that are no answer (a refusal) left out, as the release has it."""
    if not (folder / METADATA).is_file():
        return {}
    attributes = {}
    for where, row in _rows(folder / METADATA, ("key", "options")):
        values = parsed(row["options"])
        if not isinstance(values, list):
            raise UserError(f"{where}: field options: is no list of texts; correct the row")
        attributes[row["key"]] = values
    return attributes


def _tally(folder: Path, keys: Sequence[str], attributes: dict[str, list[Any]]) -> Tally:
    tally: Tally = {key: {} for key in keys}
    for where, row in _rows(folder / RESPONSES, ()):
        names = [EVERYBODY]
        names += [f"{name}={row[name]}" for name, values in attributes.items() if row.get(name) in values]
        for key in keys:
            if not is_absent(row.get(key)):
                weight = _weight(where, row, key)
                for name in names:
                    tally[key].setdefault(name, Counter())[row[key]] += weight
    return tally


def _weight(where: str, row: Row, key: str) -> float:
    """What the person's answer to a question counts: WEIGHT_W26 for SAFECRIME_W26."""
    column = f"WEIGHT_{key.rpartition('_')[2]}"
    weight = parsed(row.get(column))
    if not is_share(weight):
        raise UserError(f"{where}: field {column}: {weight} is no number of 0 or more; correct the row")
    return weight
