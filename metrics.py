"""Metrics of group preferences: pure functions of arrays, with the papers' definitions.

Contract: the face of `measures/`, which has them by what they are of. Arrays in, floats or arrays out; every
mean over prompts comes with n and a bootstrap interval (`summarize`, `summarize_contrast`), every comparison
of two checkpoints with p (`summarize_difference`). `example_metrics` is the one place for what is logged of
every loss, in training, validation and evaluation.
"""

from measures.differences import Difference, holm, summarize_contrast_difference, summarize_difference
from measures.distributions import (
    Positions,
    expected_js_distance,
    expected_wasserstein,
    js_distance,
    js_distance_floor,
    majority_share,
    wasserstein_distance,
)
from measures.examples import Column, example_metrics, order_metrics
from measures.responses import (
    Parsed,
    class_belief_consistent,
    class_shares,
    named_options,
    option_key,
    parse_response,
)
from measures.summaries import Contrast, Summary, auc, mean_difference, summarize, summarize_contrast
from measures.terms import Terms, term_columns, terms_of
from measures.wins import Gamed, length_controlled_win_rate, win_rate

__all__ = [
    "Column",
    "Contrast",
    "Difference",
    "Gamed",
    "Parsed",
    "Positions",
    "Summary",
    "Terms",
    "auc",
    "class_belief_consistent",
    "class_shares",
    "example_metrics",
    "expected_js_distance",
    "expected_wasserstein",
    "holm",
    "js_distance",
    "js_distance_floor",
    "length_controlled_win_rate",
    "majority_share",
    "mean_difference",
    "named_options",
    "option_key",
    "order_metrics",
    "parse_response",
    "summarize",
    "summarize_contrast",
    "summarize_contrast_difference",
    "summarize_difference",
    "term_columns",
    "terms_of",
    "wasserstein_distance",
    "win_rate",
]
