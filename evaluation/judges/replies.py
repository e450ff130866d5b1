"""What a chat judge's reply says: Yes or No, A, B or tie, a score.

Contract: a verdict begins a line, bare or behind a label ("Verdict: A", "[[7]]"), and its reason may follow.
Lines that say different things, and what is only mentioned inside a sentence, are no verdict: None. So a
judge that repeats what a response announced (`it claims "Score: 10"`) has not said it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

Said = TypeVar("Said", bool, float)

LEAST_SCORE, MOST_SCORE = 1.0, 10.0

THOUGHTS = re.compile(r"\s*<(think|thinking|reasoning)>.*?(</\1>|\Z)", re.S | re.I)
QUOTATION = re.compile(r"<(\w+) ([0-9a-f]{12})>.*?(</\1 \2>|\Z)", re.S)  # of the question, repeated
EMPHASIS = re.compile(r"\*+|`+|__")
BULLET = re.compile(r"(?:[#>•\s]|[-+]\s)+")
LABEL = re.compile(
    r"(?:(?:so|thus|therefore|my|the|final|overall)[, ]+)*"
    r"(?:verdict|answer|decision|judge?ment|conclusion|winner|preference|score|rating|grade|mark)"
    r"(?: *\([^)]*\))?(?: is\b| *[:=])[ :]*",
    re.I,
)
OPENING = re.compile(r"[\[(\"'“]+")

CLOSED = r"""[\])"'”]*"""  # what a bracket or a quotation mark opened
REASON = r"\s+(?:(?:because|since|as|for|[-–—])(?=\s|$)|\()"
YES_NO = re.compile(rf"(yes|no){CLOSED}(?:$|[.,;:!]|{REASON}|\s+(?:the|it|this|that|they)\b)", re.I)
SIDE = re.compile(
    rf"(?:(?:response|answer|assistant) )?([AB]){CLOSED}"
    rf"(?: is (?:the )?better(?: one| response)?| wins)?(?:$|[.,;!]|{REASON}|\s+than\b)",
    re.I,
)
TIE = re.compile(r"(?:it(?: is|'s) )?(?:an? )?(?:tie|tied|draw)\b", re.I)
NUMBER = r"(\d{1,2}(?:\.\d+)?)"
OF_TEN = r"(?: ?/ ?| out of )10(?!\d|[.,]\d)"
BARE_SCORE = re.compile(rf"{NUMBER}(?:{OF_TEN}|\.?$|,? because\b)", re.I)
LABELLED_SCORE = re.compile(
    rf"{NUMBER}(?:{OF_TEN}|(?!\d|[.,]\d|\s*[/%]|\s*[-–—]\s*\d| out of | to \d))", re.I
)


def yes_or_no(text: str) -> bool | None:
    """True for Yes, False for No."""
    return _verdict(text, _yes_or_no_of)


def preferred(text: str) -> float | None:
    """1 for A, 0 for B, 0.5 for a tie."""
    return _verdict(text, _preferred_of)


def score(text: str) -> float | None:
    """A number from 1 to 10, be it of "/10" or alone; any other number is no score."""
    return _verdict(text, _score_of)


def without_thoughts(text: str) -> str:
    """The reply behind what a reasoning model wrote for itself; nothing where that has no end."""
    while found := THOUGHTS.match(text):
        text = text[found.end() :]
    return text


def _verdict(text: str, verdict_of: Callable[[str, bool], Said | None]) -> Said | None:
    """What the reply's lines say, where all that say something say the same."""
    own_words = QUOTATION.sub("", without_thoughts(text))
    said = {_of_line(line, verdict_of) for line in own_words.splitlines()} - {None}
    return said.pop() if len(said) == 1 else None


def _of_line(line: str, verdict_of: Callable[[str, bool], Said | None]) -> Said | None:
    """What one line says, read without Markdown, label and opening bracket."""
    plain, _ = _cut(BULLET, EMPHASIS.sub("", line).strip())
    plain, label = _cut(LABEL, plain)
    plain, bracket = _cut(OPENING, plain)
    return verdict_of(plain, bool(label) or bracket == "[[")


def _cut(pattern: re.Pattern, text: str) -> tuple[str, str]:
    """The text behind what a pattern finds at its beginning, and what that is."""
    found = pattern.match(text)
    return (text[found.end() :], found[0]) if found else (text, "")


def _yes_or_no_of(line: str, is_labelled: bool) -> bool | None:
    found = YES_NO.match(line)
    return found[1].lower() == "yes" if found else None


def _preferred_of(line: str, is_labelled: bool) -> float | None:
    if TIE.match(line):
        return 0.5
    found = SIDE.match(line)
    return float(found[1].upper() == "A") if found else None


def _score_of(line: str, is_labelled: bool) -> float | None:
    """A bare number that a sentence follows is none: "1. First, ..." counts points."""
    found = (LABELLED_SCORE if is_labelled else BARE_SCORE).match(line)
    number = float(found[1]) if found else 0.0
    return number if LEAST_SCORE <= number <= MOST_SCORE else None
