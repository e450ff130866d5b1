"""From by_prompt.jsonl of evaluations to lines of a results' file: a value a question, or a prompt.

Contract: numbers are rounded, and what was not measured is null. A damaged file is a UserError that names it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.results import Json
from reporting.files import Fields, read_lines

REMEDY = "set the folder aside, and run the experiment again"
BY_PROMPT = "by_prompt.jsonl"
IDENTITY = ("checkpoint", "id", "dataset", "question", "group", "weight")  # of its lines
DIGITS = 5

ByQuestion = Mapping[str, float]  # or by prompt


def lines_of(folder: Path, name: str = BY_PROMPT) -> list[Fields]:
    """A file of an evaluation or a run; none where it is not there."""
    return list(read_lines(folder / name, REMEDY))


def weights_of(lines: Sequence[Fields]) -> dict[str, float]:
    """By question: the sum of its prompts' weights."""
    weights: dict[str, float] = {}
    for line in lines:
        question = line.text("question")
        weights[question] = weights.get(question, 0.0) + line.number("weight")
    return weights


def measures_of(lines: Sequence[Fields]) -> dict[str, ByQuestion]:
    """By measure and question, of all measures that any prompt has."""
    metrics = [key for line in lines for key in line.values if key not in IDENTITY]
    return {metric: by_question(lines, metric) for metric in dict.fromkeys(metrics)}


def by_question(lines: Sequence[Fields], metric: str) -> dict[str, float]:
    """Weighted means over the prompts of each question that have the metric."""
    sums: dict[str, float] = {}
    sizes: dict[str, float] = {}
    for line in lines:
        value, weight = line.number_or_none(metric), line.number("weight")
        if value is not None and weight > 0:
            question = line.text("question")
            sums[question] = sums.get(question, 0.0) + weight * value
            sizes[question] = sizes.get(question, 0.0) + weight
    return {question: total / sizes[question] for question, total in sums.items()}


def asked_line(part: Json, prompts: int, weights: Mapping[str, float]) -> Json:
    """Of a part: what is asked, and what each question counts."""
    counts = [round(weight, DIGITS) for weight in weights.values()]
    return {**part, "prompts": prompts, "questions": list(weights), "weights": counts}


def value_line(part: Json, row: str, seed: str, metric: str, values: Sequence[float | None]) -> Json:
    """A measure of a row under a seed, a value a question."""
    return {**part, "method": row, "seed": seed, "metric": metric, "values": [*map(rounded, values)]}


def rounded(value: float | None) -> float | None:
    return None if value is None else round(value, DIGITS)
