"""Survey answers by person -> tallies by question and group, weighted.

Contract: an answer that is missing counts nowhere; every other counts once, with its weight. Options stand in
the order of the wordings that are given, else of the file's own categories, else of their numbers, else as
they first come. Files are read whole.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from groups.contents import identity_of
from groups.values import clipped, label_of
from synthesis.config import SynthesisSettings
from synthesis.people import People, read_people
from synthesis.record import Origin
from synthesis.tally import EVERYBODY, Survey, Tally
from utils import UserError

WORDING_FORM = '{"column": {"question": "...", "answers": {"1": "Agree", ...}}, ...}, or the question alone'


class Wording(NamedTuple):
    """What a user says of a question."""

    question: str
    answers: Mapping[str, str]  # the options' words by what the file has, in their order; {}: as the file has


class Answer(NamedTuple):
    """One person's answer to one question."""

    group: str
    option: str
    weight: float


def read_microdata(name: str, settings: SynthesisSettings) -> Survey:
    """The tallies of a file, as the config names its columns. Raises UserError for a file that cannot be
    read, a column that it lacks, a question without words and a weight that is no number of 0 or more."""
    _check_form(settings)
    people = read_people(Path(name))
    wordings = read_wordings(settings.wordings)
    nobody: list[str | None] = [EVERYBODY] * len(people.table)
    groups = people.column(settings.group) if settings.group else nobody
    weights = _weights(people, settings.weight)
    missing = set(settings.missing or ())
    tallies: list[Tally] = []
    for key, rows, values in _questions(people, settings):
        where = f"{people.path}: question {clipped(key)}"
        wording = wordings.get(key) or Wording(_words(people, key, settings, where), {})
        answers = []
        for row, value in zip(rows, values):
            group = groups[row]
            if value is None or value in missing or group is None:
                continue
            answers.append(Answer(group, _option(value, wording, where), weights[row]))
        order = list(wording.answers.values()) or people.options.get(settings.answer or key, ())
        tallies += _tallied(key, wording.question, answers, order)
    return Survey(Origin(name, identity_of([people.path]), len(people.table)), tuple(tallies))


def _check_form(settings: SynthesisSettings) -> None:
    is_long, is_wide = settings.question is not None, settings.questions is not None
    if is_long and is_wide:
        raise UserError("config keys question and questions: both are given; a file is of one form")
    if is_long != (settings.answer is not None):
        raise UserError("config keys question and answer: one is given; name both columns")


def _words(people: People, key: str, settings: SynthesisSettings, where: str) -> str:
    """The words of a question that no wording names."""
    words = key if settings.question else people.words.get(key, "")
    if not words.strip() or (settings.wordings and settings.question):
        raise UserError(f"{where}: has no words; give them in a JSON file, wordings=FILE: {WORDING_FORM}")
    return words


def _option(value: str, wording: Wording, where: str) -> str:
    """The words of an answer. Raises UserError for one that the wording does not have."""
    if wording.answers and value not in wording.answers:
        raise UserError(f"{where}: answer {clipped(value)} is in no wording; add it there, or to missing=")
    return wording.answers.get(value, value)


def _questions(
    people: People, settings: SynthesisSettings
) -> Iterator[tuple[str, Sequence[int], Sequence[str | None]]]:
    """Every question's key, with the numbers of its rows and the values there."""
    if settings.questions is not None:
        for column in settings.questions:
            yield column, range(len(people.table)), people.column(column)
        return
    keys, values = people.column(str(settings.question)), people.column(str(settings.answer))
    rows_of: dict[str, list[int]] = {}
    for row, key in enumerate(keys):
        if key is not None:
            rows_of.setdefault(key, []).append(row)
    for key, rows in rows_of.items():
        yield key, rows, [values[row] for row in rows]


def _weights(people: People, column: str | None) -> list[float]:
    """Every person's weight; one that is missing is 0. Raises UserError for what is no weight."""
    if column is None:
        return [1.0] * len(people.table)
    weights = []
    for number, text in enumerate(people.column(column), 1):
        try:
            weight = float(text or 0)
        except ValueError:
            weight = math.nan
        if not (math.isfinite(weight) and weight >= 0):
            raise UserError(
                f"{people.path}, row {number}: field {column}: {clipped(text)} is no number of 0 or more; "
                "correct the row"
            )
        weights.append(weight)
    return weights


def _tallied(key: str, words: str, answers: Sequence[Answer], order: Sequence[str]) -> Iterator[Tally]:
    """The tallies of a question, one for each group, with the options that anybody chose."""
    chosen = dict.fromkeys(answer.option for answer in answers)
    options = [option for option in dict.fromkeys(order) if option in chosen]
    options += _in_order([option for option in chosen if option not in options])
    counts: dict[str, dict[str, float]] = {}
    numbers: dict[str, int] = {}
    for group, option, weight in answers:
        counts.setdefault(group, dict.fromkeys(options, 0.0))[option] += weight
        numbers[group] = numbers.get(group, 0) + 1
    for group, of_group in counts.items():
        weighed = tuple(of_group.values())
        fault = "" if sum(weighed) > 0 else "no answers: all weights are 0"
        scale = tuple(dict.fromkeys([*order, *options])) if order else ()
        yield Tally(key, words, group, tuple(options), weighed, numbers[group], (), fault, scale)


def _in_order(options: Sequence[str]) -> list[str]:
    """Numbers by their size; words as they come."""
    try:
        return sorted(options, key=float)
    except ValueError:
        return list(options)


# --- wordings -----------------------------------------------------------------------------------------------


def read_wordings(path: str | None) -> dict[str, Wording]:
    """What a user's file says of columns, or of the keys of questions. Raises UserError where it is none."""
    if path is None:
        return {}
    try:
        given = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        reason = (error.strerror if isinstance(error, OSError) else str(error)) or type(error).__name__
        raise UserError(
            f"wordings={path}: cannot be read ({reason}); give a JSON file {WORDING_FORM}"
        ) from error
    if not isinstance(given, dict):
        raise UserError(f"wordings={path}: is no JSON object; give {WORDING_FORM}")
    return {key: _wording(value, f"wordings={path}: {clipped(key)}") for key, value in given.items()}


def _wording(value: object, where: str) -> Wording:
    match value:
        case str(question) if question.strip():
            return Wording(question, {})
        case {"question": str(question), "answers": dict(answers)} if question.strip() and len(value) == 2:
            if all(isinstance(words, str) and words.strip() for words in answers.values()):
                return Wording(question, {label_of(code): words for code, words in answers.items()})
    raise UserError(f"{where}: is no wording; give {WORDING_FORM}")
