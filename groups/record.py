"""What the data's way hands on: groups (a prompt with its responses) and examples (what a loss compares).

Contract: records are frozen. Readers make groups, views make examples, and nothing changes them afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rewards import Constraint

# GDPO: 5 strongly positive ... 1 strongly negative, 0 don't know / refused
CLASSES = ("0", "1", "2", "3", "4", "5")

Prompt = str | list[dict[str, str]]  # a text, or messages: {"role": ..., "content": ...}
Pair = tuple[int, int]  # response indices: preferred, other
Columns = tuple[int | None, ...]  # an example's response indices, the preferred one first; None: no response


class Belief(NamedTuple):
    """What a response holds before it argues."""

    label: str  # of its class
    text: str  # the option's words; "" where the class stands alone


class Response(NamedTuple):
    """One response to a prompt, with its reward and its belief where the data set has them."""

    text: str
    reward: float | None = None
    belief: Belief | None = None


class Group(NamedTuple):
    """A prompt with its responses."""

    id: str
    prompt: Prompt
    responses: tuple[Response, ...]
    pairs: tuple[Pair, ...] = ()
    belief_probs: tuple[float, ...] = ()  # the group's p*, one entry a class; (): there is none
    where: str = ""  # file and row, for errors
    truncation: str = "keep_end"  # which end of a long prompt to keep, unless the run says otherwise
    dataset: str = ""  # as the user named it
    question: str = ""  # what the prompt is one phrasing of; "": the prompt is a question of its own
    options: tuple[Belief, ...] = ()  # all that the question offers, where the row names them
    weight: float = 1.0  # how many rows this one counts as
    labels: tuple[bool, ...] = ()  # whether each response is desirable, where people said so of it alone
    constraints: tuple[Constraint, ...] = ()  # what the prompt asks for that a program can check
    people: str = ""  # whose distribution p* is: "Democrats", "Germany"; "": the data does not say
    plain: Prompt = ""  # what is asked, where `prompt` names the people before it; "": it does not


class Example(NamedTuple):
    """One row of a loss's table: which group and which of its responses (column 0 is the preferred one).

    `conditioned` says whether all of them stand under the first one's belief. `rewards` has one entry a
    column where the view goes by reward, and none elsewhere. Views of whole groups (`expected.*`) make one
    example of several rows, one behind the other: `row` counts them from 0, and their weights sum to 1.
    """

    group: int
    columns: Columns
    conditioned: bool
    rewards: tuple[float, ...] = ()
    weight: float = 1.0
    row: int = 0


def rows_by_example(rows: Sequence[Example]) -> Iterator[list[Example]]:
    """The rows of every example, one example after the other."""
    whole: list[Example] = []
    for row in rows:
        if whole and row.row == 0:
            yield whole
            whole = []
        whole.append(row)
    if whole:
        yield whole
