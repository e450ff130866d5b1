"""Dialogues -> rows of training data, in our own format or in the columns of the GDPO authors' files.

Contract: pure functions of dialogues, p*, and the seed. Pairs are drawn by p* as a training run draws them
(`groups.draw_pairs`): b_w ~ p*, b_l uniform over the others. Rows of our own format hold no pairs, so that
every run draws its own.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from groups import draw_pairs, parse_group
from synthesis.config import SynthesisSettings
from synthesis.questions import Question
from synthesis.record import Json

DIGITS = 6  # of shares and probabilities
SPLITS = ("train", "eval", "test", "test_questions")
LARGEST_REWARD = 10  # of an answer whose class everybody holds, as in the other data with p*

Row = dict[str, Json]


class Dialogue(NamedTuple):
    """A phrasing of a question with an answer for each of its options."""

    question: Question
    style: str
    phrasing: str
    answers: tuple[str, ...]  # in the options' order

    @property
    def id(self) -> str:
        return f"{self.question.key}/{self.style}"


def own_row(dialogue: Dialogue, group: str, classes: Sequence[str]) -> Row:
    """A row of our own format, with the p* of a group of people."""
    question = dialogue.question
    probs = dict(zip(classes, question.belief_probs(group, classes)))
    responses: list[Json] = []
    for option, label, answer in zip(question.options, question.labels, dialogue.answers):
        reward = round(LARGEST_REWARD * probs[label], DIGITS)
        responses.append({"text": answer, "reward": reward, "belief": {"class": label, "text": option}})
    return {
        "id": dialogue.id,
        "prompt": f"<Q>{dialogue.phrasing}<A>",
        "responses": responses,
        "belief_probs": [round(p, DIGITS) for p in probs.values()],
        "question": question.text,
        **({"group": group} if group else {}),
    }


def mmoqa_rows(dialogue: Dialogue, group: str, settings: SynthesisSettings) -> Iterator[Row]:
    """A row for each drawn pair, in the columns of Binwei01/mmoqa_*."""
    question, classes = dialogue.question, settings.belief_classes
    row = own_row(dialogue, group, classes)
    for preferred, other in pairs_of(row, settings):
        yield {
            "prompt": dialogue.phrasing,
            "accept_response": dialogue.answers[preferred],
            "reject_response": dialogue.answers[other],
            "accept_choice": question.options[preferred],
            "reject_choice": question.options[other],
            "style": dialogue.style,
            "question": question.text,
            "options": list(question.options),
            "selections": [round(share, DIGITS) for share in question.shares[group]],
            "answers": list(dialogue.answers),
            "probabilities": by_position(row["belief_probs"], classes),
            "accept_choice_id": as_id(question.labels[preferred]),
            "reject_choice_id": as_id(question.labels[other]),
            "options_map": [as_id(label) for label in question.labels],
        }


def pairs_of(row: Row, settings: SynthesisSettings) -> list[tuple[int, int]]:
    """The pairs of a row of our own format: those that a training run of the same seed and number draws."""
    group = parse_group(row, str(row["id"]), settings.belief_classes)
    return list(draw_pairs(group, settings.belief_classes, settings.pairs_per_prompt, settings.seed))


def by_position(probs: Json, classes: Sequence[str]) -> list[Json]:
    """Probabilities in the order of the authors' columns: class 0 first, where classes are numbers from 0."""
    assert isinstance(probs, list)
    of_class = dict(zip(classes, probs))
    numbers = [str(number) for number in range(len(classes))]
    return [of_class[label] for label in (numbers if set(numbers) == set(classes) else classes)]


def as_id(label: str) -> Json:
    """A class as the authors' files have it: a number where it is one."""
    return int(label) if label.isdecimal() and str(int(label)) == label else label


def split_dialogues(
    dialogues: Sequence[Dialogue], settings: SynthesisSettings
) -> Mapping[str, Sequence[Dialogue]]:
    """{split: its dialogues}: `test_fraction` of the questions with all of their phrasings are
    `test_questions`; of every other, some phrasings are `eval` and `test`, and at least one is `train`.

    Who goes where is drawn by (seed, question, style).
    """
    of_question: dict[str, list[Dialogue]] = {}
    for dialogue in dialogues:
        of_question.setdefault(dialogue.question.key, []).append(dialogue)
    keys = sorted(of_question, key=lambda key: _draw(settings.seed, key))
    held_out = set(keys[: round(settings.test_fraction * len(keys))])
    sides: dict[str, str] = {}
    for key, phrasings in of_question.items():
        if key in held_out:
            sides |= {dialogue.id: "test_questions" for dialogue in phrasings}
            continue
        drawn = sorted((dialogue.id for dialogue in phrasings), key=lambda name: _draw(settings.seed, name))
        num_eval = min(settings.eval_phrasings, len(drawn) - 1)
        num_test = min(settings.test_phrasings, len(drawn) - 1 - num_eval)
        names = ["eval"] * num_eval + ["test"] * num_test
        names += ["train"] * (len(drawn) - len(names))
        sides |= dict(zip(drawn, names))
    parts = {split: [d for d in dialogues if sides[d.id] == split] for split in SPLITS}
    return {split: part for split, part in parts.items() if part}


def without_all_held_out(parts: Mapping[str, Sequence[Dialogue]], settings: SynthesisSettings) -> int:
    """Of how many questions fewer phrasings are held out than `eval_phrasings` and `test_phrasings` ask for.

    parts: of `split_dialogues`; one phrasing of each question stays in train.
    """
    trained = {dialogue.question.key for dialogue in parts.get("train", ())}
    lacking: set[str] = set()
    for split, asked in (("eval", settings.eval_phrasings), ("test", settings.test_phrasings)):
        held_out = Counter(dialogue.question.key for dialogue in parts.get(split, ()))
        lacking |= {key for key in trained if held_out[key] < asked}
    return len(lacking)


def _draw(seed: int, name: str) -> bytes:
    text = json.dumps([seed, name])
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
