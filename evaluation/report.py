"""Reports: one table, report.json, predictions.jsonl, a plot of distributions, and an HTML page of them all.

Contract: report.json is {"checkpoints": {name: {metric: {"value", "low", "high", "n"}}}, "settings": {...}};
everything else shows the same numbers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from evaluation.folder import writing
from evaluation.page import ABOUT_BELIEFS, ABOUT_ORDER, html_page
from evaluation.plots import Shown, plot
from groups import Group
from metrics import Summary
from settings import EvaluationSettings, names_of
from utils import atomic_path, write_json

TITLES = {
    "js_distance_probability": "JSD (probability)",
    "js_distance_sampling": "JSD (sampling)",
    "js_distance_floor": "floor of JSD (sampling)",
    "cbc": "CBC",
    "bpc": "BPC",
    "rs": "RS",
    "majority_share": "majority share",
    "class_mass": "class mass",
    "pair_accuracy": "pair accuracy",
    "set_accuracy": "set accuracy",
    "kendall_tau": "Kendall's tau",
    "negative_mass": "mass on Y-",
    "margin": "margin",
    "kl_reference": "KL to reference",
    "logp_best": "log-prob of the best",
    "logp_others": "log-prob of the others",
}

Results = Mapping[str, Mapping[str, Summary]]  # by checkpoint or reference distribution, then by metric


class Report(NamedTuple):
    """What an evaluation found."""

    results: Results
    facts: Mapping[str, Any]  # how it was made, `n_samples` among them: report.json's "settings"
    predictions: Sequence[Mapping[str, Any]]  # lines of predictions.jsonl
    shown: Sequence[Shown]  # distributions to draw; (): no plot
    scope: str  # one line, see `scope_of`


def scope_of(groups: Sequence[Group], settings: EvaluationSettings) -> str:
    """How many prompts of what, and how many questions they ask."""
    num_questions = len({group.question for group in groups})
    of_what = f"{', '.join(names_of(settings.datasets))} ({settings.split})"
    return f"{len(groups)} prompts on {num_questions} questions of {of_what}"


# --- the table ----------------------------------------------------------------------------------------------


def markdown_table(results: Results, n_samples: int) -> str:
    """The result table with aligned columns, readable in a terminal and as Markdown."""
    header, rows = table_rows(results, n_samples)
    widths = [max(map(len, column)) for column in zip(header, *rows)]
    rule = "|".join("-" * (width + 2) for width in widths)
    return "\n".join([_line(header, widths), f"|{rule}|", *(_line(row, widths) for row in rows)])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [cell.ljust(width) for cell, width in zip(cells, widths)]
    return "| " + " | ".join(padded) + " |"


def table_rows(results: Results, n_samples: int) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the result table: a row for each checkpoint or reference distribution, a column for
    each metric that any of them has.
    """
    metrics = [m for m in TITLES if any(m in summaries for summaries in results.values())]
    titles = [TITLES[m].replace("sampling", f"sampling, N={n_samples}") for m in metrics]
    rows = []
    for name, summaries in results.items():
        num_prompts = max((summary["n"] for summary in summaries.values()), default=0)
        cells = [format_cell(summaries.get(m)) for m in metrics]
        rows.append([name, *cells, str(num_prompts)])
    return ["", *titles, "n"], rows


def format_cell(summary: Summary | None) -> str:
    """A mean with its interval, where there is one."""
    if summary is None or summary["value"] is None:
        return "-"
    value = f"{summary['value']:.3f}"
    if summary["low"] is None:
        return value
    return f"{value} [{summary['low']:.3f}, {summary['high']:.3f}]"


# --- the files ----------------------------------------------------------------------------------------------


def write_report(folder: Path, report: Report) -> Path:
    """Write predictions.jsonl, report.json, distributions.png and index.html into `folder`; return the page's
    path. Raises UserError where the disk refuses them.
    """
    with writing(folder):
        return _write_files(folder, report)


def _write_files(folder: Path, report: Report) -> Path:
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in report.predictions)
    _write(folder / "predictions.jsonl", "".join(lines).encode())
    write_json(folder / "report.json", {"checkpoints": report.results, "settings": report.facts})
    image = plot(report.shown) if report.shown else b""
    if image:
        _write(folder / "distributions.png", image)
    header, rows = table_rows(report.results, report.facts["n_samples"])
    explanation = ABOUT_BELIEFS if _has_beliefs(report.results.values()) else ABOUT_ORDER
    page = folder / "index.html"
    _write(page, html_page(header, rows, report.facts, explanation, image).encode())
    return page


def _has_beliefs(results: Iterable[Mapping[str, Summary]]) -> bool:
    return any("js_distance_probability" in summaries for summaries in results)


def _write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
