"""Sampled answers by the belief that they state: finding 4 of the GDPO paper.

Contract: the verdicts are those of the evaluation's judge; answers without a class label state no belief.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from experiments.results import Json
from reporting.record import Answer, Evaluation, Shares, text_of

ANSWER_CHARACTERS = 300  # kept of an answer


def by_question(evaluation: Evaluation) -> dict[str, dict[str, float]]:
    """By measure and question, over the answers that state a belief.

    bpc_minority: the share of those that state another belief than the group's most common one which suit it.
    belief_dependence: the mean over the stated beliefs of the share that suits, minus 1 / their number, of
    questions with two or more. An answer suits one belief alone by the embedding judge, so answers that do
    not depend on the belief get 0 at most.
    """
    shares = {of_prompt.id: of_prompt for of_prompt in evaluation.shares}
    verdicts: dict[str, dict[str, list[bool]]] = {}  # by question and stated class
    minority: dict[str, list[bool]] = {}
    for answer in evaluation.answers:
        of_prompt = shares.get(answer.id)
        if of_prompt is None or answer.label is None or answer.consistent is None:
            continue
        verdicts.setdefault(of_prompt.question, {}).setdefault(answer.label, []).append(answer.consistent)
        if answer.label != majority_of(of_prompt):
            minority.setdefault(of_prompt.question, []).append(answer.consistent)
    found = {"bpc_minority": {question: _share(held) for question, held in minority.items()}}
    found["belief_dependence"] = {
        question: _share([_share(held) for held in of_class.values()]) - 1 / len(of_class)
        for question, of_class in verdicts.items()
        if len(of_class) > 1
    }
    return {metric: held for metric, held in found.items() if held}


def _share(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def majority_of(of_prompt: Shares) -> str:
    """The label of the group's most common belief."""
    return max(zip(of_prompt.belief_probs, of_prompt.classes), key=lambda pair: pair[0])[1]


# --- side by side -------------------------------------------------------------------------------------------


def side_by_side(by_method: Mapping[str, Sequence[Evaluation]], count: int) -> list[Json]:
    """The first answer of every row under each of the group's beliefs, of the `count` questions on which the
    group is most divided: one line a question, belief and row; response null where none states it.
    by_method: a row's evaluations, one a seed.
    """
    first = next(iter(by_method.values()))[0]
    divided = sorted(first.shares, key=lambda of_prompt: max(of_prompt.belief_probs))
    chosen: dict[str, Shares] = {}
    for of_prompt in divided:
        if len(chosen) < count:
            chosen.setdefault(of_prompt.question, of_prompt)
    lines = []
    for of_prompt in chosen.values():
        for label, words, share in zip(of_prompt.classes, of_prompt.options, of_prompt.belief_probs):
            if share > 0:
                asked = {"question": of_prompt.question, "prompt": text_of(of_prompt.prompt)}
                belief = {"label": label, "belief": words, "share": round(share, 4)}
                for method, evaluations in by_method.items():
                    answer = _first_of(evaluations, of_prompt.id, label)
                    lines.append({**asked, **belief, "method": method, **_shown(answer)})
    return lines


def _first_of(evaluations: Sequence[Evaluation], prompt: str, label: str) -> Answer | None:
    answers = (answer for evaluation in evaluations for answer in evaluation.answers)
    return next((a for a in answers if a.id == prompt and a.label == label), None)


def _shown(answer: Answer | None) -> Json:
    if answer is None:
        return {"response": None, "consistent": None}
    text = answer.response if answer.answer is None else answer.answer
    return {"response": text[:ANSWER_CHARACTERS], "consistent": answer.consistent}
