"""Options' words -> belief classes: by the scales of `data/options.json`, and by rules for how surveys word
them.

Contract: the options of a question are read together, since "good" is one thing beside "very good" and
another beside "excellent". An option that no scale and no rule knows, or that two know differently, has no
class; it is never given the nearest one. Classes are those of GDPO (arXiv 2412.20299): 5 strongly positive,
4 positive, 3 neutral, 2 negative, 1 strongly negative, 0 no opinion.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from groups import DATA

FILE = DATA / "options.json"
NO_OPINION, NEUTRAL, YES, NO = "0", "3", "4", "2"
VOLUNTEERED = re.compile(
    r"\s*[(\[][^)\]]*\b(vol|volunteered|do not read|dnr|spontaneous)\b[^)\]]*[)\]]\s*", re.I
)
MISSING = re.compile(r"(other )?missing\b|(other )?inappropriate response\b|not asked\b")
NUMBERED = re.compile(r"\s*\(?(\d{1,2}|[a-h])[.):]\s+(?=\S*[a-z])", re.I)  # "1. Agree", "(a) Agree"
# of numbers: "7", "7 - Very good", "10 (completely satisfied)"
POINT = re.compile(r"\s*(-?\d{1,3})(?:\.0)?\s*(?:[-–—:=.(]\s*(.*?)\s*\)?)?\s*", re.S)
SPELLINGS = (
    ("’", "'"), ("‘", "'"), ("favour", "favor"), ("can't", "cannot"), ("shouldn't", "should not"),
    ("don't trust", "do not trust"), ("isn't", "is not"), ("won't", "will not"), ("wouldn't", "would not"),
)  # fmt: skip
DEGREES = {  # of one thing, "very X" to "not at all X"
    "very": "5",
    "extremely": "5",
    "completely": "5",
    "somewhat": "4",
    "fairly": "4",
    "rather": "4",
    "quite": "4",
    "pretty": "4",
    "mostly": "4",
    "moderately": "4",
    "not too": "2",
    "not very": "2",
    "not so": "2",
    "not that": "2",
    "slightly": "2",
    "a little": "2",
    "only a little": "2",
    "only slightly": "2",
    "not at all": "1",
}
NO_DEGREE = "1"  # "no trust"
FIVE_DEGREES = {
    "extremely": "5",
    "very": "4",
    "moderately": "3",
    "somewhat": "3",
    "slightly": "2",
    "not at all": "1",
}
DEGREE = re.compile(f"({'|'.join(sorted(DEGREES, key=len, reverse=True))})\\b ?(.*)")
NEGATIONS = {"not", "no", "never"}
NOT_KNOWN = "no class for one of its options"
AUXILIARIES = {"do", "does", "did", "yes"}


class Scale(NamedTuple):
    """Wordings that surveys use together."""

    name: str
    labels: Mapping[str, str]  # by the wording

    @property
    def num_levels(self) -> int:
        return len(set(self.labels.values()))


class Classes(NamedTuple):
    """The classes of a question's options."""

    labels: tuple[str | None, ...]  # in the options' order; None: it has none
    how: str  # the scale or the rule that says so, or why none does


@functools.cache
def _known() -> tuple[tuple[Scale, ...], frozenset[str]]:
    """The scales of the file, and the wordings of no opinion."""
    given = json.loads(FILE.read_text(encoding="utf-8"))
    scales = []
    for name, levels in given["scales"].items():
        labels = {spelled(words): label for label, several in levels.items() for words in several}
        scales.append(Scale(name, labels))
    return tuple(scales), frozenset(map(spelled, given["no_opinion"]))


def scales_identity() -> str:
    """A hash of the scales that classes come from."""
    return hashlib.blake2b(FILE.read_bytes(), digest_size=8).hexdigest()


def spelled(option: str) -> str:
    """An option's words without case, marks, numbering and notes for the interviewer."""
    text = VOLUNTEERED.sub(" ", option)
    text = NUMBERED.sub("", text, count=1).casefold()
    for one, usual in SPELLINGS:
        text = text.replace(one, usual)
    return " ".join(re.sub(r"[^\w\s'/-]", " ", text).split()).strip("-/ ")


