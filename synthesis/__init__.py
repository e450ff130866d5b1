"""From raw sources to data: surveys to distributions, samples to ranked responses, data sets to others, and
the check of the embedded data.

A task is a function of the settings and a folder: it does its items in a `Work`, writes the data and
`synthesis.json`, and returns a line or a table for the screen.
"""

from collections.abc import Callable
from pathlib import Path

from settings import SynthesisSettings
from synthesis.checks import check_opinions, repeated_words
from synthesis.combining import mix, split
from synthesis.describing import stats
from synthesis.distributions import make_distributions
from synthesis.instructions import sample_instructions, spread
from synthesis.items import items
from synthesis.surveys import survey_rows

TASKS: dict[str, Callable[[SynthesisSettings, Path], str]] = {
    "survey": make_distributions,
    "mix": mix,
    "split": split,
    "stats": stats,
}

__all__ = [
    "TASKS",
    "check_opinions",
    "items",
    "repeated_words",
    "sample_instructions",
    "spread",
    "survey_rows",
]
