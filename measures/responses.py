"""Sampled responses taken apart: class label, words of the belief, answer.

Contract: `option_key` is the one rule of when two spellings are the same option; whoever compares the words
of options compares by it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

MOST_AROUND = 16  # characters of spaces and quotes around an option's words


class Parsed(NamedTuple):
    """A sampled response taken apart."""

    label: str | None  # of its class; None: unparsable
    belief: str | None  # its words; None: there are none
    answer: str


SINGLE, DOUBLE = "`´‘’‚‛‹›", "“”„‟«»"  # curly ones, backticks, guillemets
QUOTES = str.maketrans(SINGLE + DOUBLE, "'" * len(SINGLE) + '"' * len(DOUBLE))
BARE = " '\""  # what may stand around an option's words


def option_key(words: str) -> str:
    """What two spellings of one option have in common: without case, quotes around it or their kind, spaces
    at its ends or more than one inside, a full stop behind it, or forms that Unicode calls compatible (NFKC).

    Words that are nothing else stay as they are.
    """
    straight = words.translate(QUOTES)  # before NFKC, which parts ´ into a space and an accent
    folded = " ".join(unicodedata.normalize("NFKC", straight).casefold().split())
    bare = folded.strip(BARE).rstrip(".").strip(BARE)
    return bare or folded


def named_options(words: str, options: Iterable[str]) -> list[str]:
    """The options that these words name: those that are spelled so, else those of the same `option_key`.

    Several where options differ in case or quotes alone and the words have another spelling.
    """
    options = list(dict.fromkeys(options))
    spelled = [option for option in options if option.strip() == words.strip()]
    key = option_key(words)
    return spelled or [option for option in options if key and option_key(option) == key]


def parse_response(text: str, labels: Sequence[str], options: Sequence[str] | None = None) -> Parsed:
    """Take a response `4<Somewhat good job>The ...` apart; the longest label that it begins with counts.

    options: the words that the prompt's beliefs may have; (): they are class labels alone, as in movie
    reviews, and the answer follows at once; None: not known. Where words are expected, a label is no part of
    a longer number or word: `40 years` and `10<Good>` are not of class 4 and 1.
    """
    text = text.lstrip()
    longest_first = sorted(labels, key=len, reverse=True)
    label = next((label for label in longest_first if _begins_with(text, label, bool(options))), None)
    if label is None:
        return Parsed(None, None, text)
    rest = text[len(label) :]
    bracketed = None if options is not None and not options else _bracketed(rest, options or ())
    if bracketed is None:
        return Parsed(label, None, rest.strip())
    belief, answer = bracketed
    return Parsed(label, belief.strip(), answer.strip())


def _begins_with(text: str, label: str, whole: bool) -> bool:
    """Does the text begin with this label? whole: as a number or word of its own."""
    if not text.startswith(label):
        return False
    last, following = label[-1:], text[len(label) : len(label) + 1]
    goes_on = (last.isdigit() and following.isdigit()) or (last.isalpha() and following.isalpha())
    return not (whole and goes_on)


def _bracketed(rest: str, options: Sequence[str]) -> tuple[str, str] | None:
    """(words in angle brackets at the start of a text, what follows); an option's own words may hold such
    brackets. None: the text begins otherwise.
    """
    rest = rest.lstrip()
    if not rest.startswith("<"):
        return None
    with_brackets = [option for option in options if "<" in option or ">" in option]
    if with_brackets:
        # no option is longer than this; spaces and quotes may stand around it
        longest = max(map(len, with_brackets)) + MOST_AROUND
        ends = [i for i, letter in enumerate(rest[: longest + 1]) if letter == ">"]
        for end in reversed(ends):
            if named_options(rest[1:end], with_brackets):
                return rest[1:end], rest[end + 1 :]
    plain = re.match(r"<([^<>]*)>", rest)
    return (plain.group(1), rest[plain.end() :]) if plain else None


def class_belief_consistent(parsed: Parsed, class_of_option: Mapping[str, str]) -> bool | None:
    """CBC of one response: is its class label that of the belief text it gives? None where the text is no
    known option. A text that names several options, which differ in case or quotes, agrees with each of them.
    """
    named = named_options(parsed.belief or "", class_of_option)
    return any(class_of_option[option] == parsed.label for option in named) if named else None


def class_shares(parsed: Sequence[Parsed], labels: Sequence[str], unparsable_as: str | None) -> np.ndarray:
    """Shares (C,) of the class labels among sampled responses; all 0 where none counts.

    One without a label counts as class `unparsable_as`; None: it is left out.
    """
    stated = [unparsable_as if response.label is None else response.label for response in parsed]
    counted = [label for label in stated if label is not None]
    return np.asarray([counted.count(label) for label in labels], float) / max(len(counted), 1)
