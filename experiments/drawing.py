"""Axes and colors of the experiments' figures, for papers.

Contract: a figure is made without a window; matplotlib is imported where one is drawn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # slow to import, and needed for their names alone
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#8a6d3b", "#444444")


def new_axes(count: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure of `count` axes side by side; sizes in inches, of each."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * count, height), layout="constrained")
    axes = list(figure.subplots(1, count, squeeze=False).flat)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    return figure, axes
