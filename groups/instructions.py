"""The embedded instructions: prompts whose constraints a program checks, with sampled and scored responses.

Contract: `data/instructions/prompts.jsonl` holds every prompt with its split and its constraints, and
`responses.jsonl` eight responses of the embedded model to each, in our own format, with `rewards.reward` as
their reward. `synthesize.py task=instructions` makes the second of the first.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from groups.files import DATA, INSTRUCTION_SPLITS, INSTRUCTIONS, read_rows
from groups.own import parse_group
from groups.record import Group
from rewards import Constraint, constraints_of
from utils import UserError

FOLDER = DATA / INSTRUCTIONS
PROMPTS, RESPONSES = FOLDER / "prompts.jsonl", FOLDER / "responses.jsonl"


class Instruction(NamedTuple):
    """A prompt that states constraints."""

    id: str
    split: str  # one of INSTRUCTION_SPLITS
    prompt: str
    constraints: tuple[Constraint, ...]

    def group(self) -> Group:
        """The prompt as a user's turn, without responses."""
        messages = [{"role": "user", "content": self.prompt}]
        group = Group(self.id, messages, (), where=f"{INSTRUCTIONS}, {self.id}", dataset=INSTRUCTIONS)
        return group._replace(constraints=self.constraints)


def read_instructions(split: str | None = None) -> list[Instruction]:
    """The prompts of a split, or all, in the order of their file. Raises UserError for an unknown split."""
    if split is not None and split not in INSTRUCTION_SPLITS:
        known = ", ".join(INSTRUCTION_SPLITS)
        raise UserError(f"data set {INSTRUCTIONS}: no split {split}; choose one of {known}")
    instructions = []
    for row in read_rows(PROMPTS):
        if split in (None, row["split"]):
            constraints = constraints_of(row["constraints"], f"{PROMPTS.name}, {row['id']}")
            instructions.append(Instruction(row["id"], row["split"], row["prompt"], constraints))
    return instructions


def read_ranked_instructions(split: str, path: Path = RESPONSES) -> list[Group]:
    """The groups of a split, or of all: a user's turn with eight rewarded responses, and what it asks for.

    Raises UserError as above.
    """
    asked = constraints_by_id(None if split == "all" else split)
    groups = (parse_group(row, f"{INSTRUCTIONS}, {row['id']}") for row in read_rows(path))
    return [group._replace(constraints=asked[group.id]) for group in groups if group.id in asked]


def constraints_by_id(split: str | None = None) -> dict[str, tuple[Constraint, ...]]:
    """{a group's id: what its prompt asks for}, to score other responses with `rewards.reward`."""
    return {instruction.id: instruction.constraints for instruction in read_instructions(split)}
