"""The tables of a report: results of each kind of data, differences of checkpoints, counts.

Contract: records of numbers go in, tables of texts come out; a column's title names the judge that its number
is of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from measures.summaries import Summary
from reporting.record import Difference, Results
from reporting.words import CAPTIONS, HEADLINE, LABELS, TITLES

LARGE = 1e5  # from here on, decimals say nothing

Judges = Mapping[str, str]  # by metric: the judge's name
NO_JUDGES: Judges = {}


class Table(NamedTuple):
    """The results of one kind of data."""

    kind: str
    header: list[str]
    rows: list[list[str]]


def tables_of(results: Results, n_samples: int, judges: Judges = NO_JUDGES) -> list[Table]:
    """A table for each kind that was measured.

    It has a row for each checkpoint or reference distribution, and a column for each metric that any of them
    has. judges: of the metrics that are a judge's.
    """
    tables = [_table_of(kind, results, n_samples, judges) for kind in TITLES]
    return [table for table in tables if table.rows]


def _table_of(kind: str, results: Results, n_samples: int, judges: Judges) -> Table:
    metrics = [m for m in TITLES[kind] if any(m in summaries for summaries in results.values())]
    header = [title_of(m, kind, n_samples, judges) for m in metrics]
    rows = []
    for name, summaries in results.items():
        held = {m: summaries[m] for m in metrics if m in summaries}
        if held:
            count = max(summary["n"] for summary in held.values())
            rows.append([name, *(format_cell(held.get(m)) for m in metrics), str(count)])
    return Table(kind, ["", *header, "responses" if kind == LABELS else "n"], rows)


def title_of(metric: str, kind: str, n_samples: int, judges: Judges = NO_JUDGES) -> str:
    """A metric's name for readers, with the number of samples or the judge that it is of."""
    title = TITLES[kind].get(metric, metric).replace("sampling", f"sampling, N={n_samples}")
    return f"{title} ({judges[metric]})" if metric in judges else title


def markdown_tables(results: Results, n_samples: int, judges: Judges = NO_JUDGES) -> str:
    """The tables with aligned columns, readable in a terminal and as Markdown; several have captions."""
    tables = tables_of(results, n_samples, judges)
    if len(tables) == 1:
        return as_markdown(tables[0])
    return "\n\n".join(f"{CAPTIONS[table.kind]}:\n\n{as_markdown(table)}" for table in tables)


def as_markdown(table: Table) -> str:
    """A table with aligned columns."""
    widths = [max(map(len, column)) for column in zip(table.header, *table.rows)]
    rule = "|".join("-" * (width + 2) for width in widths)
    lines = [_line(row, widths) for row in table.rows]
    return "\n".join([_line(table.header, widths), f"|{rule}|", *lines])


def markdown_differences(
    differences: Sequence[Difference], n_samples: int, judges: Judges = NO_JUDGES
) -> str:
    """As above, of the metrics that a reader looks for first; "" where there are none."""
    headline = [difference for difference in differences if difference.metric in HEADLINE]
    table = differences_table(headline, n_samples, judges)
    return as_markdown(table) if table.rows else ""


def differences_table(differences: Sequence[Difference], n_samples: int, judges: Judges = NO_JUDGES) -> Table:
    """A row for each metric and pair of checkpoints."""
    header = ["", "difference of", "value", "p", "p (Holm)", "n"]
    rows = []
    for d in differences:
        of = f"{d.a} - {d.b}"
        value = format_cell({"value": d.value, "low": d.low, "high": d.high, "n": d.n})
        row = [title_of(d.metric, d.kind, n_samples, judges), of, value, as_p(d.p), as_p(d.p_holm), str(d.n)]
        rows.append(row)
    return Table("differences", header, rows)


def as_p(p: float | None) -> str:
    """A p-value for readers."""
    if p is None:
        return "-"
    return f"{p:.3f}" if p >= 0.0005 else f"{p:.0e}"


def counts_table(counts: Mapping[str, Mapping[str, int]]) -> Table:
    """A row for each checkpoint's counts, a column for each that is above 0 somewhere."""
    names = dict.fromkeys(name for of_checkpoint in counts.values() for name in of_checkpoint)
    some = [name for name in names if any(of.get(name) for of in counts.values())]
    header = ["", *(name.replace("_", " ") for name in some)]
    rows = [[name, *(str(of.get(key, 0)) for key in some)] for name, of in counts.items()]
    return Table("counts", header, rows if some else [])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [cell.ljust(width) for cell, width in zip(cells, widths)]
    return "| " + " | ".join(padded) + " |"


def format_cell(summary: Summary | None) -> str:
    """A mean with its interval, where there is one."""
    if summary is None or summary["value"] is None:
        return "-"
    return with_interval(summary["value"], summary["low"], summary["high"])


def with_interval(value: float, low: float | None, high: float | None) -> str:
    """ "0.213 [0.187, 0.241]"; the number alone, where there is no interval."""
    if low is None or high is None:
        return as_number(value)
    return f"{as_number(value)} [{as_number(low)}, {as_number(high)}]"


def as_number(value: float) -> str:
    """Three decimals, where they say something."""
    return f"{value:.3f}" if abs(value) < LARGE else f"{value:.3g}"
