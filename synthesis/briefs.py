"""What a writer of dialogues is asked: a survey's question in other words, and answers that voice an option.

Contract: a brief is a function of texts; it is all that determines what is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from synthesis.questions import Question
from synthesis.record import Item
from synthesis.voicing import Claim

STYLES = {  # a name: the way it is asked
    "casual": "a friend would ask it over a coffee",
    "formal": "an official letter would ask it",
    "street": "a reporter would ask it of somebody who walks by in the street",
    "interview": "an interviewer would ask it, after a sentence that leads up to it",
    "online": "somebody would ask it in a post on the internet",
}
AS_IT_STANDS = "survey"  # a style: the survey's own words, which nobody has to write
PHRASING = """Here is a question of a survey:

{question}

Its answers: {options}

Ask the same in other words, the way {style}. Keep what is asked and whom or what it is about. Do not answer \
it, and do not list the answers.
Reply with the question alone, in one to three sentences."""
ANSWER = """Somebody is asked:

{phrasing}

A survey would offer these answers: {options}
Write what a person says whose opinion is: {option}
The opinion must be clear from the reply, and so must a reason that a real person might have. Speak as that \
person, in the tone of the question. Do not use the words "{option}", and do not mention a survey.
Reply with the person's words alone, in one or two sentences."""
TEMPLATES = {"phrasing": PHRASING, "answer": ANSWER}


class Brief(NamedTuple):
    """One text to write."""

    item: Item
    question: Question
    request: str  # to the writer
    place: int | None = None  # of the option to voice; None: a phrasing is to be written
    asked: str = ""  # the phrasing that is answered
    given: str = ""  # the text, where it is not to be written

    @property
    def label(self) -> str:
        """The class of the option; "" for a phrasing."""
        return "" if self.place is None else self.question.labels[self.place]

    @property
    def option(self) -> str:
        """The option's words; "" for a phrasing."""
        return "" if self.place is None else self.question.options[self.place]

    def claim(self, answer: str) -> Claim:
        """What a judge is asked of an answer."""
        return Claim(self.question.text, self.asked, self.question.options, self.option, answer)


def phrasing_brief(question: Question, style: str) -> Brief:
    """To ask a question in a style: one of STYLES, the survey's own words, or any other words that say in
    which way it is asked.
    """
    if style == AS_IT_STANDS:
        return Brief(Item(f"{question.key}/{style}", question.text), question, "", given=question.text)
    way = STYLES.get(style, style)
    options = _listed(question.options)
    request = PHRASING.format(question=question.text, options=options, style=way)
    return Brief(Item(f"{question.key}/{style}", request), question, request)


def answer_briefs(question: Question, style: str, phrasing: str) -> list[Brief]:
    """To answer a phrasing, one for each option."""
    briefs = []
    options = _listed(question.options)
    for place, option in enumerate(question.options):
        request = ANSWER.format(phrasing=phrasing, options=options, option=option)
        item = Item(answer_key(question, style, place), request)
        briefs.append(Brief(item, question, request, place, phrasing))
    return briefs


def answer_key(question: Question, style: str, place: int) -> str:
    """The item of an answer; options are counted from 1."""
    return f"{question.key}/{style}/{place + 1}"


def _listed(options: Sequence[str]) -> str:
    return " | ".join(options)
