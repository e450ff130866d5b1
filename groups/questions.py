"""A question of a survey with the shares of its options in groups of people, and the `Group`s that it makes.

Contract: one group of people and one question are a `Group` with `belief_probs`; a response is its belief
alone, so this is data for calibration and for evaluation. The options stand in the prompt behind the labels
of their classes: those that the row states, else the belief classes in their order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from groups.record import Belief, Group, Response
from groups.rows import Source, is_share
from groups.values import clipped, label_of
from utils import UserError


class Question(NamedTuple):
    """A question as some groups of people were asked it, in raw values."""

    where: str
    text: str
    options: list[str]
    labels: list[str]  # the options' classes; []: the row states none
    shares: dict[str, Any]  # {group of people: the options' shares or counts}
    asked: int | None = None  # people of one group who answered, without weights; None: the rows do not say


def is_named(name: str, member: str) -> bool:
    """Is a group of people among those behind the colon, `Germany+Japan`? Without any, all are.

    POLPARTY=Democrat is also named by Democrat.
    """
    named = f"+{member}+"
    return not member or f"+{name}+" in named or f"+{name.partition('=')[2] or name}+" in named


def groups_of(question: Question, source: Source) -> Iterator[Group]:
    """The groups of a question, one for each of the people that are named; others are counted."""
    named = [name for name in question.shares if is_named(name, source.member)]
    if not named:
        source.drop("not_asked_of_this_group", question.where)
    for name in named:
        reason = _why_left_out(question, name, source.classes)
        if reason:
            source.drop(reason, question.where)
            continue
        is_alone = len(question.shares) == 1 or name == source.member
        identity = question.where if is_alone else f"{question.where}, {name}"
        group = _group(question, question.shares[name], identity, source.classes)
        yield group._replace(people=name.partition("=")[2] or name)


def _why_left_out(question: Question, name: str, classes: Sequence[str]) -> str:
    """The reason under which a question is counted as dropped, or "" where it can be used."""
    shares, options = question.shares[name], question.options
    if not question.labels and len(options) > len(classes):
        return "more_options_than_classes"
    if not isinstance(shares, list) or len(shares) != len(options) or len(options) < 2:
        return "shares_do_not_fit_options"
    if not all(map(is_share, shares)) or not is_share(float(sum(shares))):
        return "shares_do_not_fit_options"
    if sum(shares) <= 0:
        return "all_zero_probabilities"
    if question.labels and len(set(question.labels)) < 2:
        return "options_of_one_class"
    return ""


def _group(question: Question, shares: Sequence[float], identity: str, classes: Sequence[str]) -> Group:
    labels = question.labels or classes
    beliefs = tuple(Belief(label, words) for label, words in zip(labels, question.options))
    total = sum(shares)
    probs = class_probs(labels, [share / total for share in shares], classes)
    listed = "".join(f"\n{belief.label}: {belief.text}" for belief in beliefs)
    return Group(
        id=identity,
        prompt=f"<Q>{question.text}{listed}<A>",
        responses=tuple(Response("", None, belief) for belief in beliefs),
        belief_probs=tuple(probs),
        where=question.where,
        question=question.text,
        options=beliefs,
    )


def class_probs(labels: Sequence[str], shares: Sequence[float], classes: Sequence[str]) -> list[float]:
    """p*, (C,): the shares of the options of each class, which sum to 1, added up. labels: the options'."""
    probs = dict.fromkeys(classes, 0.0)
    for label, share in zip(labels, shares):
        probs[label] += share
    return list(probs.values())


def known_labels(labels: Sequence[Any], where: str, field: str, classes: Sequence[str]) -> list[str]:
    """The classes that a row states, as the run writes them. Raises UserError for one that is none."""
    known = [label_of(label, classes) for label in labels]
    for label in known:
        if label not in classes:
            raise UserError(
                f"{where}: field {field}: {clipped(label)} is none of {', '.join(classes)}; "
                "correct the row or set belief_classes"
            )
    return known
