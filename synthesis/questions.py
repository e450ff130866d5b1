"""The questions that dialogues are made of, and how every group of people answered them.

Contract: a question is one however many groups were asked it, so that all of them read the same texts.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from groups.questions import class_probs
from synthesis.config import SynthesisSettings
from synthesis.record import Origin, digest
from synthesis.tally import Tally, read_published
from utils import UserError

WORDS_OF_KEY = 5  # the last ones of a question, which tell it from others of its survey
LONGEST_KEY = 40  # characters of them
REMEDY = "make distributions of them by task=survey, and give their distributions.jsonl"


class Question(NamedTuple):
    """A question of a survey."""

    key: str
    text: str
    options: tuple[str, ...]
    labels: tuple[str, ...]  # the options' classes
    shares: Mapping[str, tuple[float, ...]]  # {group of people: the options' shares, which sum to 1}

    def belief_probs(self, group: str, classes: Sequence[str]) -> list[float]:
        """The group's p*, an entry a class."""
        return class_probs(self.labels, self.shares[group], classes)


class Questions(NamedTuple):
    """All questions of the sources."""

    questions: tuple[Question, ...]
    left_out: Mapping[str, int]  # answers of one group to one question, by the reason
    origins: tuple[Origin, ...]

    @property
    def groups(self) -> list[str]:
        """The groups of people, in the order of their first questions."""
        return list(dict.fromkeys(group for question in self.questions for group in question.shares))


def read_questions(settings: SynthesisSettings) -> Questions:
    """The questions of all sources, or `n` of them, drawn by the seed.

    Raises UserError for a source without shares of answers, and where no question has options with classes,
    or fewer than `n` have.
    """
    surveys = [
        read_published(source, settings.country, settings.belief_classes) for source in settings.sources or ()
    ]
    questions: dict[str, Question] = {}
    left_out: Counter[str] = Counter()
    for survey in surveys:
        for tally in survey.tallies:
            reason = _fault(tally) or _gather(questions, tally)
            if reason:
                left_out[reason] += 1
    if not questions:
        reasons = "; ".join(f"{reason} ({count})" for reason, count in left_out.most_common())
        raise UserError(f"sources: no question can be used ({reasons}); {REMEDY}")
    chosen = _some(list(questions.values()), settings)
    return Questions(tuple(chosen), dict(left_out), tuple(survey.origin for survey in surveys))


def _fault(tally: Tally) -> str:
    """Why a group's answers to a question cannot be used."""
    if tally.fault:
        return tally.fault.partition(":")[0]
    if not tally.labels:
        return "options without classes"
    if len(set(tally.labels)) < 2:
        return "options of one class"
    if len(set(tally.options)) < len(tally.options):
        return "an option stands twice"
    return ""


def _gather(questions: dict[str, Question], tally: Tally) -> str:
    """Put a tally to its question; why it is left out, where it is."""
    key = key_of(tally.question, tally.options, tally.labels)
    empty = Question(key, tally.question, tally.options, tally.labels, {})
    question = questions.get(key, empty)
    if tally.group in question.shares:
        return "asked of one group again"
    total = sum(tally.counts)
    shares = tuple(count / total for count in tally.counts)
    questions[key] = question._replace(shares={**question.shares, tally.group: shares})
    return ""


def key_of(text: str, options: Sequence[str], labels: Sequence[str]) -> str:
    """A question's name: its last words, and a hash of all of it."""
    words = re.findall(r"\w+", text.lower())[-WORDS_OF_KEY:]
    return f"{'-'.join(words)[-LONGEST_KEY:]}-{digest([text, list(options), list(labels)])[:8]}"


def _some(questions: list[Question], settings: SynthesisSettings) -> list[Question]:
    if settings.n is None:
        return questions
    if settings.n > len(questions):
        raise UserError(f"config key n={settings.n}: the sources have {len(questions)} questions; give fewer")
    order = list(range(len(questions)))
    random.Random(settings.seed).shuffle(order)  # a larger n holds a smaller one
    return [questions[place] for place in sorted(order[: settings.n])]
