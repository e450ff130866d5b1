"""Reports: a table for each kind of data, report.json, predictions.jsonl, a plot of distributions, and a page
of them all.

Contract: report.json is {"checkpoints": {name: {metric: {"value", "low", "high", "n"}}}, "settings": {...}};
everything else shows the same numbers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import models
from evaluation.checkpoints import Checkpoint
from evaluation.folder import writing
from evaluation.kinds import BELIEFS, LABELS, PREFERENCE, TARGET, TASK, Prompts, in_words
from evaluation.page import CAPTIONS, html_page
from evaluation.plots import Shown, plot
from metrics import Summary
from settings import EvaluationSettings, names_of
from utils import atomic_path, write_json

TITLES = {  # of each kind's metrics
    BELIEFS: {
        "js_distance_probability": "JSD (probability)",
        "js_distance_sampling": "JSD (sampling)",
        "js_distance_floor": "floor of JSD (sampling)",
        "cbc": "CBC",
        "bpc": "BPC",
        "rs": "RS",
        "majority_share": "majority share",
        "class_mass": "class mass",
    },
    PREFERENCE: {
        "pair_accuracy": "pair accuracy",
        "set_accuracy": "set accuracy",
        "kendall_tau": "Kendall's tau",
        "negative_mass": "mass on Y-",
        "margin": "margin",
        "kl_reference": "KL to reference",
        "logp_best": "log-prob of the best",
        "logp_others": "log-prob of the others",
        "logp_accuracy": "accuracy of log-probs a token",
    },
    LABELS: {
        "auc": "AUC",
        "reward_difference": "difference",
        "reward_desirable": "reward of desirable",
        "reward_undesirable": "reward of undesirable",
        "logp_desirable": "log-prob of desirable",
        "logp_undesirable": "log-prob of undesirable",
        "logp_auc": "AUC of log-probs a token",
    },
    TARGET: {
        "nll": "NLL a token",
        "reference_nll": "reference's NLL a token",
        "nll_by_prompt": "NLL a token, by prompt",
        "perplexity": "perplexity",
        "reference_perplexity": "reference's perplexity",
    },
    TASK: {
        "win_rate": "WR",
        "length_controlled_win_rate": "LC-WR",
        "length_controlled_win_rate_without_difficulty": "LC-WR without difficulty",
        "score": "score",
        "score_turn_1": "score, turn 1",
        "score_turn_2": "score, turn 2",
        "characters": "characters",
        "baseline_characters": "baseline's characters",
        "tokens": "tokens",
        "cut_share": "cut",
        "empty_share": "empty",
        "withheld_share": "withheld",
    },
}
LARGE = 1e5  # from here on, decimals say nothing

Results = Mapping[str, Mapping[str, Summary]]  # by checkpoint or reference distribution, then by metric


class Part(NamedTuple):
    """What was found on the prompts of some kinds."""

    results: Results
    facts: Mapping[str, Any]  # how it was made, beside what `make_report` says
    predictions: Sequence[Mapping[str, Any]]  # lines of predictions.jsonl
    shown: Sequence[Shown] = ()  # distributions to draw


class Report(NamedTuple):
    """What an evaluation found."""

    results: Results
    facts: Mapping[str, Any]  # how it was made, `n_samples` among them: report.json's "settings"
    predictions: Sequence[Mapping[str, Any]]  # lines of predictions.jsonl
    shown: Sequence[Shown]  # distributions to draw; (): no plot
    scope: str  # one line, see `scope_of`


def make_report(
    checkpoints: Sequence[Checkpoint], prompts: Prompts, settings: EvaluationSettings, parts: Sequence[Part]
) -> Report:
    """All parts as one report, with how they were made."""
    results: dict[str, dict[str, Summary]] = {}
    facts = _facts_of(checkpoints, prompts, settings)
    for part in parts:
        facts |= part.facts
        for name, summaries in part.results.items():
            results.setdefault(name, {}).update(summaries)
    return Report(
        results,
        facts,
        predictions=[line for part in parts for line in part.predictions],
        shown=[case for part in parts for case in part.shown],
        scope=scope_of(prompts, settings),
    )


def _facts_of(
    checkpoints: Sequence[Checkpoint], prompts: Prompts, settings: EvaluationSettings
) -> dict[str, Any]:
    """How any evaluation was made, and on what."""
    return {
        "datasets": names_of(settings.datasets),
        "split": settings.split,
        "seed": settings.seed,
        "few_shot": settings.few_shot,
        "n_samples": _num_samples(prompts, settings),
        "prompts": len(prompts.groups),
        "questions": _num_questions(prompts),
        "prompts_of_kind": prompts.counts(),
        "without_preference": {"left_out": prompts.left_out, "by_target": prompts.without_preference},
        "sources": {checkpoint.name: checkpoint.source for checkpoint in checkpoints},
        **models.versions(),
    }


def _num_samples(prompts: Prompts, settings: EvaluationSettings) -> int:
    """Sampled responses a prompt; only prompts with beliefs are sampled on."""
    return settings.n_samples if BELIEFS in prompts.counts() else 0


def _num_questions(prompts: Prompts) -> int:
    return len({group.question for group in prompts.groups})


def scope_of(prompts: Prompts, settings: EvaluationSettings) -> str:
    """How many prompts of what kind, how many questions they ask, and what is left out."""
    of_what = f"{', '.join(names_of(settings.datasets))} ({settings.split})"
    scope = f"{len(prompts.groups)} prompts on {_num_questions(prompts)} questions of {of_what}"
    num_samples = _num_samples(prompts, settings)
    samples = f"{num_samples} samples each" if num_samples else ""
    if samples and len(prompts.counts()) > 1:
        samples = f"{num_samples} samples for each of those with belief_probs"
    return "; ".join(filter(None, [scope, in_words(prompts), samples]))


# --- the tables ---------------------------------------------------------------------------------------------


class Table(NamedTuple):
    """The results of one kind of data."""

    kind: str
    header: list[str]
    rows: list[list[str]]


def tables_of(results: Results, n_samples: int) -> list[Table]:
    """A table for each kind that was measured.

    It has a row for each checkpoint or reference distribution, and a column for each metric that any of them
    has.
    """
    tables = [_table_of(kind, results, n_samples) for kind in TITLES]
    return [table for table in tables if table.rows]


def _table_of(kind: str, results: Results, n_samples: int) -> Table:
    titles = TITLES[kind]
    metrics = [m for m in titles if any(m in summaries for summaries in results.values())]
    header = [titles[m].replace("sampling", f"sampling, N={n_samples}") for m in metrics]
    rows = []
    for name, summaries in results.items():
        held = {m: summaries[m] for m in metrics if m in summaries}
        if held:
            count = max(summary["n"] for summary in held.values())
            rows.append([name, *(format_cell(held.get(m)) for m in metrics), str(count)])
    return Table(kind, ["", *header, "responses" if kind == LABELS else "n"], rows)


def markdown_tables(results: Results, n_samples: int) -> str:
    """The tables with aligned columns, readable in a terminal and as Markdown; several have captions."""
    tables = tables_of(results, n_samples)
    if len(tables) == 1:
        return _markdown(tables[0])
    return "\n\n".join(f"{CAPTIONS[table.kind]}:\n\n{_markdown(table)}" for table in tables)


def _markdown(table: Table) -> str:
    widths = [max(map(len, column)) for column in zip(table.header, *table.rows)]
    rule = "|".join("-" * (width + 2) for width in widths)
    lines = [_line(row, widths) for row in table.rows]
    return "\n".join([_line(table.header, widths), f"|{rule}|", *lines])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [cell.ljust(width) for cell, width in zip(cells, widths)]
    return "| " + " | ".join(padded) + " |"


def format_cell(summary: Summary | None) -> str:
    """A mean with its interval, where there is one."""
    if summary is None or summary["value"] is None:
        return "-"
    value = _number(summary["value"])
    if summary["low"] is None or summary["high"] is None:
        return value
    return f"{value} [{_number(summary['low'])}, {_number(summary['high'])}]"


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < LARGE else f"{value:.3g}"


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
    page = folder / "index.html"
    tables = tables_of(report.results, report.facts["n_samples"])
    _write(page, html_page(tables, report.facts, image).encode())
    return page


def _write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
