"""What a report shows: evaluations and training runs, as their files have them.

Contract: records are frozen plain values; nothing here reads a file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from measures.summaries import Summary
from reporting.groups import PeopleGroups

Results = Mapping[str, Mapping[str, Summary]]  # by checkpoint or reference row, then by metric
Prompt = str | Sequence[Mapping[str, str]]  # a text, or messages


class Difference(NamedTuple):
    """One metric of checkpoint `a` minus that of `b`, as in report.json."""

    metric: str
    kind: str  # of the prompts, see reporting.words
    a: str
    b: str
    value: float
    low: float | None  # of the 95% interval; None where one question alone was asked
    high: float | None
    p: float | None  # two-sided, of no difference
    p_holm: float | None  # adjusted by Holm's method for all pairs of this metric
    n: int  # of prompts, or of labelled responses


class Shares(NamedTuple):
    """The belief distributions of one prompt: a line of distributions.jsonl. Each has one entry a class and
    sums to 1.
    """

    id: str
    dataset: str
    question: str  # what the prompt is one phrasing of
    prompt: Prompt
    classes: Sequence[str]  # (C,) labels
    options: Sequence[str]  # (C,) an option's words, or its label where it has none
    offered: Sequence[bool]  # (C,) whether the prompt offers the class
    belief_probs: Sequence[float]  # (C,) the group's p*
    checkpoints: Mapping[str, Sequence[float]]  # (C,) by checkpoint, without those of which none is known
    sampled: Sequence[str]  # checkpoints whose distribution is the sampled shares: a server's


class Answer(NamedTuple):
    """One sampled response, and what the judge says of it: a line of predictions.jsonl."""

    checkpoint: str
    id: str  # of its prompt
    prompt: Prompt
    decoding: str
    sample: int
    response: str
    finish: str  # why it ended
    label: str | None  # of its belief's class; None: none was read
    belief: str | None  # in the response's words
    answer: str | None
    class_consistent: bool | None
    consistent: bool | None  # the judge: does the answer voice the belief?
    similarity: float | None
    judge_score: float | None
    preference: float | None  # of a task: over the baseline's answer
    score: float | None  # of a task
    reward: float | None = None  # that a program computes
    missed: Sequence[str] | None = (
        None  # constraints of the prompt that it does not meet; None: it states none
    )


class Curve(NamedTuple):
    """One logged number over training."""

    x: Sequence[float]  # examples seen
    y: Sequence[float]


class Run(NamedTuple):
    """A training run, finished or not."""

    name: str
    folder: str
    curves: Mapping[str, Curve]  # by the log's key
    config: str  # the text of config.yaml; "": there is none
    start: Mapping[str, str]  # what start.json says of the weights it began with
    hashes: Mapping[str, str]  # of its files, by name


class Evaluation(NamedTuple):
    """A finished evaluation."""

    name: str  # for headings
    folder: str
    results: Results
    differences: Sequence[Difference]
    settings: Mapping[str, object]  # how it was made
    shares: Sequence[Shares]
    answers: Sequence[Answer]
    hashes: Mapping[str, str]  # of its files, by name
    makers: Mapping[str, str]  # by checkpoint: the hash of what answered, from predictions.jsonl
    groups: PeopleGroups | None = None  # of people, where several are named

    @property
    def checkpoints(self) -> list[str]:
        """The evaluated checkpoints; other rows are guesses, decodings or categories."""
        sources = self.settings.get("sources")
        named = list(sources) if isinstance(sources, Mapping) else []
        return [name for name in self.results if name in named] or list(self.results)

    @property
    def judges(self) -> dict[str, str]:
        """By metric: the judge that its number is of."""
        judges = self.settings.get("judges")
        return dict(judges) if isinstance(judges, Mapping) else {}

    @property
    def n_samples(self) -> int:
        """Sampled responses a prompt."""
        count = self.settings.get("n_samples")
        return count if isinstance(count, int) else 0


class Story(NamedTuple):
    """What one report tells."""

    evaluations: Sequence[Evaluation]
    runs: Sequence[Run]


def text_of(prompt: Prompt) -> str:
    """A prompt as one text: the last message of a conversation."""
    return prompt if isinstance(prompt, str) else prompt[-1]["content"] if prompt else ""
