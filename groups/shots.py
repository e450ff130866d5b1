"""Solved examples before a prompt, for few-shot prompting and in-context finetuning.

Contract: shots come from other prompts, are drawn by the seed and the group's id, and read as a model writes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from groups.draws import rng_of
from groups.record import Group, Prompt, Response
from groups.splits import Marker, Marks
from utils import UserError

Shot = tuple[Prompt, str]  # a prompt and its preferred response


def with_shots(groups: Sequence[Group], donors: Sequence[Group], shots: int, seed: int) -> list[Group]:
    """Put `shots` solved examples before every prompt.

    They are prompts of other donors with a preferred response, drawn by the seed. Text prompts follow one
    another after a blank line; message prompts get turns. Few-shot prompting and, trained on, in-context
    finetuning (ICF, the GDPO paper's baseline). Raises UserError where there are not enough donors, or where
    messages and texts mix.
    """
    if not shots:
        return list(groups)
    pool = Pool(donors, Marker(donors).marks(), shots, seed)
    return [pool.before(group) for group in groups]


class Pool:
    """Where shots are drawn from: one donor for every different prompt, the last that has it.

    Raises UserError where there are not enough. Donors may stand on the disk.
    """

    def __init__(self, donors: Sequence[Group], marks: Marks, shots: int, seed: int):
        self.donors, self.shots, self.seed = donors, shots, seed
        names, firsts, inverse = np.unique(marks.prompt, axis=0, return_index=True, return_inverse=True)
        if len(names) <= shots:
            raise UserError(
                f"{shots} shots need more than {shots} different train prompts, and there are {len(names)}; "
                "lower the number"
            )
        lasts = np.zeros(len(names), np.int64)
        lasts[inverse.reshape(-1)] = np.arange(len(marks.prompt))  # of repeated places the last one stays
        self.numbers = lasts[np.argsort(firsts)]

    def before(self, group: Group) -> Group:
        """The group with its prompt behind its shots."""
        return group._replace(prompt=_shown(group, self._draw(group)))

    def _draw(self, group: Group) -> list[Shot]:
        """Solved examples for one group."""
        rng = rng_of(self.seed, "shots", group.id)
        # one more: its own prompt may be among them
        drawn = rng.choice(len(self.numbers), self.shots + 1, replace=False)
        candidates = [self.donors[int(self.numbers[i])] for i in drawn]
        others = [donor for donor in candidates if donor.prompt != group.prompt][: self.shots]
        return [(donor.prompt, response_text(_preferred(donor, rng))) for donor in others]


def response_text(response: Response) -> str:
    """A response as the model reads it: `4<Somewhat good job>The ...`.

    Where the belief is its class alone, `4The ...`.
    """
    if response.belief is None:
        return response.text
    label, words = response.belief
    belief = f"{label}<{words}>" if words else label
    return belief + response.text


def _preferred(group: Group, rng: np.random.Generator) -> Response:
    """A preferred response: of one of the group's pairs, else the one of highest reward, else the first."""
    if group.pairs:
        preferred, _ = group.pairs[rng.integers(len(group.pairs))]
        return group.responses[preferred]
    return max(group.responses, key=lambda r: r.reward or 0.0)


def _shown(group: Group, shots: Sequence[Shot]) -> Prompt:
    """The group's prompt behind its shots."""
    first_prompt, _ = shots[0]
    if isinstance(group.prompt, str) != isinstance(first_prompt, str):
        raise UserError(
            f"{group.where}: field prompt: shots mix messages and plain texts; give prompts of one kind"
        )
    if isinstance(group.prompt, str):
        return "".join(f"{prompt}{response}\n\n" for prompt, response in shots) + group.prompt
    messages = []
    for prompt, response in shots:
        messages += [*prompt, {"role": "assistant", "content": response}]
    return messages + list(group.prompt)
