"""What generators share: how to draw, what to write, and what was written.

Contract: a generator continues prompts. A response is a function of (model, prompt, decoding, seed, number):
not of what else is written in the same call, nor of the order. Generators hand over each response as soon as
it is there, so that an evaluation that is killed loses none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from groups import Group
from utils import UserError


class Decoding(NamedTuple):
    """How responses are drawn: from the whole distribution, at a temperature."""

    name: str  # as the config and the report have it: greedy, t0.5
    temperature: float  # 0: greedy


class Draw(NamedTuple):
    """One response to write: sample `number` of prompt `prompt`, an index into the groups of the call."""

    prompt: int
    number: int


class Written(NamedTuple):
    """One response that was written."""

    text: str
    finish: str  # "stop": it ended by itself; "length": at the limit; "filtered": the server withheld it
    tokens: int  # that were generated, what ended it included
    prompt_tokens: int = 0  # that a server says it read; 0: nobody says


OnWritten = Callable[
    [Draw, Written], None
]  # called once for every draw, in any order, in the caller's thread


class Generator(Protocol):
    """Continues prompts. `close` frees what it holds: a model's memory, connections."""

    name: str  # of the model, for reports and progress bars

    def identity(self) -> Mapping[str, object]:
        """All of this generator that determines its responses, as plain JSON values: weights, versions."""
        ...

    def write(
        self, prompts: Sequence[Group], draws: Sequence[Draw], decoding: Decoding, seed: int, done: OnWritten
    ) -> None:
        """Write all draws. Raises UserError for a prompt that it cannot take, before it writes any."""
        ...

    def close(self) -> None: ...


def decoding_of(name: str) -> Decoding:
    """The decoding of a name: greedy, or a temperature, t0.5 or 0.5. Raises UserError for any other name."""
    if name in ("greedy", "0"):
        return Decoding("greedy", 0.0)
    try:
        temperature = float(name.removeprefix("t"))
    except ValueError:
        temperature = -1.0
    if not 0 < temperature < float("inf"):
        raise UserError(f"decoding={name}: unknown; give greedy, or t and a temperature, t0.5")
    return Decoding(f"t{temperature:g}", temperature)


def decodings_of(names: Sequence[str] | None, temperature: float | None) -> list[Decoding]:
    """The named decodings; None: the one of this temperature alone.

    Raises UserError for a name that is none, and for two of one decoding.
    """
    if names is None:
        return [decoding_of("greedy" if temperature == 0 else f"t{temperature}")]
    decodings = [decoding_of(name) for name in names]
    for number, decoding in enumerate(decodings):
        if decoding in decodings[:number]:
            raise UserError(f"decoding={names[number]}: stands there twice; name each way to decode once")
    return decodings
