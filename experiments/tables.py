"""Tables of a results' numbers that several pages have: means, the seeds' spread, paired differences.

Contract: numbers go in, tables of escaped texts come out, rows in the order of the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from experiments.numbers import Numbers, Part
from reporting.markdown import escaped
from reporting.tables import Table, as_number, as_p, format_cell


class Names(NamedTuple):
    """What an experiment's measures and rows are called."""

    measures: Mapping[str, str]
    row: Callable[[str], str]

    def of_row(self, row: str) -> str:
        return escaped(self.row(row))


def measured(numbers: Numbers, part: Part, tables: Mapping[str, Sequence[str]]) -> list[str]:
    """The measures of these tables that any row has."""
    known = {metric for of, _, metric in numbers.values if of == part}
    return [metric for metrics in tables.values() for metric in metrics if metric in known]


def means(numbers: Numbers, part: Part, metrics: Sequence[str], names: Names) -> Table:
    """Rows that have any of the measures; then what guessing gets."""
    rows = []
    for row in numbers.methods(part):
        cells = [format_cell(numbers.summary(part, row, metric)) for metric in metrics]
        if set(cells) != {"-"}:
            rows.append([names.of_row(row), *cells])
    for (of, row), summaries in numbers.references.items():
        if of == part and rows and set(summaries) & set(metrics):
            rows.append([escaped(row), *(format_cell(summaries.get(metric)) for metric in metrics)])
    return Table("means", ["", *(names.measures[metric] for metric in metrics)], rows)


def spreads(numbers: Numbers, part: Part, metrics: Sequence[str], names: Names) -> Table:
    """Of the seeds' means: standard deviation (least to most)."""
    rows = []
    for row in numbers.methods(part):
        cells = []
        for metric in metrics:
            spread = numbers.spread(part, row, metric)
            if spread is None:
                cells.append("-")
                continue
            sd = "-" if spread.sd is None else as_number(spread.sd)
            cells.append(f"{sd} ({as_number(spread.least)} to {as_number(spread.most)})")
        rows.append([names.of_row(row), *cells])
    return Table("spread", ["", *(names.measures[metric] for metric in metrics)], rows)


def differences(
    numbers: Numbers, part: Part, metrics: Sequence[str], compared_to: Sequence[str], names: Names
) -> Table:
    """Every row against each of `compared_to` that is there, by measure."""
    present = [row for row in compared_to if row in numbers.methods(part)]
    rows = []
    for metric in metrics:
        for found in numbers.compared(part, metric, present):
            pair = f"{names.of_row(found.a)} - {names.of_row(found.b)}"
            p, p_holm = as_p(found.difference["p"]), as_p(found.p_holm)
            rows.append([names.measures[metric], pair, format_cell(found.difference), p, p_holm])
    return Table("differences", ["", "difference of", "value", "p", "p (Holm)"], rows)
