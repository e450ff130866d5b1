"""Solved examples before a prompt, for few-shot prompting and in-context finetuning.

Contract: shots come from other prompts, are drawn by the seed and the group's id, and read as a model writes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from groups.draws import rng_of
from groups.record import Group, Prompt, Response
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
    pool = {json.dumps(donor.prompt): donor for donor in donors}
    if len(pool) <= shots:
        raise UserError(
            f"{shots} shots need more than {shots} different train prompts, and there are {len(pool)}; "
            "lower the number"
        )
    return [group._replace(prompt=_shown(group, _draw(group, pool, shots, seed))) for group in groups]


def response_text(response: Response) -> str:
    """A response as the model reads it: `4<Somewhat good job>The ...`.

    Where the belief is its class alone, `4The ...`.
    """
    if response.belief is None:
        return response.text
    label, words = response.belief
    belief = f"{label}<{words}>" if words else label
    return belief + response.text


def _draw(group: Group, pool: dict[str, Group], shots: int, seed: int) -> list[Shot]:
    """Solved examples for one group; `pool` holds one donor for every different prompt."""
    rng = rng_of(seed, "shots", group.id)
    names = list(pool)
    own_name = json.dumps(group.prompt)
    drawn = rng.choice(len(names), shots + 1, replace=False)  # one more: its own prompt may be among them
    others = [pool[names[i]] for i in drawn if names[i] != own_name][:shots]
    return [(donor.prompt, response_text(_preferred(donor, rng))) for donor in others]


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
