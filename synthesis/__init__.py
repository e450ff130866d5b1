"""From raw sources to data: surveys to distributions, these to dialogues, ratings to reviews, samples to
ranked responses, data sets to others, and the check of the embedded data.

A task is a function of the settings and a folder: it does its items in a `work.Work`, writes the data and
`synthesis.json`, and returns a line or a table for the screen. The door imports the modules of tasks one by
one, since those that sample need a model's libraries and the others start at once.
"""

from synthesis.checks import check_opinions, repeated_words
from synthesis.items import items
from synthesis.surveys import survey_rows

__all__ = ["check_opinions", "items", "repeated_words", "survey_rows"]
