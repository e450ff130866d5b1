"""Which checkpoints differ, and by how much: paired differences of every metric, for the report.

Contract: two checkpoints are compared on the prompts that both have a value for. A difference is the later
one's value minus the earlier one's, in the order of `ckpt`; p-values are adjusted over the pairs of one
metric.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

import metrics
from groups import Group
from reporting.record import Difference

__all__ = ["ByMetric", "ByPrompt", "Difference", "compared", "lines_of", "of_means", "pairs_of"]

MOST_COMPARED = 6  # checkpoints of which all pairs are compared; where there are more, each with the last

ByPrompt = Mapping[int, float]  # values by the prompt's number
ByMetric = Mapping[str, ByPrompt]


def lines_of(checkpoint: str, groups: Sequence[Group], values: ByMetric) -> list[dict[str, object]]:
    """The lines of by_prompt.jsonl: one checkpoint's metrics, prompt by prompt, without those that a prompt
    has no value for.
    """
    lines = []
    for number, group in enumerate(groups):
        known = {metric: held[number] for metric, held in values.items() if number in held}
        if known:
            of_group = {"id": group.id, "dataset": group.dataset, "question": group.question}
            lines.append({"checkpoint": checkpoint, **of_group, "weight": group.weight, **known})
    return lines


def pairs_of(names: Sequence[str]) -> list[tuple[str, str]]:
    """(later, earlier) checkpoints to compare: all pairs, or each of many with the last."""
    if len(names) > MOST_COMPARED:
        return [(names[-1], name) for name in names[:-1]]
    return [(later, earlier) for earlier, later in itertools.combinations(names, 2)]


def compared(
    metric: str, kind: str, names: Sequence[str], difference: Callable[[str, str], metrics.Difference]
) -> list[Difference]:
    """One metric of some checkpoints, pair by pair; without those that share no prompt."""
    found = []
    for a, b in pairs_of(names):
        of_pair = difference(a, b)
        if of_pair["value"] is not None:
            found.append((a, b, of_pair))
    adjusted = metrics.holm([of_pair["p"] for _, _, of_pair in found])
    return [
        Difference(metric=metric, kind=kind, a=a, b=b, p_holm=p_holm, **of_pair)
        for (a, b, of_pair), p_holm in zip(found, adjusted)
    ]


def of_means(
    by_checkpoint: Mapping[str, ByMetric],
    groups: Sequence[Group],
    kind: str,
    sizes: Mapping[str, ByPrompt] | None = None,
) -> list[Difference]:
    """Differences of means over prompts, of every metric that two checkpoints have.

    sizes: what each prompt counts beside its weight, by checkpoint: its tokens, say. Prompts that two
    checkpoints count differently are left out of their difference. None: all count the same.
    """
    found = []
    names_of: dict[str, list[str]] = {}  # by metric
    for name, by_metric in by_checkpoint.items():
        for metric in by_metric:
            names_of.setdefault(metric, []).append(name)
    for metric, names in names_of.items():

        def difference(a: str, b: str, metric: str = metric) -> metrics.Difference:
            first, second = by_checkpoint[a][metric], by_checkpoint[b][metric]
            shared = [i for i in first if i in second]
            if sizes is not None:
                shared = [i for i in shared if sizes[a][i] == sizes[b][i]]
            return metrics.summarize_difference(
                [first[i] for i in shared],
                [second[i] for i in shared],
                [groups[i].question for i in shared],
                [groups[i].weight * (sizes[a][i] if sizes is not None else 1) for i in shared],
            )

        found += compared(metric, kind, names, difference)
    return found