def is_no_opinion(option: str) -> bool:
    """Is it no point of any scale: not known, refused, not asked?"""
    words = spelled(option)
    if MISSING.match(words):
        return True
    parts = [part.strip() for part in words.split("/")]
    known = _known()[1]
    return words in known or (bool(words) and all(part in known for part in parts))


def classes_of(options: Sequence[str]) -> Classes:
    """The classes of a question's options, None for those that have none.

    Either all options that are opinions have a class, or none of them: half of a scale says nothing of the
    rest.
    """
    labels: list[str | None] = [NO_OPINION if is_no_opinion(option) else None for option in options]
    places = [place for place, label in enumerate(labels) if label is None]
    words = [spelled(options[place]) for place in places]
    if len(places) < 2:
        return Classes(tuple(labels), "fewer than two of its options are opinions")
    chosen, how = _by_scale(words)
    if not chosen:
        for rule in (_by_numbers, _by_degrees, _by_negation):
            chosen = rule([options[place] for place in places] if rule is _by_numbers else words)
            if chosen:
                how = RULES[rule.__name__]
                break
    if not chosen and _points([options[place] for place in places]):
        how = "its options are numbers, and no scale has the words at both ends"
    if how == NOT_KNOWN:
        unknown = next(place for place, said in zip(places, words) if class_of(said) is None)
        how = f"no class for {options[unknown]!r}"
    for place, label in zip(places, chosen or ()):
        labels[place] = label
    return Classes(tuple(labels), how)


def class_of(option: str) -> str | None:
    """The class on which all scales that have an option agree; None where they do not, or none has it."""
    if is_no_opinion(option):
        return NO_OPINION
    words = spelled(option)
    labels = {scale.labels[words] for scale in _known()[0] if words in scale.labels}
    return labels.pop() if len(labels) == 1 else None


# --- rules: the words of all opinions -> a class each, or [] ------------------------------------------------


def _by_scale(words: Sequence[str]) -> tuple[list[str], str]:
    """By the scale that has all words, and fewest levels beside them; by the words alone where no scale has
    all of them, and none is of two classes."""
    fitting = [scale for scale in _known()[0] if all(word in scale.labels for word in words)]
    if fitting:
        readings: dict[tuple[str, ...], list[Scale]] = {}
        fewest = min(_levels_left(scale, words) for scale in fitting)
        for scale in fitting:
            if _levels_left(scale, words) == fewest:
                readings.setdefault(tuple(scale.labels[word] for word in words), []).append(scale)
        if len(readings) > 1:
            names = " or ".join(scales[0].name for scales in readings.values())
            return [], f"its options may be of the scale {names}"
        labels, scales = next(iter(readings.items()))
        return _if_different(labels), f"scale {scales[0].name}"
    alone = [class_of(word) for word in words]
    if None in alone:
        return [], NOT_KNOWN
    return _if_different([label for label in alone if label is not None]), "every option by itself"


def _levels_left(scale: Scale, words: Sequence[str]) -> int:
    return scale.num_levels - len({scale.labels[word] for word in words})


def _if_different(labels: Sequence[str]) -> list[str]:
    """Labels of one class alone are no distribution."""
    return list(labels) if len(set(labels)) > 1 else []


def _by_numbers(options: Sequence[str]) -> list[str]:
    """Points of a scale of numbers, from its least (class 1) to its largest (5); 2 to 4 where it has three.

    The first and the last option may be words alone. The words at the ends say which end is the positive one;
    numbers without any are a scale from 0 or 1 to 10, and of no other: 1 to 4 may be regions, and 1 to 4 of a
    scale to 5 that nobody chose.
    """
    points = _points(options)
    if len(points) < 3:
        return []
    numbers = [number for number, _ in points]
    least, most = min(numbers), max(numbers)
    if sorted(numbers) != list(range(least, most + 1)):
        return []
    said = [spelled(words) for _, words in points]
    if all(said):  # the words count: the last number that was chosen may not be the scale's last
        labels = _by_scale(said)[0] or _by_degrees(said)
        if labels:
            return labels
    ends = dict(points)
    rises = _rises(spelled(ends[least]), spelled(ends[most]))
    if not any(words for _, words in points) and least in (0, 1) and most == 10:
        rises = True
    if rises is None:
        return []
    if len(numbers) == 3:
        labels = [str(number - least + 2) for number in numbers]
    else:
        # halves away from the middle, so that 1 to 10 has two points a class, and both ends are alike
        labels = [str(1 + _nearest(4 * (number - least), most - least)) for number in numbers]
    return labels if rises else [str(6 - int(label)) for label in labels]


