"""The rewards of every prompt's sampled responses, checkpoint beside checkpoint.

Contract: answers with rewards go in, means come out, the prompts with the largest gap first: how much more
the last checkpoint gets than the first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from reporting.record import Answer, Prompt


class PromptRewards(NamedTuple):
    """The mean rewards of one prompt."""

    id: str
    prompt: Prompt
    means: Mapping[str, float]  # by checkpoint

    def gap(self, name: str, baseline: str) -> float | None:
        """How much more one checkpoint gets than another; None where one of them was not sampled."""
        if name not in self.means or baseline not in self.means:
            return None
        return self.means[name] - self.means[baseline]


def prompt_rewards(answers: Sequence[Answer]) -> list[PromptRewards]:
    """One a prompt; checkpoints stand in the order in which they appear."""
    rewards: dict[str, dict[str, list[float]]] = {}
    prompts: dict[str, Prompt] = {}
    for answer in answers:
        if answer.reward is not None:
            prompts.setdefault(answer.id, answer.prompt)
            rewards.setdefault(answer.id, {}).setdefault(answer.checkpoint, []).append(answer.reward)
    found = [
        PromptRewards(name, prompts[name], {c: sum(held) / len(held) for c, held in of_prompt.items()})
        for name, of_prompt in rewards.items()
    ]
    names = names_of(found)
    if len(names) > 1:
        found.sort(key=lambda of_prompt: -(of_prompt.gap(names[-1], names[0]) or 0.0))
    return found


def names_of(rewards: Sequence[PromptRewards]) -> list[str]:
    """The checkpoints that were rewarded."""
    return list(dict.fromkeys(name for of_prompt in rewards for name in of_prompt.means))
