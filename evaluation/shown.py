"""The belief distributions of every prompt, the group's beside each checkpoint's: distributions.jsonl.

Contract: groups and distributions over all belief classes go in, one record a prompt comes out; distributions
sum to 1.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from evaluation.belief_metrics import offered_by
from evaluation.options import classes_of_options
from groups import Group
from reporting.record import Shares

DIGITS = 6  # of a share in the file


def shares_of_prompts(
    groups: Sequence[Group],
    q: Mapping[str, Sequence[Sequence[float] | None]],
    classes: Sequence[str],
    sampled: Collection[str] = (),
) -> list[Shares]:
    """One record a prompt. q: by checkpoint, then by prompt, (C,) of every class, or None where nothing is
    known. sampled: checkpoints whose q is the shares of their samples.
    """
    found = []
    for i, group in enumerate(groups):
        of_prompt = {name: rows[i] for name, rows in q.items() if rows[i] is not None}
        found.append(_shares_of(group, of_prompt, classes, sampled))
    return found


def _shares_of(
    group: Group, q: Mapping[str, Sequence[float]], classes: Sequence[str], sampled: Collection[str]
) -> Shares:
    return Shares(
        id=group.id,
        dataset=group.dataset,
        question=group.question,
        prompt=group.prompt,
        classes=list(classes),
        options=[_words_of(group, label) for label in classes],
        offered=offered_by(group, classes),
        belief_probs=_rounded(group.belief_probs),
        checkpoints={name: _rounded(shares) for name, shares in q.items()},
        sampled=[name for name in q if name in sampled],
    )


def _words_of(group: Group, label: str) -> str:
    """The words of a class's options, or its label where they have none."""
    words = [option for option, of_option in classes_of_options(group).items() if of_option == label]
    return " / ".join(words) or label


def _rounded(shares: Sequence[float]) -> list[float]:
    total = sum(shares)
    return [round(share / total, DIGITS) for share in shares]
