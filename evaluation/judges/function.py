"""A Python function of the user's as the judge: `judge=module:function`, or as a reward: `reward=...`.

Contract: `function(prompt, response)` gives a finite number, the higher the better. Whatever else happens in
it ends the evaluation with one line that names the function and the response.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import SupportsFloat

from tqdm import tqdm

from evaluation.judges.record import Answered, Compared, prefer_by_score
from functions import function_of
from groups import Prompt
from utils import UserError, one_line

Function = Callable[[Prompt, str], SupportsFloat]
SHOWN = 60  # characters of a response in an error


class FunctionJudge:
    """Scores responses by a function: a `ScoreJudge`, and a `PairJudge` that compares values.

    The function gets a prompt as the data has it: a text, or a list of messages, {"role": ..., "content":
    ...}. Its module is looked for in the working folder, then where Python looks. Values are not kept on the
    disk: the code may change. Raises UserError where there is no such function.
    """

    def __init__(self, name: str, key: str = "judge"):
        self.name, self.key = name, key  # of the config, for errors
        self.function: Function = function_of(name, key)
        self.asked = 0

    def scores(self, responses: Sequence[Answered | tuple[Prompt, str]]) -> list[float | None]:
        """The function's value for each response; a reference answer is not handed to it. Raises UserError
        where it raises, or gives no finite number."""
        with tqdm(responses, desc=f"{self.name}: scores", unit="response", disable=not responses) as given:
            return list(self.values(given))  # an error begins a line of its own, below the closed bar

    def values(self, responses: Iterable[Answered | tuple[Prompt, str]]) -> list[float]:
        """As `scores`, without a bar."""
        return [self._value(Answered(*response)) for response in responses]

    def preferences(self, pairs: Sequence[Compared]) -> list[float | None]:
        """1 where the policy's response has the higher value, 0 where the baseline's, 0.5 where they are
        equal."""
        return prefer_by_score(self, pairs)

    def counts(self) -> Mapping[str, int]:
        """Calls of the function."""
        return {"asked": self.asked}

    def _value(self, answered: Answered) -> float:
        self.asked += 1
        try:
            value = self.function(copy.deepcopy(answered.prompt), answered.response)
        except (Exception, SystemExit) as error:  # a user's code raises what it likes
            raise self._failed(f"raised {_words(error)}", answered) from error
        number = _number(value)
        if number is None:
            raise self._failed(f"gave {repr(value)[:40]}, which is no finite number", answered)
        return number

    def _failed(self, what: str, answered: Answered) -> UserError:
        response = answered.response
        shown = response if len(response) <= SHOWN else response[:SHOWN] + "..."
        return UserError(f"{self.key}={self.name}: {what} for the response {shown!r}; correct the function")


def _number(value: object) -> float | None:
    """A value as a finite number, be it of numpy or torch; None for any other."""
    if not isinstance(value, SupportsFloat):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):  # an array of several, say
        return None
    return number if math.isfinite(number) else None


def _words(error: BaseException) -> str:
    """An error's kind and text on one short line."""
    return f"{type(error).__name__}: {one_line(error)}"[:160]
