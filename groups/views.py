"""Which responses an example compares: `VIEWS` holds one small function a view, and `view` is the way in.

Contract: a view's function takes one group (and the seed, for what is drawn) and gives the columns of its
examples. What a group must have for a view is said in the view's record and checked here, once for all views.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from groups.drawing import chances
from groups.draws import rng_of
from groups.record import CLASSES, Columns, Example, Group, Pair
from groups.rows import drop
from trees import deviations, reward_levels
from utils import UserError


class View(NamedTuple):
    """How one group becomes examples, and what it must have for that.

    By reward, a group needs two or more responses and a reward on each; where all rewards are equal, within
    the tolerance of `trees.deviations`, there is no preference, and the group is dropped and counted.
    """

    columns: Callable[[Group, int], Sequence[Columns]]  # (group, seed) -> the columns of its examples
    by_reward: Literal["always", "without pairs", "never"] = "without pairs"
    needs_beliefs: bool = False  # every response needs one
    takes_labels: bool = False  # where people said of each response alone whether it is desirable
    conditioned: bool = False  # all answers of an example stand under the preferred one's belief
    rewards_belief: bool = False  # its rewards are 1 for the preferred one's belief and 0 for other beliefs
    is_expected: bool = False  # one example a group: every draw from p*, weighted by its probability

    def goes_by_reward(self, group: Group) -> bool:
        """Whether this view orders the group's responses by their rewards."""
        has_others = group.pairs or (group.labels and self.takes_labels)
        return self.by_reward == "always" or (self.by_reward == "without pairs" and not has_others)


def view(
    groups: Sequence[Group],
    responses: str,
    seed: int = 0,
    dropped: Counter | None = None,
    classes: Sequence[str] = CLASSES,
) -> list[Example]:
    """Turn groups into examples, as config key `responses` says. `classes`: in the order of belief_probs.

    - target: the preferred response alone; every desirable one where responses have labels.
    - pairs: the group's own pairs, else best against worst by reward, each response after its own belief.
    - own_belief: the same, beliefs required (the GDPO paper's DPO baseline).
    - conditioned: both answers under the preferred one's belief (GDPO).
    - conditioned.all: every answer of the prompt under the preferred one's belief, with reward 1 where that
      is its own belief and 0 elsewhere.
    - binary: both sides of `pairs` apart, or every response by itself, desirable where its label says so or
      its reward is above the prompt's mean.
    - ranked: all responses, best first.
    - by reward, whatever pairs are given: pairs.best_vs_worst, pairs.best_vs_random (drawn by the seed),
      pairs.best_vs_rest, pairs.all (ties left out).
    - expected.target, .pairs, .own_belief, .conditioned: the expectation of these over pairs drawn from p*
      (`draw_pairs`), whatever pairs are given: one example a prompt, of a row for every response or pair that
      can be drawn, weighted by its probability. Prompts with nothing to draw are left out and counted.

    Rewards within `trees.REWARD_TOLERANCE` of one another are equal. Prompts whose rewards are all equal hold
    no preference: views by reward leave them out and count them in `dropped`. Raises UserError for an
    unknown view, or a group that lacks what the view needs.
    """
    if responses not in VIEWS:
        raise UserError(f"responses={responses}: choose one of {', '.join(VIEWS)}")
    chosen = VIEWS[responses]
    dropped = Counter() if dropped is None else dropped
    examples = []
    for number, group in enumerate(groups):
        _check_beliefs(group, chosen, responses)
        if chosen.is_expected:
            examples += _whole_group(number, group, chosen, classes, dropped)
            continue
        if chosen.goes_by_reward(group):
            _check_rewards(group, responses)
            if not any(deviations(_rewards(group))):
                drop(dropped, "equal_rewards", group.where)
                continue
        examples += _examples(number, group, chosen, seed, dropped)
    return examples


