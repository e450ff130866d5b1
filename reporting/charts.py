"""The page's charts, which a reader can hover and zoom: Bokeh documents as JSON.

Contract: records of numbers and texts go in, values that `Bokeh.embed.embed_item` takes come out. Texts are
values of columns or plain texts, never markup or TeX. Colors of axes follow the page's theme (page.js).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bokeh.embed import json_item
from bokeh.models import ColumnDataSource, FixedTicker, HoverTool, PlainText, Range1d
from bokeh.plotting import figure
from bokeh.resources import Resources

from reporting.curves import Panel, has_curve
from reporting.gaps import Calibration
from reporting.panels import GROUP, VERDICT_COLORS, Differences, shortened, verdict_of
from reporting.record import Run, Shares, text_of
from reporting.tables import as_p, with_interval

TOOLS = "pan,box_zoom,wheel_zoom,reset,save"
FEW_POINTS = 60  # of a curve: they are marked
TOOLTIP_CHARACTERS = 140


class Chart(NamedTuple):
    """A chart of the page."""

    title: str
    about: str
    item: Mapping[str, object]  # for Bokeh


def library() -> str:
    """BokehJS, to stand in a script element: the page loads nothing."""
    return "\n".join(Resources(mode="inline", components=["bokeh"], log_level="warn").js_raw)


def differences_chart(differences: Differences) -> Chart:
    """A forest plot: one row a pair of checkpoints, the first one on top, and a line at 0."""
    rows = differences.rows
    places = list(range(len(rows), 0, -1))
    plot = _plot(58 + 30 * len(rows))
    plot.y_range = Range1d(0.4, len(rows) + 0.6)
    plot.line([0, 0], [0, len(rows) + 1], line_color=GROUP, line_dash="dashed")
    verdicts = [verdict_of(d, differences.side) for d in rows]
    source = ColumnDataSource(
        {
            "y": places,
            "value": [d.value for d in rows],
            "low": [d.value if d.low is None else d.low for d in rows],
            "high": [d.value if d.high is None else d.high for d in rows],
            "color": [VERDICT_COLORS[verdict] for verdict in verdicts],
            "fill": [0.0 if verdict == "unsure" else 1.0 for verdict in verdicts],
            "pair": [f"{d.a} − {d.b}" for d in rows],
            "words": [with_interval(d.value, d.low, d.high) for d in rows],
            "p": [as_p(d.p) for d in rows],
            "n": [d.n for d in rows],
        }
    )
    bars = plot.segment("low", "y", "high", "y", source=source, line_color="color", line_width=2.5)
    points = plot.scatter(
        "value",
        "y",
        source=source,
        size=9,
        line_color="color",
        fill_color="color",
        fill_alpha="fill",
        line_width=2,
    )
    plot.add_tools(
        _hover([bars, points], [("", "@pair"), ("difference", "@words"), ("p", "@p"), ("n", "@n")])
    )
    names = [f"{shortened(d.a, 17)} − {shortened(d.b, 17)}" for d in rows]
    _name_rows(plot, places, names)
    side = {-1: "Lower is better.", 1: "Higher is better.", 0: ""}[differences.side]
    return Chart(differences.title, side, json_item(plot))


def calibration_chart(calibration: Calibration, shares: Sequence[Shares], color: str) -> Chart:
    """A point an option: its share in the survey against its share in the model."""
    plot = _plot(290)
    plot.x_range, plot.y_range = Range1d(-0.03, 1.03), Range1d(-0.03, 1.03)
    plot.line([0, 1], [0, 1], line_color=GROUP, line_dash="dashed")
    points = calibration.points
    source = ColumnDataSource(
        {
            "survey": [point.survey for point in points],
            "model": [point.model for point in points],
            "option": [shortened(point.option, 60) for point in points],
            "prompt": [
                shortened(text_of(shares[point.prompt].prompt), TOOLTIP_CHARACTERS) for point in points
            ],
        }
    )
    marks = plot.scatter(
        "survey", "model", source=source, size=8, color=color, fill_alpha=0.45, line_alpha=0.9
    )
    tips = [("", "@prompt"), ("option", "@option"), ("survey", "@survey{0.0%}"), ("model", "@model{0.0%}")]
    plot.add_tools(_hover([marks], tips))
    plot.xaxis.axis_label, plot.yaxis.axis_label = "share in the survey", "share in the model"
    correlation = "-" if calibration.correlation is None else f"{calibration.correlation:.2f}"
    about = f"r = {correlation}, mean gap {calibration.mean_gap:.3f}"
    return Chart(calibration.checkpoint, about, json_item(plot))


def training_chart(panel: Panel, runs: Sequence[Run], colors: Mapping[str, str]) -> Chart:
    """Curves over training, one color a run."""
    plot = _plot(270)
    marks = []
    for run in runs:
        for line in panel.lines:
            if has_curve(run, line):
                marks += _draw_curve(plot, run, line.key, line.label, line.style, colors[run.name])
    if panel.name.startswith("margins"):
        plot.line(
            [0, max(max(r.curves[k.key].x) for r in runs for k in panel.lines if k.key in r.curves)], [0, 0]
        )
        plot.renderers[-1].glyph.update(line_color=GROUP, line_dash="dotted", line_width=1)
    tips = [("", "@run, @kind"), ("examples", "@x{0,0}"), ("value", "@y{0.0000}")]
    plot.add_tools(_hover(marks, tips))
    plot.xaxis.axis_label = "examples"
    return Chart(panel.title, panel.about, json_item(plot))


def _draw_curve(plot: figure, run: Run, key: str, label: str, style: str, color: str) -> list:
    """The renderers of one curve."""
    curve = run.curves[key]
    count = len(curve.x)
    columns = {"x": list(curve.x), "y": list(curve.y), "run": [run.name] * count, "kind": [label] * count}
    source = ColumnDataSource(columns)
    drawn = [plot.line("x", "y", source=source, line_color=color, line_dash=style, line_width=2)]
    if count <= FEW_POINTS and style != "dotted":
        fill = color if style == "solid" else "white"
        drawn.append(plot.scatter("x", "y", source=source, size=6, line_color=color, fill_color=fill))
    return drawn


# --- common parts -------------------------------------------------------------------------------------------


def _plot(height: int) -> figure:
    """An empty chart, as wide as the page lets it; dragging scrolls the page until a tool is chosen."""
    plot = figure(
        height=height,
        sizing_mode="stretch_width",
        tools=TOOLS,
        active_drag=None,
        toolbar_location="above",
        min_border_right=12,
    )
    plot.toolbar.logo = None
    plot.toolbar.autohide = True
    plot.outline_line_color = plot.background_fill_color = plot.border_fill_color = None  # the page's own
    return plot


def _hover(renderers: list, tooltips: list[tuple[str, str]]) -> HoverTool:
    return HoverTool(renderers=renderers, tooltips=tooltips)


def _name_rows(plot: figure, places: Sequence[int], names: Sequence[str]) -> None:
    """Texts at the rows of a chart."""
    plot.yaxis.ticker = FixedTicker(ticks=list(places))
    plot.yaxis.major_label_overrides = {place: PlainText(text=name) for place, name in zip(places, names)}
    plot.ygrid.visible = False
