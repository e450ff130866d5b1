"""Ratings and the belief classes that they are of.

Contract: a scale is what the settings say, else the usual one that all ratings fit; classes 1 to 5 are equal
parts of it. A rating outside of it, or one that is no number and in no map, is an error that names its row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from groups.values import clipped, label_of
from synthesis.config import SynthesisSettings
from synthesis.option_classes import user_map
from synthesis.scales import spelled
from utils import UserError

FIVE = ("1", "2", "3", "4", "5")
USUAL = ((1.0, 5.0), (1.0, 10.0), (0.0, 10.0), (0.0, 100.0))
REMEDY = "set lowest_rating and highest_rating, or name the class of each rating by options=FILE"


class Scale(NamedTuple):
    """From which number to which ratings go."""

    lowest: float
    highest: float

    @property
    def words(self) -> str:
        return f"{self.lowest:g} to {self.highest:g}"

    def label(self, rating: float) -> str:
        """The class of a rating: of five equal parts of the scale, the one that it lies in."""
        part = (rating - self.lowest) / (self.highest - self.lowest)
        return FIVE[min(int(part * len(FIVE) + 1e-9), len(FIVE) - 1)]


class Labels(NamedTuple):
    """The class of every rating, and who says so."""

    of_rating: Mapping[str, str]
    how: str


def classes_of_ratings(places: Mapping[str, str], settings: SynthesisSettings) -> Labels:
    """The classes of all different ratings. places: {a rating as it stands: the first row that has it}.

    Raises UserError for a rating that has none.
    """
    given = user_map(settings.options, settings.belief_classes)
    known = {rating: given[spelled(rating)] for rating in places if spelled(rating) in given}
    numbers = {
        rating: _number(rating, place, settings) for rating, place in places.items() if rating not in known
    }
    if not numbers:
        return Labels(known, "options=")
    lacking = [label for label in FIVE if label not in settings.belief_classes]
    if lacking:
        raise UserError(
            f"belief_classes={list(settings.belief_classes)}: lacks {lacking[0]}, and ratings are of classes "
            "1 to 5; give them, or name the class of each rating by options=FILE"
        )
    scale = _scale(list(numbers.values()), settings)
    for rating, number in numbers.items():
        if not scale.lowest <= number <= scale.highest:
            raise UserError(
                f"{places[rating]}: field {settings.rating}: {clipped(rating)} is not of the scale "
                f"{scale.words}; correct the row, or {REMEDY}"
            )
    labels = {rating: scale.label(number) for rating, number in numbers.items()}
    return Labels({**labels, **known}, f"scale {scale.words}")


def _number(rating: str, place: str, settings: SynthesisSettings) -> float:
    try:
        number = float(rating)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{place}: field {settings.rating}: {clipped(rating)} is no number; {REMEDY}")
    return number


def _scale(ratings: Sequence[float], settings: SynthesisSettings) -> Scale:
    """What the settings say, else the first of the usual scales that all ratings fit."""
    low, high = settings.lowest_rating, settings.highest_rating
    if (low is None) != (high is None):
        raise UserError("config keys lowest_rating and highest_rating: one is given; give both")
    if low is not None and high is not None:
        if low >= high:
            raise UserError(f"config key lowest_rating={low:g}: is not below highest_rating={high:g}")
        return Scale(low, high)
    least, most = min(ratings), max(ratings)
    for lowest, highest in USUAL:
        if lowest <= least and most <= highest:
            return Scale(lowest, highest)
    raise UserError(f"config key rating: ratings go from {least:g} to {most:g}, no usual scale; {REMEDY}")


def rating_of(value: object) -> str:
    """A rating as its map and its scale write it: 4, 4.0 and "4" are one."""
    return label_of(value).strip()