def with_fewer_responses(group: Group, most: int | None, seed: int) -> Group:
    """The group with `most` of its responses (None: all), in their old order.

    Where all have rewards: the best, the worst, and others drawn by the seed. Where there are pairs: the
    first pair's two, and others drawn by the seed; pairs of those that stay, stay. Else the first, and others
    drawn by the seed.
    """
    count = len(group.responses)
    if most is None or count <= most:
        return group
    order = list(range(count))
    if group.pairs:
        kept = list(group.pairs[0])
    elif None not in _rewards(group):
        order = _best_first(group)
        kept = [order[0], order[-1]]
    else:
        kept = [0]
    others = [i for i in order if i not in kept]
    rng = rng_of(seed, "responses", group.id)
    kept += rng.choice(others, most - len(kept), replace=False).tolist()
    new_number = {old: new for new, old in enumerate(sorted(kept))}
    pairs = [(new_number[a], new_number[b]) for a, b in group.pairs if a in new_number and b in new_number]
    return group._replace(
        responses=tuple(group.responses[i] for i in new_number),
        pairs=tuple(pairs),
        labels=tuple(group.labels[i] for i in new_number) if group.labels else (),
    )


def _check_beliefs(group: Group, chosen: View, responses: str) -> None:
    if chosen.needs_beliefs and not all(r.belief for r in group.responses):
        raise UserError(
            f"{group.where}: responses={responses} needs a belief on every response; "
            "add belief or set responses=pairs"
        )
    if chosen.is_expected and not group.belief_probs:
        raise UserError(
            f"{group.where}: field belief_probs: missing, and responses={responses} needs it; add the "
            f"group's distribution or set responses={responses.removeprefix('expected.')}"
        )


def _check_rewards(group: Group, responses: str) -> None:
    remedy = "add them or set responses=target"
    if group.labels:
        needed, remedy = (
            "pairs or rewards, and the row has labels",
            "set responses=binary, and a loss of single responses (docs/objectives.md)",
        )
    elif len(group.responses) < 2:
        needed = "two or more responses"
    elif None in _rewards(group):
        needed = "a reward on each"
        if group.pairs:
            remedy = "add them or set responses=pairs"
    else:
        return
    raise UserError(f"{group.where}: field responses: responses={responses} needs {needed}; {remedy}")


def _examples(number: int, group: Group, chosen: View, seed: int, dropped: Counter) -> list[Example]:
    """The examples of group `number`; those that have no other belief to compare with are counted."""
    examples = []
    of_group = chosen.columns(group, seed)
    if group.labels and not of_group:
        drop(dropped, "without_a_desirable_response", group.where)
    for columns in of_group:
        rewards = _example_rewards(group, chosen, columns)
        if chosen.rewards_belief and all(rewards):
            drop(dropped, "without_another_belief", group.where)
        else:
            examples.append(Example(number, columns, chosen.conditioned, rewards))
    return examples


def _whole_group(
    number: int, group: Group, chosen: View, classes: Sequence[str], dropped: Counter
) -> list[Example]:
    """The rows of the one example of group `number`; a group with nothing to draw is counted."""
    columns = chosen.columns(group, 0)
    drawn = [(c, chance) for c, chance in zip(columns, chances(group, columns, classes)) if chance > 0]
    if not drawn:
        drop(dropped, "nothing_to_draw", group.where)
    return [
        Example(number, columns, chosen.conditioned, weight=chance, row=row)
        for row, (columns, chance) in enumerate(drawn)
    ]


def _example_rewards(group: Group, chosen: View, columns: Columns) -> tuple[float, ...]:
    if chosen.rewards_belief:
        beliefs = [group.responses[c].belief for c in columns]
        return tuple(float(belief == beliefs[0]) for belief in beliefs)
    if chosen.goes_by_reward(group):
        levels = reward_levels(_rewards(group))
        return tuple(0.0 if c is None else levels[c] for c in columns)
    return ()


# --- one function a view: (group, seed) -> the columns of its examples --------------------------------------


def target(group: Group, seed: int) -> list[Columns]:
    """The preferred response of every pair.

    Without pairs it is the one of highest reward, or the first where a reward is missing; where responses
    have labels, every desirable one.
    """
    if group.labels:
        return [(i,) for i, is_desirable in enumerate(group.labels) if is_desirable]
    if group.pairs:
        return [(preferred,) for preferred, _ in group.pairs]
    rewards = _rewards(group)
    if None in rewards:
        return [(0,)]
    levels = reward_levels(rewards)
    return [(levels.index(max(levels)),)]


