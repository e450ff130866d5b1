"""Which class each option of a survey is of: the user's map first, then scales and rules, then a model.

Contract: what none of them knows is listed with its question; nothing is guessed. A model is asked for a
whole question at once, and what it says counts only where it is a class for each option.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from chat import Counts, Endpoint, Reply, Request, Store, ask_all
from groups import CLASSES, read_option_map
from synthesis.record import NO_TOKENS, Tokens
from synthesis.scales import class_of, classes_of, spelled
from synthesis.tally import Tally

PROMPT = """A survey asked:

{question}

Its options:
{options}

Give each option a class: 5 strongly positive, 4 positive, 3 neutral or in the middle, 2 negative, \
1 strongly negative, 0 don't know, refused or no opinion. Positive means more of what the question asks \
about: agreement, support, satisfaction, importance, or yes.
Reply with a JSON list of the {count} classes in the order of the options, and nothing else."""
REPLY_TOKENS = 200

Asked = tuple[str, tuple[str, ...], tuple[str, ...]]  # a question's words, its options, and its whole scale


class Mapped(NamedTuple):
    """The classes of a question's options."""

    labels: tuple[str, ...]  # (): some option has none
    how: str  # who says so, or why nobody does
    tokens: Tokens = NO_TOKENS
    is_final: bool = True  # False: a server did not answer; it may another time


class Model(NamedTuple):
    """A model that is asked for classes."""

    endpoint: Endpoint
    name: str
    seed: int


def user_map(path: str | None, classes: Sequence[str]) -> dict[str, str]:
    """The user's map by `spelled` words. Raises UserError for a file that is none."""
    if path is None:
        return {}
    given = read_option_map(path, classes, key="options")
    return {spelled(words): label for words, label in given.items()}


def map_options(
    tallies: Sequence[Tally],
    given: Mapping[str, str],
    classes: Sequence[str],
    model: Model | None,
    store: Store,
) -> dict[Asked, Mapped]:
    """The classes of every different question. given: the user's map; store: of the model's replies.

    Raises UserError where the model's server cannot be asked.
    """
    mapped: dict[Asked, Mapped] = {}
    for tally in tallies:
        asked = asked_of(tally)
        if asked not in mapped:
            mapped[asked] = _known(tally, given, classes)
    unknown = [asked for asked, result in mapped.items() if not result.labels]
    if model is not None and unknown:
        mapped |= _ask(unknown, model, store)
    return mapped


def asked_of(tally: Tally) -> Asked:
    return tally.question, tally.options, tally.scale


def _known(tally: Tally, given: Mapping[str, str], classes: Sequence[str]) -> Mapped:
    """By what the source states, the user's map, and scales and rules for the options that it leaves."""
    if tally.labels:
        return _different(tally.labels, "stated by the source")
    options = tally.options
    labels = {option: given[spelled(option)] for option in options if spelled(option) in given}
    left = [option for option in options if option not in labels]
    how = "options="
    if left and set(CLASSES) <= set(classes):  # what the scales mean by a class
        found, how = _by_scales(options, left, tally.scale)
        labels |= found
    unknown = [option for option in options if option not in labels]
    if unknown:
        is_whole = how.startswith(
            ("its options", "no class for")
        )  # it says more than the first option's name
        return Mapped((), how if is_whole else f"no class for {unknown[0]!r}")
    return _different(tuple(labels[option] for option in options), how)


def _by_scales(
    options: Sequence[str], left: Sequence[str], scale: Sequence[str]
) -> tuple[dict[str, str], str]:
    """The classes of the options that the map leaves, and who says so: read with all that the source names,
    those that nobody chose, too; or else with the others that were chosen; or else without those of the map;
    or else each by itself."""
    for read in filter(None, (scale, options, left)):
        labels, how = classes_of(read)
        if None not in labels:
            known = zip(read, labels)
            return {option: label for option, label in known if option in left and label is not None}, how
    alone = {option: class_of(option) for option in left} if len(left) < len(options) else {}
    return {option: label for option, label in alone.items() if label is not None}, how


def _different(labels: tuple[str, ...], how: str) -> Mapped:
    if len(set(labels)) < 2:
        return Mapped((), "options of one class")
    return Mapped(labels, how)


# --- asking a model -----------------------------------------------------------------------------------------


def _ask(unknown: Sequence[Asked], model: Model, store: Store) -> dict[Asked, Mapped]:
    requests = [_request(asked, model) for asked in unknown]
    mapped: dict[Asked, Mapped] = {}

    def done(index: int, reply: Reply | None) -> None:
        mapped[unknown[index]] = _read(reply, unknown[index][1])

    ask_all(model.endpoint, requests, Counts(), done, store, desc="options")
    return mapped


def _request(asked: Asked, model: Model) -> Request:
    question, options, _ = asked
    listed = "\n".join(f"{number}. {option}" for number, option in enumerate(options, 1))
    content = PROMPT.format(question=question, options=listed, count=len(options))
    return Request(model.name, [{"role": "user", "content": content}], REPLY_TOKENS, 0.0, model.seed)


def _read(reply: Reply | None, options: Sequence[str]) -> Mapped:
    """What a reply says of the options."""
    if reply is None:
        return Mapped((), "no reply: the server did not answer", is_final=False)
    tokens = Tokens(reply.prompt_tokens, reply.completion_tokens)
    lists = re.findall(r"\[[^\[\]]*\]", reply.text)
    labels = _labels(lists[-1]) if lists else []
    if len(labels) != len(options) or not set(labels) <= set(CLASSES):
        return Mapped((), "the model's reply is no class for each option", tokens)
    return _different(tuple(labels), "model")._replace(tokens=tokens)


def _labels(text: str) -> list[str]:
    try:
        values = json.loads(text)
    except ValueError:
        return []
    return [str(value) for value in values]
