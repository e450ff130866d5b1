"""The report of a task: rows of a table, paired differences, and a line for every answer.

Contract: a row is a checkpoint, averaged over its decodings; where there are several, each is a row too, and
so is each category of the questions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.differences import ByMetric, of_means
from evaluation.kinds import TASK
from evaluation.predictions import Predictions
from evaluation.report import Report
from evaluation.tasks import measures
from evaluation.tasks.judging import Judged
from evaluation.tasks.measures import Values
from evaluation.tasks.record import Baseline, Questions, TaskAnswers
from metrics import Summary


def make_report(
    questions: Questions,
    answers: Sequence[TaskAnswers],
    judged: Sequence[Judged],
    baseline: Baseline | None,
    predictions: Predictions,
    facts: Mapping[str, Any],
    scope: str,
) -> Report:
    """All that was found. judged: of the first of the answers; a baseline's own are not judged."""
    results: dict[str, dict[str, Summary]] = {}
    lines: list[dict[str, Any]] = []
    by_checkpoint: dict[str, ByMetric] = {}
    for number, of_checkpoint in enumerate(answers):
        verdicts = judged[number] if number < len(judged) else Judged({}, ())
        results |= rows_of(questions, of_checkpoint, verdicts, baseline)
        lines += lines_of(of_checkpoint, verdicts, predictions)
        by_checkpoint[of_checkpoint.name] = by_question(values_of(of_checkpoint, verdicts, baseline))
    groups = next(iter(answers[0].asked.values()))[0].groups
    differences = of_means(by_checkpoint, groups, TASK)
    return Report(results, facts, lines, (), scope, differences)


def by_question(tables: Mapping[str, Values]) -> ByMetric:
    """What is compared between checkpoints: the values that are known, by the question's number."""
    whole = measures.averaged(list(tables.values()))
    return {
        metric: {i: value for i, value in enumerate(of_questions) if value is not None}
        for metric, of_questions in whole.items()
        if metric not in (measures.BASELINE_CHARACTERS, measures.WITHHELD)
    }


def rows_of(
    questions: Questions, answers: TaskAnswers, judged: Judged, baseline: Baseline | None
) -> dict[str, dict[str, Summary]]:
    """The rows of one checkpoint."""
    tables = values_of(answers, judged, baseline)
    whole = measures.averaged(list(tables.values()))
    rows = {answers.name: measures.summaries_of(whole, questions)}
    if len(tables) > 1:
        for decoding, values in tables.items():
            rows[f"{answers.name} ({decoding})"] = measures.summaries_of(values, questions)
    for category in questions.categories():
        values = measures.of_category(whole, questions, category)
        rows[f"{answers.name}: {category or 'no category'}"] = measures.summaries_of(values, questions, False)
    return rows


def values_of(answers: TaskAnswers, judged: Judged, baseline: Baseline | None) -> dict[str, Values]:
    """What is known of each question, by decoding."""
    tables = {}
    for decoding, of_questions in answers.samples.items():
        values = measures.written_values(of_questions)
        if judged.wins and baseline is not None:
            values[measures.WIN_RATE] = measures.means(judged.wins[decoding])
            values[measures.BASELINE_CHARACTERS] = [
                measures.mean([len(text) for text in texts]) for texts in baseline.texts[decoding]
            ]
        turns = [measures.means(of_turn[decoding]) for of_turn in judged.scores]
        if turns:
            values[measures.SCORE] = [measures.mean(of_question) for of_question in zip(*turns)]
        if len(turns) > 1:
            values |= dict(zip(measures.SCORES_OF_TURNS, turns))
        tables[decoding] = values
    return tables


def lines_of(answers: TaskAnswers, judged: Judged, predictions: Predictions) -> list[dict[str, Any]]:
    """The lines of predictions.jsonl: each different answer once, with what the judge said of it."""
    lines: dict[tuple[str, str, int], dict[str, Any]] = {}
    for decoding, turns in answers.asked.items():
        for turn, asked in enumerate(turns):
            for (i, number), (group, sample) in asked.of_sample.items():
                of_group = asked.groups[group]
                line = predictions.line_of(answers.name, of_group, decoding, sample)
                line["question"], line["turn"] = of_group.question, turn + 1
                if judged.scores:
                    line["score"] = judged.scores[turn][decoding][i][number]
                if judged.wins:
                    line["preference"] = judged.wins[decoding][i][number]
                lines.setdefault((of_group.id, decoding, sample), line)
    return list(lines.values())
