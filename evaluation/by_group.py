"""Several groups of people in one evaluation: the measures of each, and whether a model follows the name.

The matrix of a checkpoint: at (i, j) the distance of group i's p* to the model's distribution on prompts of
group j, the mean over prompts that both were asked. A model that is steered is near on the diagonal alone;
one that has an average of them all has rows of one number. Steering is what the right name is worth:

    steering = mean over i of ( mean over j != i of d(p*_i, q_j) - d(p*_i, q_i) ), prompt by prompt

Contract: pure; intervals are over questions.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

import metrics
from evaluation.belief_metrics import PromptMetrics, summaries_of
from evaluation.options import positions_of
from groups import Group
from groups.people import names_in
from measures.summaries import Summary
from reporting.groups import Matrix, OfCheckpoint, PeopleGroups

JSD, WASSERSTEIN = "js_distance", "wasserstein"
FEWEST = 2  # groups, from which on there is something to compare

Distribution = Sequence[float]
Distance = Callable[[Group, Distribution], float]  # of the group's p* to a distribution (C,); NaN: unknown
Places = Sequence[Mapping[str, int]]  # by prompt that several groups were asked: {group of people: its place}


def compare_groups(
    groups: Sequence[Group],
    of_prompts: Mapping[str, Sequence[PromptMetrics]],
    q: Mapping[str, Sequence[Distribution | None]],
    classes: Sequence[str],
    held_out: Collection[str],
) -> PeopleGroups | None:
    """What the groups of people say of every checkpoint; None where fewer than two are named.

    of_prompts, q: by checkpoint, then by prompt. held_out: data sets that nothing was trained on.
    """
    names = names_in(groups)
    if len(names) < FEWEST:
        return None
    places = _places(groups)
    distances = _distances(classes)
    checkpoints = {}
    for name, measured in of_prompts.items():
        matrix = {key: _matrix(groups, places, names, q[name], of) for key, of in distances.items()}
        steering = {key: _steering(groups, places, q[name], of) for key, of in distances.items()}
        checkpoints[name] = OfCheckpoint(_by_group(groups, names, measured), matrix, steering)
    own = [group.belief_probs for group in groups]
    return PeopleGroups(
        names=names,
        held_out=names_in([group for group in groups if group.dataset in held_out]),
        in_prompt=any(group.plain for group in groups),
        checkpoints=checkpoints,
        between={key: _matrix(groups, places, names, own, of) for key, of in distances.items()},
        apart={key: _steering(groups, places, own, of) for key, of in distances.items()},
    )


def _by_group(
    groups: Sequence[Group], names: Sequence[str], measured: Sequence[PromptMetrics]
) -> dict[str, dict[str, Summary]]:
    """The means of each group's own prompts."""
    found = {}
    for name in names:
        members = [i for i, group in enumerate(groups) if group.people == name]
        found[name] = summaries_of([measured[i] for i in members], [groups[i] for i in members])
    return found


# --- across groups ------------------------------------------------------------------------------------------


def _places(groups: Sequence[Group]) -> list[dict[str, int]]:
    """For every prompt, where each group of people was asked it."""
    by_prompt: dict[str, dict[str, int]] = {}
    for place, group in enumerate(groups):
        if group.people:
            asked = json.dumps([group.question, group.plain or group.prompt])
            by_prompt.setdefault(asked, {}).setdefault(group.people, place)
    return [of for of in by_prompt.values() if len(of) >= FEWEST]


def _distances(classes: Sequence[str]) -> dict[str, Distance]:
    def jsd(group: Group, q: Distribution) -> float:
        return float(metrics.js_distance(group.belief_probs, np.asarray(q)))

    def wasserstein(group: Group, q: Distribution) -> float:
        positions = positions_of(group, classes)
        if positions is None:
            return float("nan")
        return float(metrics.wasserstein_distance(group.belief_probs, np.asarray(q), positions))

    return {JSD: jsd, WASSERSTEIN: wasserstein}


def _matrix(
    groups: Sequence[Group],
    places: Places,
    names: Sequence[str],
    q: Sequence[Distribution | None],
    distance: Distance,
) -> Matrix:
    """[i][j]: group i's p* against the distribution on group j's prompts."""
    return [[_cell(groups, places, (mine, named), q, distance) for named in names] for mine in names]


def _cell(
    groups: Sequence[Group],
    places: Places,
    pair: tuple[str, str],
    q: Sequence[Distribution | None],
    distance: Distance,
) -> Summary:
    values, questions, weights = [], [], []
    for of_prompt in places:
        if pair[0] in of_prompt and pair[1] in of_prompt:
            group, other = groups[of_prompt[pair[0]]], q[of_prompt[pair[1]]]
            value = distance(group, other) if other is not None else float("nan")
            if not np.isnan(value):
                values.append(value)
                questions.append(group.question)
                weights.append(group.weight)
    return metrics.summarize(values, clusters=questions, weights=weights)


def gains_of(
    groups: Sequence[Group], q: Sequence[Distribution | None], classes: Sequence[str]
) -> dict[int, float]:
    """By prompt: how much nearer (JSD) its group is to the model on it than on the other groups' prompts."""
    return _gains(groups, _places(groups), q, _distances(classes)[JSD])


def _gains(
    groups: Sequence[Group], places: Places, q: Sequence[Distribution | None], distance: Distance
) -> dict[int, float]:
    """By prompt, without those of which something is not known."""
    gains = {}
    for of_prompt in places:
        for place in of_prompt.values():
            own, others = q[place], [q[other] for other in of_prompt.values() if other != place]
            if own is not None and None not in others:
                away = float(np.mean([distance(groups[place], other) for other in others]))
                gain = away - distance(groups[place], own)
                if not np.isnan(gain):
                    gains[place] = gain
    return gains


def _steering(
    groups: Sequence[Group], places: Places, q: Sequence[Distribution | None], distance: Distance
) -> Summary:
    """The mean gain, over the groups of every prompt and then over prompts."""
    gains = _gains(groups, places, q, distance)
    values, questions, weights = [], [], []
    for of_prompt in places:
        if all(place in gains for place in of_prompt.values()):
            first = groups[next(iter(of_prompt.values()))]
            values.append(float(np.mean([gains[place] for place in of_prompt.values()])))
            questions.append(first.question)
            weights.append(first.weight)
    return metrics.summarize(values, clusters=questions, weights=weights)
