"""From raw sources to data: survey tables to distributions, and the check of the embedded data."""

from synthesis.checks import check_opinions, repeated_words
from synthesis.items import items
from synthesis.surveys import survey_rows

__all__ = ["check_opinions", "items", "repeated_words", "survey_rows"]
