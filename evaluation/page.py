"""The HTML page of a report: the table, the picture and the facts in one file that needs no other.

Contract: strings and bytes go in, one document comes out; every text in it is escaped.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence

ABOUT_BELIEFS = (
    "JSD is the Jensen-Shannon distance (natural log, at most 0.833) between the model's belief distribution "
    "and the group's; lower is better. CBC, BPC and RS: higher is better. A majority share of 1 is faithful."
)
ABOUT_ORDER = (
    "Implied rewards, beta times the log-ratio to the reference, against the rewards that the responses "
    "carry, or against which one of a pair is preferred. Pair accuracy: the best response above each other; "
    "set accuracy: all responses above the mean reward over all below it; mass on Y-: share of the softmax "
    "on those below. KL to the reference is the mean of reference minus policy log-probs, in nats a response."
)
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


def html_page(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    facts: Mapping[str, object],
    explanation: str,
    image: bytes,
) -> str:
    """The page of a result table, how it was made, what its columns mean, and a PNG (empty: no picture)."""
    table = _table_row(header, "th") + "".join(_table_row(row, "td") for row in rows)
    return f"""{HEAD}<p>Means over prompts with 95% bootstrap intervals over questions. {explanation}</p>
<table>{table}</table>
{_picture(image)}
<h2>Settings</h2><table class="facts">{_fact_rows(facts)}</table></html>
"""


def _table_row(cells: Sequence[str], tag: str) -> str:
    inner = "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells)
    return f"<tr>{inner}</tr>"


def _fact_rows(facts: Mapping[str, object]) -> str:
    rows = []
    for name, value in facts.items():
        rows.append(f"<tr><th>{html.escape(str(name))}</th><td>{html.escape(str(value))}</td></tr>")
    return "".join(rows)


def _picture(image: bytes) -> str:
    if not image:
        return ""
    return f'<img alt="belief distributions" src="data:image/png;base64,{base64.b64encode(image).decode()}">'
