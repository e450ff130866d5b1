"""The measures of a task's answers: lengths, how they ended, wins and scores, with intervals over questions.

Contract: samples are averaged to one value a question, decodings likewise, and questions are what intervals
resample. What was not judged is in no mean, and n says how many questions are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

import metrics
from evaluation.tasks.judging import Verdicts
from evaluation.tasks.record import ALPACA, Questions, Samples
from generation import Written
from metrics import Summary

Values = Mapping[str, Sequence[float | None]]  # by metric, then by question

WIN_RATE = "win_rate"
SCORE, SCORES_OF_TURNS = "score", ("score_turn_1", "score_turn_2")
LC = "length_controlled_win_rate"
LC_WITHOUT = "length_controlled_win_rate_without_difficulty"  # another measure, so under another name
CHARACTERS, BASELINE_CHARACTERS = "characters", "baseline_characters"
WITHHELD = "withheld_share"
WRITTEN: dict[str, Callable[[Written], float]] = {
    CHARACTERS: lambda written: len(written.text),
    "tokens": lambda written: written.tokens,
    "cut_share": lambda written: written.finish == "length",
    "empty_share": lambda written: not written.text.strip(),
    WITHHELD: lambda written: written.finish == "filtered",
}


def written_values(of_questions: Sequence[Samples]) -> dict[str, list[float | None]]:
    """Means over the answers to each question, of all samples and turns: characters, tokens, and shares of
    answers that were cut at max_new_tokens, are empty, or were withheld by a server."""
    values = {}
    for metric, value_of in WRITTEN.items():
        values[metric] = [
            mean([value_of(written) for turns in samples for written in turns]) for samples in of_questions
        ]
    return values


def mean(values: Sequence[float | None]) -> float | None:
    """The mean of those that are known; None where none is."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def means(verdicts: Verdicts) -> list[float | None]:
    """One value a question, of its samples."""
    return [mean(of_question) for of_question in verdicts]


def averaged(tables: Sequence[Values]) -> Values:
    """The mean of several decodings, question by question."""
    first = tables[0]
    return {metric: [mean(of_all) for of_all in zip(*(t[metric] for t in tables))] for metric in first}


def summaries_of(values: Values, questions: Questions, is_whole: bool = True) -> dict[str, Summary]:
    """The mean of each metric with its interval; WR, and beside it LC-WR where the whole of AlpacaEval's
    questions is meant."""
    summaries = {}
    for metric, of_questions in values.items():
        known = [value for value in of_questions if value is not None]
        if known and not is_usual(metric, known):
            summaries[metric] = metrics.summarize(known)
    judged = [value for value in values.get(WIN_RATE, ()) if value is not None]
    if questions.form == ALPACA and is_whole and judged:
        summaries[LC if questions.difficulty else LC_WITHOUT] = metrics.length_controlled_win_rate(
            values[WIN_RATE],
            values[CHARACTERS],
            values[BASELINE_CHARACTERS],
            questions.difficulty,
            questions.gamed,
        )
    return summaries


def is_usual(metric: str, known: Sequence[float]) -> bool:
    """Is this nothing to tell: that no answer was withheld?"""
    return metric == WITHHELD and not any(known)


def of_category(values: Values, questions: Questions, category: str) -> Values:
    """The values of one category's questions."""
    members = [i for i, question in enumerate(questions.asked) if question.category == category]
    return {metric: [of_questions[i] for i in members] for metric, of_questions in values.items()}
