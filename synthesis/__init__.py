"""From raw sources to data: survey tables to distributions, samples to ranked responses, and the check of
the embedded data.
"""

from synthesis.checks import check_opinions, repeated_words
from synthesis.instructions import sample_instructions, spread
from synthesis.items import items
from synthesis.surveys import survey_rows

__all__ = ["check_opinions", "items", "repeated_words", "sample_instructions", "spread", "survey_rows"]