def _points(options: Sequence[str]) -> list[tuple[int, str]]:
    """The number of every option with the words beside it; [] where they are no numbers.

    A word at the list's beginning or end continues the numbers beside it, which must be three or more.
    """
    matches = [POINT.fullmatch(option) for option in options]
    inner = [int(match[1]) for match in matches if match]
    outer = [place for place, match in enumerate(matches) if match is None]
    if len(inner) < 3 or not set(outer) <= {0, len(options) - 1}:
        return []
    step = 1 if inner[-1] > inner[0] else -1
    ends = {0: inner[0] - step, len(options) - 1: inner[-1] + step}
    points = []
    for place, (option, match) in enumerate(zip(options, matches)):
        points.append((int(match[1]), match[2] or "") if match else (ends[place], option))
    return points


def _rises(low: str, high: str) -> bool | None:
    """Is the end of the larger numbers the more positive one, by the words of both ends? None where no scale
    and no degree knows both, or two differ."""
    both = [scale.labels for scale in _known()[0] if low in scale.labels and high in scale.labels]
    said = {labels[low] < labels[high] for labels in both if labels[low] != labels[high]}
    if not said:
        of_low, of_high = _degree(low), _degree(high)
        if of_low and of_high and of_low != of_high:
            said = {of_low < of_high}
    return said.pop() if len(said) == 1 else None


def _degree(words: str) -> str | None:
    """The class of a degree of whatever it is of, "not at all happy"; None for words of no degree."""
    if words.split(" ")[0] in ("no", "none"):
        return NO_DEGREE
    match = DEGREE.fullmatch(words)
    return DEGREES[match[1]] if match else None


def _nearest(numerator: int, denominator: int) -> int:
    """numerator / denominator (0 to 4) to the nearest whole number, a half away from 2."""
    down, rest = divmod(2 * numerator, 2 * denominator)
    is_half = rest == denominator
    return down + (rest > denominator or (is_half and down >= 2))


def _by_degrees(words: Sequence[str]) -> list[str]:
    """Degrees of one thing: very X, somewhat X, not too X, not at all X, whatever X is."""
    matches = [DEGREE.fullmatch(re.sub(r"^not (.+) at all$", r"not at all \1", word)) for word in words]
    if not all(matches) or len(words) < 3:
        return []
    parts = [(match[1], match[2]) for match in matches if match]
    things = {thing for degree, thing in parts if thing or degree != "not at all"}
    degrees = [degree for degree, _ in parts]
    if len(things) != 1 or "" in things or len(set(degrees)) < len(degrees):
        return []
    is_five = {"extremely", "very"} <= set(degrees)
    if is_five:
        return _if_different([FIVE_DEGREES[d] for d in degrees]) if set(degrees) <= set(FIVE_DEGREES) else []
    return _if_different([DEGREES[degree] for degree in degrees])


def _by_negation(words: Sequence[str]) -> list[str]:
    """Two options of which one denies the other: yes and no with words behind them, X and not X."""
    if len(words) != 2:
        return []
    first = [word.split()[0] for word in words]
    if set(first) == {"yes", "no"}:
        return [YES if word == "yes" else NO for word in first]
    denies = [bool(NEGATIONS & set(word.split())) for word in words]
    said = [[part for part in word.split() if part not in NEGATIONS | AUXILIARIES] for word in words]
    if denies.count(True) != 1 or not said[0] or said[0] != said[1]:
        return []
    return [NO if denied else YES for denied in denies]


RULES = {
    "_by_numbers": "points of a scale of numbers",
    "_by_degrees": "degrees of one thing",
    "_by_negation": "one option denies the other",
}
