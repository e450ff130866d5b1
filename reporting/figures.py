"""The figures for papers: what the page's charts show, as PNG and SVG by matplotlib.

Contract: a Story goes in, {name: figure} comes out; texts are drawn as they are, never as TeX.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from reporting.curves import Panel, has_curve, panels_of
from reporting.gaps import Calibration, calibrations_of
from reporting.group_figure import groups_figure
from reporting.panels import (
    GROUP,
    VERDICT_COLORS,
    Differences,
    Means,
    colors_of,
    differences_of,
    means_of,
    shortened,
    verdict_of,
)
from reporting.record import Evaluation, Run, Shares, Story, text_of

if TYPE_CHECKING:  # slow to import, and needed for its names alone
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("png", "svg")
SHOWN_QUANTILES = (0.1, 0.4, 0.7, 0.95)  # of the prompts that are drawn, by their majority's share
TITLE_CHARACTERS = 62
DASHES = {"solid": "-", "dashed": "--", "dotted": ":"}


def figures_of(story: Story) -> Iterator[tuple[str, Figure]]:
    """(name of the file, figure), one after another; several evaluations are numbered."""
    colors = colors_of(story)
    several = len(story.evaluations) > 1
    for number, evaluation in enumerate(story.evaluations, 1):
        for name, drawn in _of_evaluation(evaluation, colors):
            yield (f"{name}-{number}" if several else name), drawn
    for panel in panels_of(story.runs):
        yield f"training-{panel.name}", _training(panel, story.runs, colors)


def _of_evaluation(evaluation: Evaluation, colors: Mapping[str, str]) -> Iterator[tuple[str, Figure]]:
    means, differences = means_of(evaluation), differences_of(evaluation)
    if means:
        yield "means", _means(means, colors)
    if differences:
        yield "differences", _differences(differences)
    if evaluation.groups is not None:
        yield "groups", groups_figure(evaluation.groups)
    if evaluation.shares:
        yield "calibration", _calibration(calibrations_of(evaluation.shares), colors)
        yield "distributions", _distributions(evaluation.shares, colors)


def files_of(drawn: Figure) -> dict[str, bytes]:
    """The bytes of a figure, by format, the same each time. Letters that no font has are drawn as boxes."""
    from matplotlib import rc_context

    found = {}
    with warnings.catch_warnings(), rc_context({"svg.hashsalt": "grove"}):
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        for kind in FORMATS:
            buffer = io.BytesIO()
            metadata = {"Date": None} if kind == "svg" else {}
            drawn.savefig(buffer, format=kind, dpi=150, bbox_inches="tight", metadata=metadata)
            found[kind] = buffer.getvalue()
    return found


# --- drawing ------------------------------------------------------------------------------------------------


def _grid(count: int, width: float, height: float, across: int = 3) -> tuple[Figure, list[Axes]]:
    """A figure of `count` axes in rows."""
    from matplotlib.figure import Figure

    across = min(count, across)
    down = -(-count // across)
    drawn = Figure(figsize=(width * across, height * down), layout="constrained")
    axes = list(drawn.subplots(down, across, squeeze=False).flat)
    for spare in axes[count:]:
        spare.set_visible(False)
    for axis in axes[:count]:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=7)
    return drawn, axes[:count]


def _title(axis: Axes, text: str) -> None:
    axis.set_title(shortened(text, TITLE_CHARACTERS), fontsize=9, loc="left", parse_math=False)


def _name_rows(axis: Axes, names: Sequence[str]) -> None:
    """Texts at the rows, the first one on top."""
    axis.set_yticks(range(len(names)), names, fontsize=7, parse_math=False)
    axis.set_ylim(len(names) - 0.4, -0.6)


def _means(panels: Sequence[Means], colors: Mapping[str, str]) -> Figure:
    tallest = max(len(panel.rows) for panel in panels)
    drawn, axes = _grid(len(panels), 3.6, 0.7 + 0.22 * tallest)
    for axis, panel in zip(axes, panels):
        for place, mean in enumerate(panel.rows):
            color = colors.get(mean.name, GROUP)
            if mean.low is not None and mean.high is not None:
                axis.plot([mean.low, mean.high], [place, place], color=color, lw=1.8)
            axis.plot(mean.value, place, "o", color=color, ms=4)
        _name_rows(axis, [shortened(mean.name, 30) for mean in panel.rows])
        _title(axis, panel.title)
    return drawn


def _differences(panels: Sequence[Differences]) -> Figure:
    tallest = max(len(panel.rows) for panel in panels)
    drawn, axes = _grid(len(panels), 3.6, 0.7 + 0.22 * tallest)
    for axis, panel in zip(axes, panels):
        axis.axvline(0, color=GROUP, lw=0.8, ls="--")
        for place, d in enumerate(panel.rows):
            verdict = verdict_of(d, panel.side)
            color = VERDICT_COLORS[verdict]
            if d.low is not None and d.high is not None:
                axis.plot([d.low, d.high], [place, place], color=color, lw=1.8)
            face = "white" if verdict == "unsure" else color
            axis.plot(d.value, place, "o", color=color, mfc=face, ms=4.5)
        _name_rows(axis, [f"{shortened(d.a, 16)} − {shortened(d.b, 16)}" for d in panel.rows])
        side = {-1: " (lower is better)", 1: " (higher is better)", 0: ""}[panel.side]
        _title(axis, panel.title + side)
    return drawn


def _calibration(calibrations: Sequence[Calibration], colors: Mapping[str, str]) -> Figure:
    drawn, axes = _grid(len(calibrations), 2.8, 2.8)
    for axis, calibration in zip(axes, calibrations):
        axis.plot([0, 1], [0, 1], color=GROUP, lw=0.8, ls="--")
        survey = [point.survey for point in calibration.points]
        model = [point.model for point in calibration.points]
        axis.scatter(survey, model, s=14, color=colors[calibration.checkpoint], alpha=0.55, lw=0)
        axis.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
        axis.set_xlabel("share in the survey", fontsize=8)
        axis.set_ylabel("share in the model", fontsize=8)
        _title(axis, f"{shortened(calibration.checkpoint, 24)} (mean gap {calibration.mean_gap:.3f})")
    return drawn


def _distributions(shares: Sequence[Shares], colors: Mapping[str, str]) -> Figure:
    """Some prompts, from split to unanimous groups: the group's bars, the checkpoints' points."""
    chosen = _chosen(shares)
    drawn, axes = _grid(len(chosen), 4.6, 2.4, across=2)
    named = {}
    for axis, of_prompt in zip(axes, chosen):
        columns = [column for column, offered in enumerate(of_prompt.offered) if offered]
        places = range(len(columns))
        group = [of_prompt.belief_probs[column] for column in columns]
        named["group"] = axis.barh(places, group, color=GROUP, alpha=0.35, height=0.7)
        for name, q in of_prompt.checkpoints.items():
            shown = [q[column] for column in columns]
            named[name] = axis.plot(shown, places, "o", color=colors[name], ms=5, ls="none")[0]
        _name_rows(axis, [shortened(of_prompt.options[column], 26) for column in columns])
        axis.set_xlim(0, 1)
        _title(axis, text_of(of_prompt.prompt))
    _legend(drawn, named)
    return drawn


def _chosen(shares: Sequence[Shares]) -> list[Shares]:
    order = sorted(shares, key=lambda of_prompt: max(of_prompt.belief_probs))
    places = [int(quantile * (len(order) - 1)) for quantile in SHOWN_QUANTILES]
    return [order[place] for place in dict.fromkeys(places)]


def _training(panel: Panel, runs: Sequence[Run], colors: Mapping[str, str]) -> Figure:
    drawn, (axis,) = _grid(1, 5.2, 3.2)
    named = {}
    if panel.name.startswith("margins"):
        axis.axhline(0, color=GROUP, lw=0.8)
    for run in runs:
        for line in panel.lines:
            if has_curve(run, line):
                curve = run.curves[line.key]
                style = DASHES[line.style]
                (drawn_line,) = axis.plot(curve.x, curve.y, style, color=colors[run.name], lw=1.6)
                named[f"{shortened(run.name, 24)}, {line.label}"] = drawn_line
    axis.set_xlabel("examples", fontsize=8)
    _title(axis, panel.title)
    _legend(drawn, named)
    return drawn


def _legend(drawn: Figure, named: Mapping[str, object]) -> None:
    """A legend below the axes. A name may begin with an underscore, which matplotlib would leave out."""
    names = [f" {shortened(name, 40)}" for name in named]
    legend = drawn.legend(
        list(named.values()), names, loc="outside lower center", ncols=3, fontsize=7, frameon=False
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
