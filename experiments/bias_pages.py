"""The page of Theorem 3 and of the collapse: Markdown tables and figures, of the two results' files alone.

Contract: the same files give the same page; every word about what was seen is decided by a rule on intervals.
"""

from __future__ import annotations

import string
from pathlib import Path

from experiments.bias_figures import NAMES, figures_of
from experiments.bias_numbers import (
    Interval,
    arms_of,
    betas_of,
    biases,
    counts_of,
    interval,
    mean_of,
    points_of,
    slope,
    untrained,
    verdict,
)
from experiments.pages import write_page
from experiments.results import Results, refusing_damage
from reporting.tables import Table, as_markdown

TEMPLATE = Path(__file__).with_name("bias_page.template")


def publish(lengths: Results, collapse: Results, folder: Path) -> Path:
    """Write bias.md and its figures into `folder`. Raises UserError for damaged results."""
    with refusing_damage():
        figures = figures_of(lengths, collapse)
        text = page_of(lengths, collapse)
    return write_page(folder, "bias", text, figures)


def page_of(lengths: Results, collapse: Results) -> str:
    """The template with its numbers."""
    settings = lengths["settings"]
    counts = counts_of(lengths, arms_of(lengths)[0])
    return string.Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        {key: settings[key] for key in ("prompts", "longest", "concentration", "steps")},
        seeds=len(settings["seeds"]),
        bias_table=as_markdown(_bias_table(lengths)),
        untrained=_with_interval(interval(untrained(lengths))),
        sigma=f"{lengths['sigma']:.2f}",
        bound=", ".join(f"{lengths['sigma'] / k**0.5:.2f}" for k in counts),
        sharpness_table=as_markdown(_sharpness_table(lengths)),
        collapse_table=as_markdown(_collapse_table(collapse)),
        made="\n\n".join([_made(lengths, "bias", "seeds"), _made(collapse, "collapse", "collapse_seeds")]),
    )


def _bias_table(results: Results) -> Table:
    """Bias by arm and k, with the slope."""
    all_counts = counts_of(results, arms_of(results)[0])
    rows = []
    for arm in arms_of(results):
        held = counts_of(results, arm)
        cells = [_with_interval(interval(biases(results, arm, k))) if k in held else "" for k in all_counts]
        found = slope(results, arm)
        rows.append([arm, *cells, _with_interval(found), verdict(found)])
    return Table("bias", ["", *(f"k = {k}" for k in all_counts), "slope", ""], rows)


def _sharpness_table(results: Results) -> Table:
    """How far each arm went to a point mass, and out of the language, at its largest k."""
    rows = []
    for arm in arms_of(results):
        k = counts_of(results, arm)[-1]
        ends = [row for row in results["rows"] if (row["arm"], row["k"]) == (arm, k) and row["largest"]]
        if ends:
            largest, mass = (interval([row[name][-1] for row in ends]).value for name in ("largest", "mass"))
            rows.append([arm, str(k), f"{largest:.2f}", f"{mass:.2f}"])
    return Table("sharpness", ["", "k", "largest share of one response", "mass on the language"], rows)


def _collapse_table(results: Results) -> Table:
    rows = []
    for method, name in NAMES.items():
        for beta in betas_of(results):
            points = points_of(results, method, beta)
            off = max(abs(a - b) for point in points for a, b in point["log_odds"])
            cells = ("majority_theory", "majority", "to_theory", "to_theory_token", "to_group")
            numbers = [f"{mean_of(points, cell):.3f}" for cell in cells]
            rows.append([f"{name}, beta {beta:g}", *numbers, f"{off:.2f}"])
    header = [
        "",
        "majority: theory",
        "majority: at its token",
        "JSD to theory, responses",
        "JSD to theory, token",
        "JSD to p*, token",
        "largest gap of log-odds, nats",
    ]
    return Table("collapse", header, rows)


def _made(results: Results, name: str, seeds: str) -> str:
    made = results["made"]
    versions = ", ".join(f"{package} {version}" for package, version in made["versions"].items())
    return (
        f"`results/{name}.json`: `{made['command']}`, commit {made['commit']}, {versions}, "
        f"{made['thread_seconds']:.0f} s of one CPU thread for {len(results['settings'][seeds])} seeds."
    )


def _with_interval(found: Interval) -> str:
    if found.low is None or found.high is None:
        return f"{found.value:.2f}"
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"
