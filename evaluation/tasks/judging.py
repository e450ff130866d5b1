"""What a judge says of a task's answers: wins against a baseline, and scores.

Contract: every sample is judged by itself, all of a checkpoint's in one call; what the judge cannot say is
None and counts in no mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from evaluation.folder import writing
from evaluation.judges import Answered, Compared, PairJudge, ScoreJudge
from evaluation.tasks.forms import write_list
from evaluation.tasks.record import (
    Baseline,
    Question,
    Questions,
    TaskAnswers,
    as_file_name,
    conversation,
    sheets_of,
)

Verdicts = Sequence[Sequence[float | None]]  # by question, then by sample


class Judged(NamedTuple):
    """What a judge says of one checkpoint's answers."""

    wins: Mapping[str, Verdicts]  # by decoding; empty: they were not compared
    scores: Sequence[Mapping[str, Verdicts]]  # by turn, then by decoding; empty: they were not scored


def unjudged(judged: Judged) -> dict[str, int]:
    """How many answers were compared, and scored, without a verdict."""

    def without(tables: Sequence[Mapping[str, Verdicts]]) -> int:
        cells = [
            cell for table in tables for verdicts in table.values() for some in verdicts for cell in some
        ]
        return sum(cell is None for cell in cells)

    return {"not_compared": without([judged.wins]), "not_scored": without(judged.scores)}


def preferences_of(
    judge: PairJudge, asked: Sequence[Question], answers: TaskAnswers, baseline: Baseline
) -> dict[str, Verdicts]:
    """Each answer against the baseline's: 1 where it is preferred, 0 where the baseline is. By decoding."""
    pairs = {}
    for decoding, of_questions in answers.samples.items():
        texts = baseline.texts[decoding]
        for i, samples in enumerate(of_questions):
            for number, turns in enumerate(samples):
                pair = Compared(asked[i].prompt, turns[0].text, texts[i][number])
                pairs[decoding, i, number] = pair
    verdicts = dict(zip(pairs, judge.preferences(list(pairs.values()))))
    return _by_question(answers, lambda *place: verdicts[place])


def scores_of(
    judge: ScoreJudge, asked: Sequence[Question], answers: TaskAnswers
) -> list[dict[str, Verdicts]]:
    """The score of each answer, beside the reference answer where there is one. By turn, then by decoding."""
    responses = {}
    for decoding, of_questions in answers.samples.items():
        for i, samples in enumerate(of_questions):
            for number, turns in enumerate(samples):
                for turn, written in enumerate(turns):
                    before = conversation(asked[i], turns, turn)
                    reference = (asked[i].references[turn:] or ("",))[0]
                    responses[turn, decoding, i, number] = Answered(before, written.text, reference)
    verdicts = dict(zip(responses, judge.scores(list(responses.values()))))
    return [
        _by_question(answers, lambda *place, turn=turn: verdicts[turn, *place])
        for turn in range(asked[0].num_turns)
    ]


def _by_question(
    answers: TaskAnswers, verdict_of: Callable[[str, int, int], float | None]
) -> dict[str, Verdicts]:
    return {
        decoding: [
            [verdict_of(decoding, i, number) for number in range(len(samples))]
            for i, samples in enumerate(of_questions)
        ]
        for decoding, of_questions in answers.samples.items()
    }


# --- AlpacaEval's annotations -------------------------------------------------------------------------------


def write_annotations(
    folder: Path,
    questions: Questions,
    answers: TaskAnswers,
    baseline: Baseline,
    verdicts: Mapping[str, Verdicts],
    judge: str,
) -> list[Path]:
    """Write annotations_NAME.json as `alpaca_eval` writes them: preference 1 for output_1, the baseline's, to
    2 for output_2; null where the judge said nothing. Raises UserError where the disk refuses it."""
    paths = []
    with writing(folder):
        for sheet in sheets_of(answers):
            wins, texts = verdicts[sheet.decoding], baseline.texts[sheet.decoding]
            lines = []
            for question, turns, of_wins, of_texts in zip(questions.asked, sheet.turns, wins, texts):
                win = of_wins[sheet.number]
                lines.append(
                    {
                        "instruction": question.row["instruction"],
                        "output_1": of_texts[sheet.number],
                        "generator_1": baseline.name,
                        "dataset": question.category,
                        "output_2": turns[0].text,
                        "generator_2": sheet.name,
                        "annotator": judge,
                        "preference": None if win is None else 1 + win,
                    }
                )
            paths.append(folder / as_file_name(f"annotations_{sheet.name}", ".json"))
            write_list(paths[-1], lines)
    return paths
