"""One checkpoint's answers to a task's questions, turn after turn.

Contract: every sample is a conversation of its own: its second turn is asked after its own first answer, and
conversations that are alike are continued alike. What was answered before is not asked again (see
`evaluation.predictions`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from evaluation.answers import open_generator, respond
from evaluation.checkpoints import Checkpoint
from evaluation.predictions import Predictions
from evaluation.tasks.record import Asked, Question, TaskAnswers, Turns, conversation
from generation import Written
from groups import Group
from ranks import World
from settings import EvaluationSettings

Samples = list[list[Turns]]  # by question, then by sample


def answer(
    checkpoint: Checkpoint,
    questions: Sequence[Question],
    settings: EvaluationSettings,
    world: World,
    predictions: Predictions,
) -> TaskAnswers:
    """All samples of all turns. A call for all ranks.

    Raises UserError for a checkpoint that cannot be loaded, and for a question that it cannot take.
    """
    first = first_turn(questions, settings)
    asked: dict[str, list[Asked]] = {}
    samples: dict[str, Samples] = {}
    with open_generator(checkpoint, settings, world) as generator:

        def written(groups: Sequence[Group], how: EvaluationSettings) -> Mapping[str, list[list[Written]]]:
            return respond(generator, checkpoint.name, groups, how, world, predictions)

        for decoding, answers in written(first.groups, settings).items():
            asked[decoding] = [first]
            samples[decoding] = with_turn(
                [[()] * len(of_question) for of_question in answers], first, answers
            )
        for turn in range(1, questions[0].num_turns):
            for decoding, so_far in samples.items():
                following = next_turn(questions, so_far, turn, settings)
                named = settings.decoding and [decoding]  # None: the temperature's own, which is the only one
                alone = dataclasses.replace(settings, decoding=named, n_samples=1)
                answers = written(following.groups, alone)[decoding]
                asked[decoding].append(following)
                samples[decoding] = with_turn(so_far, following, answers)
    return TaskAnswers(checkpoint.name, samples, asked)


def first_turn(questions: Sequence[Question], settings: EvaluationSettings) -> Asked:
    """Every question, of which all samples are drawn."""
    groups = [_group(question, question.id, question.prompt, settings) for question in questions]
    places = {(i, n): (i, n) for i in range(len(groups)) for n in range(settings.n_samples)}
    return Asked(groups, places)


def next_turn(
    questions: Sequence[Question], so_far: Samples, turn: int, settings: EvaluationSettings
) -> Asked:
    """Every different conversation, of which one sample is drawn. turn: from 0 on."""
    groups: list[Group] = []
    places = {}
    for i, (question, samples) in enumerate(zip(questions, so_far)):
        known: dict[tuple[str, ...], int] = {}
        for number, turns in enumerate(samples):
            said = tuple(written.text for written in turns)
            if said not in known:
                known[said] = len(groups)
                name = f"{question.id}, turn {turn + 1} of sample {number + 1}"
                groups.append(_group(question, name, conversation(question, turns, turn), settings))
            places[i, number] = (known[said], 0)
    return Asked(groups, places)


def with_turn(so_far: Samples, asked: Asked, answers: Sequence[Sequence[Written]]) -> Samples:
    """The conversations with one more answer each."""
    longer: Samples = []
    for i, samples in enumerate(so_far):
        longer.append([])
        for number, turns in enumerate(samples):
            group, sample = asked.of_sample[i, number]
            longer[-1].append((*turns, answers[group][sample]))
    return longer


def _group(question: Question, name: str, prompt: object, settings: EvaluationSettings) -> Group:
    return Group(name, prompt, (), where=question.where, dataset=settings.task, question=question.id)
