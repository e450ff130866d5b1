"""What judges are asked, and what they say.

Contract: a judge names itself; what it cannot judge is None, neither Yes nor No, and is counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from groups import Prompt


class Verdict(NamedTuple):
    """What is said of one sampled answer under a belief."""

    consistent: bool | None  # it voices the option that it states; None: not judged
    # RS: cosine to that option's nearest reference answer, 0 where it has none; None: the prompt has none
    similarity: float | None


class Stated(NamedTuple):
    """One sampled answer with the belief that it states."""

    prompt: Prompt
    belief: str  # the option's words; where beliefs are a class label alone, the class in words or its label
    answer: str


class Compared(NamedTuple):
    """Two responses to one prompt: the policy's and the baseline's."""

    prompt: Prompt
    response: str
    baseline: str


class Answered(NamedTuple):
    """A response to be scored, and what it may be compared with."""

    prompt: (
        Prompt  # a text, or all messages before the response: for a second turn, the first with its answer
    )
    response: str
    reference: str = ""  # a solution that is known to be right; "": there is none


class Judge(Protocol):
    """What any judge has."""

    name: str  # of judge and model, beside every number: "openai gpt-4o"

    def counts(self) -> Mapping[str, int]:
        """Verdicts asked for, cached, failed, unparsable, and tokens, so far."""
        ...


class BeliefJudge(Judge, Protocol):
    """Says whether an answer voices the belief that it states (BPC)."""

    def voices(self, answers: Sequence[Stated]) -> list[bool | None]: ...


class PairJudge(Judge, Protocol):
    """Says which of two responses is better (WR)."""

    def preferences(self, pairs: Sequence[Compared]) -> list[float | None]:
        """For each pair: 1 where the policy's response is preferred, 0 the baseline's, between for less sure
        verdicts or for two orders that disagree."""
        ...


class ScoreJudge(Judge, Protocol):
    """Gives a response a number: 1 to 10 of a chat model, a reward model's scalar, a function's value."""

    def scores(self, responses: Sequence[Answered | tuple[Prompt, str]]) -> list[float | None]:
        """One a response, in order; plain pairs of prompt and response have no reference."""
        ...


def prefer_by_score(judge: ScoreJudge, pairs: Sequence[Compared]) -> list[float | None]:
    """For each pair: 1 where the policy's response has the higher score, 0 the baseline's, 0.5 where they are
    equal; None where one has no score."""
    responses = judge.scores([Answered(pair.prompt, pair.response) for pair in pairs])
    baselines = judge.scores([Answered(pair.prompt, pair.baseline) for pair in pairs])
    return list(map(_preference, responses, baselines))


def _preference(response: float | None, baseline: float | None) -> float | None:
    if response is None or baseline is None:
        return None
    return 0.5 if response == baseline else float(response > baseline)
