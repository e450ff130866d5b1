"""Which prompts a report draws, and what stands in the picture.

Contract: groups and distributions over all belief classes go in; a case has the classes that its prompt
offers, by the words of their options.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evaluation.belief_metrics import offered_by
from evaluation.options import classes_of_options
from evaluation.plots import Shown
from groups import Group

SHOWN_QUANTILES = (0.1, 0.4, 0.7, 0.95)  # of the prompts that are drawn, by their majority's share


def cases_of(
    groups: Sequence[Group], q: Mapping[str, Sequence[Sequence[float] | None]], classes: Sequence[str]
) -> list[Shown]:
    """Some prompts with the group's distribution and each checkpoint's. q: by checkpoint, then by prompt,
    (C,) of every class, or None where nothing is known.
    """
    cases = []
    for i in prompts_to_show(groups):
        of_prompt = {name: rows[i] for name, rows in q.items() if rows[i] is not None}
        cases.append(case_of(groups[i], of_prompt, classes))
    return cases


def prompts_to_show(groups: Sequence[Group]) -> list[int]:
    """Prompts to draw: some from split to unanimous groups, or all where there are few."""
    order = sorted(range(len(groups)), key=lambda i: max(groups[i].belief_probs))
    if len(order) <= 4:
        return order
    chosen = [order[int(quantile * (len(order) - 1))] for quantile in SHOWN_QUANTILES]
    return list(dict.fromkeys(chosen))  # few prompts: one may be chosen twice


def case_of(group: Group, q: Mapping[str, Sequence[float]], classes: Sequence[str]) -> Shown:
    """The distributions of one prompt over the classes that it offers: the group's and each checkpoint's."""
    columns = [column for column, offered in enumerate(offered_by(group, classes)) if offered]
    distributions = {"group": [group.belief_probs[column] for column in columns]}
    for name, of_checkpoint in q.items():
        distributions[name] = [of_checkpoint[column] for column in columns]
    prompt = group.prompt if isinstance(group.prompt, str) else group.prompt[-1]["content"]
    return Shown(prompt, [_words_of(group, classes[column]) for column in columns], distributions)


def _words_of(group: Group, label: str) -> str:
    """The words of a class's options, or its label where they have none."""
    words = [option for option, of_option in classes_of_options(group).items() if of_option == label]
    return " / ".join(words) or label
