"""What a question of the GDPO authors' files offers: its options' words, their classes, their answers.

Contract: a class is taken from where a label stands (a chosen option with its id, a map of options), else
from shares that fit one option and one class alone; never from a position that nothing confirms. An option
whose class is not known is left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from groups.record import Belief, Response
from groups.rows import Row, is_share
from groups.values import clipped, is_absent, label_of, parsed
from utils import UserError

OPTION_MAP_FORM = '{"option\'s words": "label of its class", ...}'
SAME_SHARE = 1e-3  # shares that are rounded to three digits fit

Pairs = Iterator[tuple[str, str]]  # an option's words, the label of its class


def labels_by_position(classes: Sequence[str]) -> list[str]:
    """The labels in the order of the authors' columns: class 0 first, in whatever order the run has them."""
    numbers = [str(number) for number in range(len(classes))]
    return numbers if set(numbers) == set(classes) else list(classes)


def options_of_rows(rows: Sequence[Row], probs: Sequence[float], classes: Sequence[str]) -> list[Belief]:
    """Every option of one question whose class is known, in the order of the question.

    rows: those of the question. probs: p*, in the order of the classes.
    """
    first = rows[0]
    listed = _texts(first.get("options"))
    chosen = [pair for row in rows for pair in _chosen(row, classes)]
    label_of_words: dict[str, str] = {}
    for words, label in (
        *chosen,
        *_mapped(parsed(first.get("options_map")), listed, chosen, classes),
        *_by_share(listed, parsed(first.get("selections")), probs, classes),
    ):
        label_of_words.setdefault(words, label)
    known = [words for words in listed if words in label_of_words]
    return [Belief(label_of_words[words], words) for words in dict.fromkeys([*known, *label_of_words])]


def answers_of(row: Row, options: Sequence[Belief], rewards: dict[str, float]) -> list[Response]:
    """The row's answer of every option, with the reward of its class. rewards: {label: reward}."""
    answers, listed = parsed(row.get("answers")), _texts(row.get("options"))
    if isinstance(answers, list) and len(answers) == len(listed):
        answers = dict(zip(listed, answers))
    if not isinstance(answers, dict):
        return []
    responses = []
    for option in options:
        text = answers.get(option.text, answers.get(option.label))
        if isinstance(text, str) and text.strip():
            responses.append(Response(text, rewards[option.label], option))
    return responses


def read_option_map(path: str, classes: Sequence[str], key: str = "option_map") -> dict[str, str]:
    """The user's map of options, {words: label of their class}, from the file that config key `key` names.

    Raises UserError for a file that is none.
    """
    try:
        given = json.loads(Path(path).read_text(encoding="utf-8-sig"), object_pairs_hook=list)
    except (OSError, ValueError, RecursionError) as error:
        reason = (error.strerror if isinstance(error, OSError) else str(error)) or type(error).__name__
        raise UserError(
            f"{key}={path}: cannot be read ({reason}); give a JSON file {OPTION_MAP_FORM}"
        ) from error
    if not isinstance(given, list) or not given or not all(isinstance(pair, tuple) for pair in given):
        raise UserError(f"{key}={path}: is no JSON object; give {OPTION_MAP_FORM}")
    label_of_words: dict[str, str] = {}
    for words, value in given:
        label = None if isinstance(value, list) else label_of(value, classes)
        if label not in classes:
            raise UserError(
                f"{key}={path}: {clipped(words)}: {clipped(value)} is none of {', '.join(classes)}; "
                "correct the label or set belief_classes"
            )
        if not words.strip():
            raise UserError(f"{key}={path}: an option has no words; remove it")
        if label_of_words.setdefault(words, label) != label:
            raise UserError(f"{key}={path}: {clipped(words)} has two classes; remove one of them")
    return label_of_words


def _texts(value: Any) -> list[str]:
    values = parsed(value)
    if not isinstance(values, list) or not all(isinstance(text, str) for text in values):
        return []
    return values


def _chosen(row: Row, classes: Sequence[str]) -> Pairs:
    """The options that the row's responses state, with the ids that stand beside them."""
    for side in ("accept", "reject"):
        words, label = row.get(f"{side}_choice"), label_of(row.get(f"{side}_choice_id"), classes)
        if not is_absent(words) and label in classes:
            yield str(words), label


def _mapped(
    options_map: Any, listed: Sequence[str], chosen: Sequence[tuple[str, str]], classes: Sequence[str]
) -> Pairs:
    """A map of options: {words: label}, {label: words}, labels in the options' order, or words in the
    classes' order, which a list of the options alone looks like: then the chosen ones must confirm it.
    """
    if isinstance(options_map, dict):
        for key, value in options_map.items():
            if label_of(key, classes) in classes:
                several = value if isinstance(value, list) else [value]
                yield from ((words, label_of(key, classes)) for words in several if isinstance(words, str))
            elif label_of(value, classes) in classes:
                yield key, label_of(value, classes)
    elif isinstance(options_map, list):
        labels = [label_of(value, classes) for value in options_map]
        by_position = dict(zip(labels_by_position(classes), options_map))
        if len(labels) == len(listed) and all(label in classes for label in labels):
            yield from zip(listed, labels)
        elif len(labels) == len(classes) and chosen and all(by_position[k] == words for words, k in chosen):
            yield from ((words, label) for label, words in by_position.items() if isinstance(words, str))


def _by_share(listed: Sequence[str], shares: Any, probs: Sequence[float], classes: Sequence[str]) -> Pairs:
    """Options and classes whose shares are equal, where no other option or class has that share."""
    if not isinstance(shares, list) or len(shares) != len(listed) or not all(map(is_share, shares)):
        return
    if sum(shares) <= 0:
        return
    of_options = [share / sum(shares) for share in shares]
    of_classes = [p / sum(probs) for p in probs]
    for words, share in zip(listed, of_options):
        fitting = [label for label, p in zip(classes, of_classes) if abs(p - share) <= SAME_SHARE]
        rivals = [other for other in of_options if abs(other - share) <= SAME_SHARE]
        if share > 0 and len(fitting) == 1 and len(rivals) == 1:
            yield words, fitting[0]
