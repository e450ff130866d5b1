"""What tasks are made of: questions, what was answered, and where the questions came from.

Contract: records are frozen. A question keeps the row that it was read from, for answer files repeat parts
of it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from generation import Written
from groups import Group, Prompt
from groups.rows import Row
from metrics import Gamed

# forms of question files, and of the answer files that belong to them
ALPACA = "alpaca_eval"
FASTCHAT = "fastchat"
ARENA_V01 = "arena-hard-v0.1"
ARENA_V2 = "arena-hard-v2.0"
PLAIN = "plain"


class Question(NamedTuple):
    """What is asked, in one turn or several."""

    id: str
    prompt: Prompt  # of the first turn
    later_turns: tuple[str, ...]  # what the user says after each answer
    category: str  # "" where the file names none
    references: tuple[
        str, ...
    ]  # reference answers, one a turn, "" for a turn that has none; (): there are none
    row: Row  # as the file has it
    where: str  # file and row, for errors

    @property
    def num_turns(self) -> int:
        return 1 + len(self.later_turns)


class Questions(NamedTuple):
    """The questions of a task."""

    form: str  # one of the above
    place: str  # the file or the hub's data set
    asked: Sequence[Question]
    difficulty: Sequence[float] | None = None  # of each instruction, as AlpacaEval 2 measured it
    gamed: Gamed | None = None  # judged answers of AlpacaEval 2's gamed baselines

    def categories(self) -> list[str]:
        """All categories, in the order in which they first appear; none where all questions are of one."""
        names = list(dict.fromkeys(question.category for question in self.asked))
        return names if len(names) > 1 else []


Turns = tuple[Written, ...]  # the answers of one sample, one a turn
Samples = Sequence[Turns]  # of one question


class Asked(NamedTuple):
    """What was asked in one turn, and where each sample's answer is."""

    groups: Sequence[Group]
    of_sample: Mapping[tuple[int, int], tuple[int, int]]  # (question, sample) -> (group, sample of the group)


class TaskAnswers(NamedTuple):
    """What one checkpoint answered."""

    name: str
    samples: Mapping[str, Sequence[Samples]]  # by decoding, then by question
    asked: Mapping[str, Sequence[Asked]]  # by decoding, then by turn


class Baseline(NamedTuple):
    """What wins are counted against."""

    name: str
    texts: Mapping[str, Sequence[Sequence[str]]]  # by decoding, then by question, then by sample


def conversation(question: Question, turns: Turns, turn: int) -> Prompt:
    """All that stands before the answer of a turn (from 0 on)."""
    if turn == 0:
        return question.prompt
    before = conversation(question, turns, turn - 1)
    answer = {"role": "assistant", "content": turns[turn - 1].text}
    return [*before, answer, {"role": "user", "content": question.later_turns[turn - 1]}]


class Sheet(NamedTuple):
    """One answer to each question: what an answer file holds."""

    name: str  # of the checkpoint, and of decoding and sample where there are several
    decoding: str
    number: int  # of the sample
    turns: Sequence[Turns]  # by question


def sheets_of(answered: TaskAnswers) -> list[Sheet]:
    """A sheet for each decoding and sample, the first of them under the checkpoint's own name."""
    num_samples = len(next(iter(answered.samples.values()))[0])
    sheets = []
    for name, (decoding, number) in names_of_sheets(answered.name, answered.samples, num_samples).items():
        turns = [samples[number] for samples in answered.samples[decoding]]
        sheets.append(Sheet(name, decoding, number, turns))
    return sheets


def names_of_sheets(name: str, decodings: Collection[str], num_samples: int) -> dict[str, tuple[str, int]]:
    """What a checkpoint's sheets are called, each with its decoding and the number of its sample.

    Checkpoints that share a name are told apart by `-2`; a sample says what it is.
    """
    names = {}
    for decoding in decodings:
        of_decoding = f"{name}-{decoding}" if len(decodings) > 1 else name
        for number in range(num_samples):
            names[f"{of_decoding}-sample{number + 1}" if number else of_decoding] = (decoding, number)
    return names


def as_file_name(name: str, suffix: str) -> Path:
    """A name as a file's: the slash of `owner/model` has another meaning there."""
    return Path(name.replace("/", "__") + suffix)
