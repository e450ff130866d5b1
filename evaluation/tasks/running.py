"""A task from its questions to its report: answers, answer files, judging, measures.

Contract: what can be refused is refused before a model is loaded. Answer files are there before anything is
judged. Other ranks than the main one share the answering and get no report.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import models
from evaluation import judges
from evaluation.checkpoints import Checkpoint, find_checkpoints
from evaluation.predictions import Predictions
from evaluation.report import Report
from evaluation.tasks import baselines
from evaluation.tasks.answering import answer, first_turn
from evaluation.tasks.forms import write_answers
from evaluation.tasks.judging import Judged, preferences_of, scores_of, unjudged, write_annotations
from evaluation.tasks.measures import LC, LC_WITHOUT, SCORE, SCORES_OF_TURNS, WIN_RATE
from evaluation.tasks.prompts import read_questions
from evaluation.tasks.record import (
    ALPACA,
    FASTCHAT,
    Baseline,
    Questions,
    TaskAnswers,
    as_file_name,
    names_of_sheets,
)
from evaluation.tasks.results import make_report
from generation import decodings_of
from ranks import World
from settings import EvaluationSettings
from utils import UserError, log

WITH_WINS = ("alpaca_eval", "arena_hard")  # tasks that have a baseline of their own
JUDGED = (WIN_RATE, LC, LC_WITHOUT, SCORE, *SCORES_OF_TURNS)  # metrics whose numbers are the judge's
NO_VERDICTS = "embedding"  # the judge that says nothing of answers without references


def check_task(settings: EvaluationSettings) -> None:
    """Raises UserError for settings that a task has no use for. Reads no file."""
    if settings.few_shot:
        raise UserError(
            f"few_shot={settings.few_shot}: a task's prompts are asked without solved examples; leave it out"
        )
    if settings.n_samples == 0:
        raise UserError("n_samples=0: a task needs answers; set 1 or more")
    if settings.task == "mt_bench" and settings.baseline is not None:
        raise UserError("task=mt_bench: scores each answer by itself; leave baseline out")


def has_wins(settings: EvaluationSettings) -> bool:
    """Are answers compared with a baseline's?"""
    wanted = settings.task in WITH_WINS or settings.baseline is not None
    return wanted and settings.judge != NO_VERDICTS


def answering(checkpoints: Sequence[Checkpoint], settings: EvaluationSettings) -> list[Checkpoint]:
    """Whose answers a task needs: the checkpoints, and the baseline where it is another one.

    Raises UserError for a baseline that cannot be found or is all that is to be compared with it, and where
    two of them would write one file.
    """
    baseline = _baseline_checkpoint(checkpoints, settings)
    if baseline is not None and list(checkpoints) == [baseline]:
        raise UserError(
            f"baseline={settings.baseline}: is the checkpoint itself; give another one, or a file of answers"
        )
    everyone = [*checkpoints, *(() if baseline is None or baseline in checkpoints else (baseline,))]
    check_file_names([checkpoint.name for checkpoint in everyone], settings)
    return everyone


def _baseline_checkpoint(
    checkpoints: Sequence[Checkpoint], settings: EvaluationSettings
) -> Checkpoint | None:
    """The checkpoint that is the baseline; None where that is a file, or the task's own, or there is none."""
    if settings.baseline is None or not has_wins(settings) or baselines.is_answer_file(settings.baseline):
        return None
    (found,) = find_checkpoints(dataclasses.replace(settings, ckpt=[settings.baseline]))
    same = next((c for c in checkpoints if c.source == found.source), None)
    if same is not None:
        return same
    return found._replace(name=_name_beside([checkpoint.name for checkpoint in checkpoints], found.name))


def _name_beside(names: Sequence[str], name: str) -> str:
    """What a baseline is called in a report that has these names."""
    while name in names:
        name += "-baseline"
    return name


def check_file_names(names: Sequence[str], settings: EvaluationSettings) -> None:
    """Raises UserError where the answers of two checkpoints would be written into one file."""
    decodings = [decoding.name for decoding in decodings_of(settings.decoding, settings.temperature)]
    writer_of: dict[str, str] = {}  # of a file, by its name
    for name in names:
        for sheet in names_of_sheets(name, decodings, settings.n_samples or 1):
            file = as_file_name(sheet, "").name
            other = writer_of.setdefault(file, name)
            if other != name:
                raise UserError(
                    f"ckpt: answers of {other} and of {name} would be written into one file, {file}; "
                    "evaluate them one by one, or give one of the folders another name"
                )


class Plan(NamedTuple):
    """A task that was read: what is asked, and the baseline's answers where a file has them."""

    questions: Questions
    baseline: tuple[str, list[str]] | None  # the model's name and its texts


def plan(settings: EvaluationSettings) -> Plan:
    """Read questions and baseline. Raises UserError for what cannot be read or fetched."""
    questions = read_questions(settings)
    if not has_wins(settings):
        return Plan(questions, None)
    if settings.baseline is None:
        return Plan(questions, baselines.read_default(questions))
    if baselines.is_answer_file(settings.baseline):
        return Plan(questions, baselines.read_file(settings.baseline, questions.asked))
    return Plan(questions, None)


def scope_of(questions: Questions, settings: EvaluationSettings) -> str:
    """What is asked, in one line."""
    samples = f"; {settings.n_samples} samples each" if settings.n_samples > 1 else ""
    return f"{len(questions.asked)} questions of {settings.task} ({questions.place}){samples}"


