"""The HTML page of a report: tables, picture and facts in one file that needs no other.

Contract: strings and bytes go in, one document comes out; every text in it is escaped.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from evaluation.kinds import BELIEFS, LABELS, PREFERENCE, TARGET, TASK

CAPTIONS = {
    BELIEFS: "Beliefs of a group",
    PREFERENCE: "Responses in order",
    LABELS: "Responses labelled one by one",
    TARGET: "Target responses",
    TASK: "Answers to the questions of a task",
}
ABOUT = {  # what the columns mean
    BELIEFS: (
        "JSD is the Jensen-Shannon distance (natural log, at most 0.833) between the model's belief "
        "distribution and the group's; Wasserstein is the distance of the two on the classes' scale, from 0 "
        "to 1, without don't know. Lower is better. CBC, BPC and RS: higher is better. A majority share of 1 "
        "is faithful. Rows in brackets are what guessing gets, and what draws from the group itself get."
    ),
    PREFERENCE: (
        "Implied rewards, beta times the log-ratio to the reference, against the rewards that the responses "
        "carry, or against which one of a pair is preferred. Pair accuracy: the best response above each "
        "other; set accuracy: all responses above the mean reward over all below it; mass on Y-: share of "
        "the softmax on those below; margin: reward of the best minus the mean of the others. KL to the "
        "reference is the mean of reference minus policy log-probs, in nats a response. Accuracy of "
        "log-probs a token needs no reference: the best response's mean log-prob over its tokens above each "
        "other's."
    ),
    LABELS: (
        "Each response counts by itself. Rewards are implied: beta times the log-ratio to the reference. "
        "Difference: mean reward of the desirable responses minus that of the undesirable ones. "
        "AUC: how often a desirable response has a higher reward than an undesirable one, of whatever "
        "prompt; 0.5 is chance. AUC of log-probs a token compares mean log-probs over a response's tokens "
        "and needs no reference."
    ),
    TARGET: (
        "NLL is the negative log-likelihood of the responses in nats a token: the sum over all prompts "
        "divided by the number of all tokens, the end of the response included; perplexity is its "
        "exponential. By prompt, each response's mean over its tokens counts alike, as in the loss of SFT. "
        "Lower is better. The reference is what the run started from."
    ),
    TASK: (
        "WR is the judge's mean preference for the checkpoint's answer over the baseline's; LC-WR is what it "
        "would be at equal lengths, by AlpacaEval 2's logistic model. Scores are the judge's, 1 to 10 of a "
        "chat model. Shares are of answers."
    ),
}
DIFFERENCES = (
    "The first checkpoint's value minus the second one's, on the prompts that both have: mean, 95% bootstrap "
    "interval over questions, and two-sided p of no difference, by sign flips of whole questions (AUC and "
    "differences of rewards: by bootstrap). p (Holm) is adjusted for all pairs of one metric."
)
COUNTS = "Sampled responses that could not be judged, and why; what is 0 everywhere is left out."
HEAD = """\
<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Grove report</title>
<style>
 body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; \
color: #222 }
 table { border-collapse: collapse; margin: 1rem 0 } th, td { padding: .3rem .7rem; \
border-bottom: 1px solid #ddd; text-align: left; font-variant-numeric: tabular-nums }
 img { max-width: 100% } .facts th { font-weight: normal; color: #666 }
</style>
<h1>Evaluation</h1>
"""


class Table(Protocol):
    """What the page shows of one kind of data."""

    kind: str
    header: list[str]
    rows: list[list[str]]


class Page(NamedTuple):
    """What a page says."""

    tables: Sequence[Table]
    differences: Table
    counts: Table
    facts: Mapping[str, object]
    intervals: bytes  # a PNG; this and the next: empty where there is no picture
    distributions: bytes


def html_page(page: Page) -> str:
    """The page of all tables, what their columns mean, the pictures, and how it was made."""
    shown = [_section(CAPTIONS[table.kind], ABOUT[table.kind], table) for table in page.tables]
    shown.append(_picture("means with intervals", page.intervals))
    shown.append(_section("Paired differences", DIFFERENCES, page.differences))
    shown.append(_picture("belief distributions", page.distributions))
    shown.append(_section("Not judged", COUNTS, page.counts))
    return f"""{HEAD}<p>Means with 95% bootstrap intervals over questions.</p>
{"".join(shown)}
<h2>Settings</h2><table class="facts">{_fact_rows(page.facts)}</table></html>
"""


def _section(caption: str, about: str, table: Table) -> str:
    """A table with what stands above it; nothing where it has no rows."""
    if not table.rows:
        return ""
    inner = _table_row(table.header, "th") + "".join(_table_row(row, "td") for row in table.rows)
    return f"<h2>{caption}</h2><p>{about}</p>\n<table>{inner}</table>\n"


def _table_row(cells: Sequence[str], tag: str) -> str:
    inner = "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells)
    return f"<tr>{inner}</tr>"


def _fact_rows(facts: Mapping[str, object]) -> str:
    rows = []
    for name, value in facts.items():
        rows.append(f"<tr><th>{html.escape(str(name))}</th><td>{html.escape(_in_words(value))}</td></tr>")
    return "".join(rows)


def _in_words(value: object) -> str:
    """A fact as a reader has it: without brackets and quotes."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_in_words(inner)}" for name, inner in value.items()) or "-"
    if isinstance(value, list | tuple):
        return ", ".join(map(_in_words, value)) or "-"
    return "-" if value is None else str(value)


def _picture(name: str, image: bytes) -> str:
    if not image:
        return ""
    return f'<p><img alt="{name}" src="data:image/png;base64,{base64.b64encode(image).decode()}"></p>\n'
