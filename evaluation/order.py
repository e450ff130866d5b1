"""How a checkpoint orders the responses of each prompt, against the preference.

Contract: scored examples go in, summaries over prompts come out. Implied rewards are beta * (policy -
reference) log-probs; without a reference, log-probs alone are compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

import metrics
import schedule
from evaluation.scoring import Scored, members_of, plan
from groups import Group
from losses import Scores

ORDER_METRICS = {  # the training log's names, and the report's
    "rewards_{}/accuracies": "pair_accuracy",
    "rewards_{}/set_accuracies": "set_accuracy",
    "rewards_{}/kendall_tau": "kendall_tau",
    "rewards_{}/negative_mass": "negative_mass",
    "rewards_{}/margins": "margin",
    "kl_reference_{}": "kl_reference",
    "logps_{}/chosen": "logp_best",
    "logps_{}/rejected": "logp_others",
}


class Measured(NamedTuple):
    """The value of one metric on one example."""

    metric: str  # by its name in the report
    example: int
    value: float


def summaries_of(
    scored: Sequence[Scored], groups: Sequence[Group], beta: float
) -> dict[str, metrics.Summary]:
    """Means over prompts with intervals over questions, of the metrics that any example has. beta: of the
    implied rewards.
    """
    summaries = {}
    for name, held in by_prompt(scored, beta).items():
        questions = [groups[number].question for number in held]
        weights = [groups[number].weight for number in held]
        summaries[name] = metrics.summarize(list(held.values()), clusters=questions, weights=weights)
    return summaries


def by_prompt(scored: Sequence[Scored], beta: float) -> dict[str, dict[int, float]]:
    """Of every metric that any example has: its values by the prompt's number, each the mean over the
    prompt's examples.
    """
    if not scored:
        return {}
    columns: dict[str, dict[int, list[float]]] = {}
    for measured in [*_of_rewards(scored, beta), *_of_logps(scored)]:
        of_metric = columns.setdefault(measured.metric, {})
        of_metric.setdefault(scored[measured.example].tree.group, []).append(measured.value)
    return {
        name: {number: sum(values) / len(values) for number, values in by_group.items()}
        for name, by_group in columns.items()
    }


def _of_rewards(scored: Sequence[Scored], beta: float) -> Iterator[Measured]:
    """What training logs of these examples, too."""
    for examples, scores in tables_of(scored):
        no_losses = torch.zeros(len(examples))
        no_beliefs = torch.full((len(examples),), -1)
        of_examples = metrics.example_metrics(scores, no_losses, no_beliefs, beta)
        for log_name, name in ORDER_METRICS.items():
            values, holds = of_examples[log_name]
            for i, value, is_held in zip(examples, values.tolist(), holds.tolist()):
                if is_held:
                    yield Measured(name, i, value)


def _of_logps(scored: Sequence[Scored]) -> Iterator[Measured]:
    """How often the preferred response has the higher log-prob a token: no reference is needed."""
    for i, example in enumerate(scored):
        first, *others = [logp / count for logp, count in zip(example.logps, example.tokens)]
        yield Measured("logp_accuracy", i, sum(first > other for other in others) / len(others))


def tables_of(scored: Sequence[Scored]) -> Iterator[tuple[list[int], Scores]]:
    """(numbers of the examples, their tables), some examples at a time."""
    trees = [example.tree for example in scored]
    packs, packing = plan(trees, pad_id=0)
    for rows in packs:
        batch = schedule.batch_of(trees, rows, packing)
        examples = members_of(rows)
        policy = torch.zeros(batch.valid.shape)
        for row, i in enumerate(examples):
            policy[row, : len(scored[i].logps)] = torch.tensor(scored[i].logps)
        yield examples, Scores(policy, batch.reference, batch.length, batch.reward, batch.valid)