def evaluate_task(
    checkpoints: Sequence[Checkpoint],
    settings: EvaluationSettings,
    world: World,
    predictions: Predictions,
) -> Report | None:
    """Answer, write the answer files into the report's folder, judge and measure; None on other ranks than
    the main one. A call for all ranks.

    checkpoints: those to evaluate; `predictions` must know all of `answering`. Raises UserError for bad
    settings, files, checkpoints and judges.
    """
    check_task(settings)
    questions, of_file = plan(settings)
    predictions.expect(first_turn(questions.asked, settings).groups, goes_on=questions.form == FASTCHAT)
    everyone = answering(checkpoints, settings)
    answers = [answer(one, questions.asked, settings, world, predictions) for one in everyone]
    if not world.is_main:
        return None
    files = write_answers(predictions.folder, questions, answers)
    baseline = None
    if has_wins(settings):
        of_checkpoint = _baseline_checkpoint(checkpoints, settings)
        replies = answers[everyone.index(of_checkpoint)] if of_checkpoint else None
        baseline = _of_checkpoint(replies) if replies else _of_file(of_file, answers)
    judged, judge = _judge(questions, answers[: len(checkpoints)], baseline, settings)
    files += _annotations(predictions.folder, questions, answers, baseline, judged, judge)
    for path in files:
        log.info("written: %s", path)
    facts = _facts(questions, settings, everyone, baseline, judge, files)
    facts["unjudged"] = {a.name: unjudged(verdicts) for a, verdicts in zip(answers, judged)}
    scope = scope_of(questions, settings)
    return make_report(questions, answers, judged, baseline, predictions, facts, scope)


# --- what is judged -----------------------------------------------------------------------------------------


def _of_checkpoint(replies: TaskAnswers) -> Baseline:
    """A checkpoint's answers as what wins are counted against, sample by sample."""
    texts = {}
    for decoding, of_questions in replies.samples.items():
        texts[decoding] = [[turns[0].text for turns in samples] for samples in of_questions]
    return Baseline(replies.name, texts)


def _of_file(of_file: tuple[str, list[str]], answers: Sequence[TaskAnswers]) -> Baseline:
    """A file's answers, one a question, for every decoding and sample of the checkpoints'."""
    name, texts = of_file
    name = _name_beside([of_checkpoint.name for of_checkpoint in answers], name)
    samples = {}
    for decoding, of_questions in answers[0].samples.items():
        samples[decoding] = [[text] * len(of_question) for text, of_question in zip(texts, of_questions)]
    return Baseline(name, samples)


def _judge(
    questions: Questions,
    answers: Sequence[TaskAnswers],
    baseline: Baseline | None,
    settings: EvaluationSettings,
) -> tuple[list[Judged], judges.Judge | None]:
    """What the judge says of each checkpoint's answers, and the judge; nothing where there is none."""
    chosen = judges.make_judges(settings)
    if chosen.pair is None or chosen.score is None:
        what = "wins" if settings.task in WITH_WINS else "scores"
        unused = "" if settings.baseline is None else f", and baseline={settings.baseline} is not used"
        log.info(
            "judge=%s says nothing of a task's answers%s: they are written; for %s set judge=openai, "
            "reward_model or module:function",
            settings.judge,
            unused,
            what,
        )
        return [], None
    judged = []
    for of_checkpoint in answers:
        log.info("judging %s by %s", of_checkpoint.name, chosen.pair.name)
        wins, scores = {}, []
        is_baseline = baseline is not None and of_checkpoint.name == baseline.name
        if baseline is not None and not is_baseline:
            wins = preferences_of(chosen.pair, questions.asked, of_checkpoint, baseline)
        if settings.task not in WITH_WINS:
            scores = scores_of(chosen.score, questions.asked, of_checkpoint)
        judged.append(Judged(wins, scores))
    return judged, chosen.pair


def _annotations(
    folder: Path,
    questions: Questions,
    answers: Sequence[TaskAnswers],
    baseline: Baseline | None,
    judged: Sequence[Judged],
    judge: judges.Judge | None,
) -> list[Path]:
    """AlpacaEval's annotations of every checkpoint that was compared."""
    if questions.form != ALPACA or baseline is None or judge is None:
        return []
    paths = []
    for of_checkpoint, verdicts in zip(answers, judged):
        if verdicts.wins:
            paths += write_annotations(folder, questions, of_checkpoint, baseline, verdicts.wins, judge.name)
    return paths


def _facts(
    questions: Questions,
    settings: EvaluationSettings,
    everyone: Sequence[Checkpoint],
    baseline: Baseline | None,
    judge: judges.Judge | None,
    files: Sequence[Path],
) -> dict[str, Any]:
    """How it was made: report.json's "settings"."""
    facts: dict[str, Any] = {
        "task": settings.task,
        "prompts": questions.place,
        "form": questions.form,
        "questions": len(questions.asked),
        "seed": settings.seed,
        "few_shot": 0,
        "n_samples": settings.n_samples,
        "decoding": [d.name for d in decodings_of(settings.decoding, settings.temperature)],
        "max_new_tokens": settings.max_new_tokens,
        "generator": settings.generator,
        "baseline": baseline and baseline.name,
        "judge": judge and judge.name,
        "judges": {metric: judge.name for metric in JUDGED} if judge else {},
        "judge_counts": judge and dict(judge.counts()),
        "sources": {checkpoint.name: checkpoint.source for checkpoint in everyone},
        "files": [path.name for path in files],
    }
    if questions.form == ALPACA:
        facts["instruction_difficulty"] = questions.difficulty is not None
        facts["gamed_baselines"] = questions.gamed is not None
    return {**facts, **models.versions()}