def binary(group: Group, seed: int) -> list[Columns]:
    """Every response by itself: in column 0 where it is desirable, in column 1 where it is not."""
    if group.labels:
        return [(i, None) if is_desirable else (None, i) for i, is_desirable in enumerate(group.labels)]
    if group.pairs:
        sides = [((preferred, None), (None, other)) for preferred, other in group.pairs]
        return [side for both in sides for side in both]
    above = deviations(_rewards(group))
    return [(i, None) if deviation > 0 else (None, i) for i, deviation in enumerate(above)]


def pairs(group: Group, seed: int) -> Sequence[Columns]:
    """The group's own pairs, else its best response against its worst."""
    return group.pairs or best_vs_worst(group, seed)


def every_answer(group: Group, seed: int) -> list[Columns]:
    """For the preferred response of every pair: it and all others of the group."""
    columns = []
    for preferred, _ in pairs(group, seed):
        others = [i for i in range(len(group.responses)) if i != preferred]
        columns.append((preferred, *others))
    return columns


def ranked(group: Group, seed: int) -> list[Columns]:
    """All responses, highest reward first; equal ones keep their order."""
    return [tuple(_best_first(group))]


def best_vs_worst(group: Group, seed: int) -> list[Pair]:
    """The best response against the worst."""
    return [best_vs_rest(group, seed)[-1]]


def best_vs_random(group: Group, seed: int) -> list[Pair]:
    """The best response against another one, drawn by the seed."""
    candidates = best_vs_rest(group, seed)
    return [candidates[rng_of(seed, group.id).integers(len(candidates))]]


def best_vs_rest(group: Group, seed: int) -> list[Pair]:
    """The best response against every one of lower reward."""
    best = _best_first(group)[0]
    return [pair for pair in all_pairs(group, seed) if pair[0] == best]


def all_pairs(group: Group, seed: int) -> list[Pair]:
    """Every pair of responses whose rewards differ."""
    levels, order = reward_levels(_rewards(group)), _best_first(group)
    ordered = [(better, worse) for n, better in enumerate(order) for worse in order[n + 1 :]]
    return [(better, worse) for better, worse in ordered if levels[better] > levels[worse]]


def every_believed(group: Group, seed: int) -> list[Columns]:
    """Every response that holds a belief."""
    return [(i,) for i, response in enumerate(group.responses) if response.belief]


def across_beliefs(group: Group, seed: int) -> list[Pair]:
    """Every ordered pair of responses under beliefs of different classes."""
    label_of = {i: r.belief.label for i, r in enumerate(group.responses) if r.belief}
    return [(i, j) for i in label_of for j in label_of if label_of[i] != label_of[j]]


def _rewards(group: Group) -> list[float | None]:
    return [r.reward for r in group.responses]


def _best_first(group: Group) -> list[int]:
    """Response indices, highest reward first; equal ones keep their order."""
    levels = reward_levels(_rewards(group))
    return sorted(range(len(levels)), key=lambda i: -levels[i])


VIEWS = {
    "target": View(target, by_reward="never"),
    "binary": View(binary, takes_labels=True),
    "pairs": View(pairs),
    "own_belief": View(pairs, needs_beliefs=True),
    "conditioned": View(pairs, needs_beliefs=True, conditioned=True),
    "conditioned.all": View(every_answer, needs_beliefs=True, conditioned=True, rewards_belief=True),
    "ranked": View(ranked, by_reward="always"),
    "pairs.best_vs_worst": View(best_vs_worst, by_reward="always"),
    "pairs.best_vs_random": View(best_vs_random, by_reward="always"),
    "pairs.best_vs_rest": View(best_vs_rest, by_reward="always"),
    "pairs.all": View(all_pairs, by_reward="always"),
    "expected.target": View(every_believed, by_reward="never", is_expected=True),
    "expected.pairs": View(across_beliefs, by_reward="never", is_expected=True),
    "expected.own_belief": View(across_beliefs, by_reward="never", needs_beliefs=True, is_expected=True),
    "expected.conditioned": View(
        across_beliefs, by_reward="never", needs_beliefs=True, conditioned=True, is_expected=True
    ),
}
