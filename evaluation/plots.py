"""Charts: means with their intervals, and for some prompts the group's belief distribution beside each
checkpoint's.

Contract: what is shown goes in, the bytes of a PNG come out.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:  # slow to import, and needed for its names alone
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GROUP_COLOR = "0.25"  # of the first distribution, the group's; checkpoints take the cycle's colors
BARS_WIDTH = 0.8  # of all bars of one option together; options are 1 apart
TITLE_CHARACTERS = 110
OPTION_CHARACTERS = 22
NAME_CHARACTERS = 34  # of a row, beside its interval


class Shown(NamedTuple):
    """Distributions of one prompt to draw: the group's p* and each checkpoint's q, over the option texts."""

    prompt: str
    options: Sequence[str]
    distributions: Mapping[str, Sequence[float]]  # by name, the group's first


class Interval(NamedTuple):
    """One mean with its interval, where there is one."""

    name: str  # of the checkpoint or reference row
    value: float
    low: float | None
    high: float | None


class Panel(NamedTuple):
    """One metric to draw: a point for each row that has it."""

    title: str
    intervals: Sequence[Interval]


def plot_intervals(panels: Sequence[Panel]) -> bytes:
    """A PNG of means with their intervals, one small chart a metric, side by side in rows of three."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    across = min(len(panels), 3)
    down = -(-len(panels) // across)
    tallest = max(len(panel.intervals) for panel in panels)
    size = (4 * across, down * (0.9 + 0.27 * tallest))
    figure, axes = plt.subplots(down, across, figsize=size, squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, panel in zip(axes.flat, panels):
        _draw_intervals(axis, panel)
    figure.tight_layout()
    return _as_png(figure)


def _draw_intervals(axis: Axes, panel: Panel) -> None:
    """The first row on top; rows in brackets, which are no checkpoints, in grey."""
    for place, interval in enumerate(panel.intervals):
        color = "0.6" if interval.name.startswith("(") else "C0"
        if interval.low is not None and interval.high is not None:
            axis.plot([interval.low, interval.high], [place, place], color=color, lw=1.5)
        axis.plot(interval.value, place, "o", color=color, ms=4)
    names = [interval.name for interval in panel.intervals]
    short = [name if len(name) <= NAME_CHARACTERS else name[: NAME_CHARACTERS - 3] + "..." for name in names]
    axis.set_yticks(range(len(short)), short, fontsize=7, parse_math=False)
    axis.invert_yaxis()
    axis.margins(y=0.15)
    axis.tick_params(axis="x", labelsize=7)
    axis.set_title(panel.title, fontsize=9, loc="left", parse_math=False)
    axis.spines[["top", "right"]].set_visible(False)


def plot(shown: Sequence[Shown]) -> bytes:
    """A PNG of bar charts, one for each prompt."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(len(shown), 1, figsize=(9, 2.7 * len(shown)), squeeze=False)
    for axis, case in zip(axes[:, 0], shown):
        _draw_bars(axis, case)
        _label(axis, case)
    axes[0, 0].legend(fontsize=8, frameon=False, ncols=4)
    figure.tight_layout()
    return _as_png(figure)


def _as_png(figure: Figure) -> bytes:
    """The picture's bytes; the figure is given up."""
    import matplotlib.pyplot as plt

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    plt.close(figure)
    return buffer.getvalue()


def _draw_bars(axis: Axes, case: Shown) -> None:
    """A bar for every option and distribution, those of one option side by side."""
    num_bars = len(case.distributions)
    width = BARS_WIDTH / num_bars
    place = np.arange(len(case.options))
    for i, (name, shares) in enumerate(case.distributions.items()):
        color = GROUP_COLOR if i == 0 else f"C{i - 1}"
        axis.bar(place + (i - (num_bars - 1) / 2) * width, shares, width, label=name, color=color)


def _label(axis: Axes, case: Shown) -> None:
    options = [option if len(option) < OPTION_CHARACTERS else option[:20] + "..." for option in case.options]
    title = case.prompt if len(case.prompt) < TITLE_CHARACTERS else case.prompt[:107] + "..."
    axis.set_xticks(np.arange(len(options)), options, fontsize=8, parse_math=False)
    axis.set_title(title, fontsize=9, loc="left", parse_math=False)
    axis.set_ylim(0, 1)
    axis.set_ylabel("share", fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
