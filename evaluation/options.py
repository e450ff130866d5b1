"""What a prompt's options are: words, classes, reference answers, and where each stands on a scale.

Contract: an option is known by its words, or by its class label where a prompt's beliefs are labels alone.
Two spellings of one option (`metrics.option_key`) are one, unless they are of different classes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import metrics
from groups import Belief, Group

DONT_KNOW = "0"  # the class that a response without a class label counts as
NO_OPINION = re.compile(  # options that are no point on the scale of the others, as surveys word them
    r"(dk\b|refus|don'?t know|do not know|no (answer|opinion)|not (sure|asked|available|applicable)|unsure"
    r"|missing|other($| \(| missing| reasons?$| answers?$)|none (of the above|of these|\(vol)"
    r"|none/no difference|declined?\b|skipped|depends\b)"
)

References = Mapping[Belief, Sequence[str]]  # by option: its reference answers
OptionMap = Mapping[str, str]  # options' words and their class labels, for data that does not say it


def option_of(belief: Belief) -> Belief:
    """What makes a belief the same option as another one of its prompt: class and words, however spelled."""
    return Belief(belief.label, metrics.option_key(belief.text))


def beliefs_of(group: Group) -> list[Belief]:
    """All options of a prompt: those that have responses, and those that its question offers beside them."""
    return [*(response.belief for response in group.responses), *group.options]


def classes_of_options(group: Group) -> dict[str, str]:
    """The class label of every option's words; without beliefs that are a class label alone."""
    return {belief.text: belief.label for belief in beliefs_of(group) if belief.text.strip()}


def references_of(group: Group) -> References:
    """The reference answers of every option that has some: survey data has options without answers."""
    references: dict[Belief, list[str]] = {}
    for response in group.responses:
        if response.text.strip():
            references.setdefault(option_of(response.belief), []).append(response.text)
    return references


def stated_option(parsed: metrics.Parsed, group: Group, option_map: OptionMap) -> Belief | None:
    """The option that a response states: by its words, the prompt's own before those of the map; by its class
    label where it gives no words. None: no option of the prompt, or several that its label does not tell
    apart.
    """
    if parsed.label is None:
        return None
    own = {option_of(belief) for belief in beliefs_of(group)}
    if not parsed.belief:
        option = Belief(parsed.label, "")
        return option if option in own else None
    options = _named(parsed.belief, group) or _mapped(parsed.belief, option_map, own)
    if len(options) > 1:
        options = {option for option in options if option.label == parsed.label}
    return options.pop() if len(options) == 1 else None


def _named(words: str, group: Group) -> set[Belief]:
    """The prompt's own options of these words."""
    known = [belief for belief in beliefs_of(group) if belief.text.strip()]
    named = metrics.named_options(words, [belief.text for belief in known])
    return {option_of(belief) for belief in known if belief.text in named}


def _mapped(words: str, option_map: OptionMap, own: set[Belief]) -> set[Belief]:
    """The options of these words by the map; the class alone where the prompt's beliefs are."""
    options = set()
    for name in metrics.named_options(words, option_map):
        alone = Belief(option_map[name], "")
        options.add(alone if alone in own else option_of(Belief(option_map[name], name)))
    return options


def class_consistent(parsed: metrics.Parsed, group: Group, option_map: OptionMap) -> bool | None:
    """CBC of one response: by the prompt's own options, else by the map; None where neither has its words."""
    if not parsed.belief:
        return None
    own = {option.label for option in _named(parsed.belief, group)}
    if own:
        return parsed.label in own
    return metrics.class_belief_consistent(parsed, option_map)


# --- classes ------------------------------------------------------------------------------------------------


def unparsable_class(group: Group, classes: Sequence[str]) -> str | None:
    """The class that a response without a label counts as: "don't know", which is class 0 in the GDPO papers'
    data.

    None where no class says that: it has another name, or the prompt has no reference answers, as in surveys,
    whose labels may number the options in the order in which the prompt lists them.
    """
    is_survey = not references_of(group)
    return DONT_KNOW if DONT_KNOW in classes and not is_survey else None


def are_numbered(group: Group, classes: Sequence[str]) -> bool:
    """Do the labels only number a survey's options, in the order in which the prompt lists them?"""
    labels = [option.label for option in group.options]
    return bool(labels) and not references_of(group) and labels == list(classes[: len(labels)])


def positions_of(group: Group, classes: Sequence[str]) -> metrics.Positions | None:
    """Where each class stands on the prompt's ordinal scale; None: the classes are no scale.

    Numbered options of a survey stand in their order; those that voice no opinion (don't know, refused,
    other) are no points of it. Other classes stand where their number says, but for class 0, "don't know", of
    data that has answers or states its classes. Fewer than two points are no scale.
    """
    positions: list[float | None]
    if are_numbered(group, classes):
        positions = [None] * len(classes)
        points = [k for k, option in enumerate(group.options) if not _voices_no_opinion(option.text)]
        for position, k in enumerate(points):
            positions[k] = float(position)
    else:
        positions = [None if label == DONT_KNOW else _number(label) for label in classes]
        if any(p is None and label != DONT_KNOW for p, label in zip(positions, classes)):
            return None
    return positions if sum(position is not None for position in positions) > 1 else None


def _voices_no_opinion(words: str) -> bool:
    return NO_OPINION.match(metrics.option_key(words)) is not None


def _number(label: str) -> float | None:
    try:
        number = float(label)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
