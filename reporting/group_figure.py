"""Every group of people against every group's prompts, as a figure: a square a checkpoint.

Contract: numbers go in, a figure comes out; dark is far. A box stands around a group on its own prompts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reporting.group_tables import DISTANCES, matrices_of
from reporting.groups import Matrix, PeopleGroups
from reporting.panels import shortened
from reporting.tables import as_number

if TYPE_CHECKING:  # slow to import, and needed for their names alone
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ACROSS = 4  # squares in a row
DARK = 0.6  # of the largest number, from which on letters are white


def groups_figure(groups: PeopleGroups, distance: str = "js_distance") -> Figure:
    """The matrices of one distance, of every checkpoint and of the groups themselves."""
    from matplotlib.figure import Figure

    drawn = [(name, matrix) for name, key, matrix in matrices_of(groups) if key == distance]
    across = max(min(len(drawn), ACROSS), 1)
    down = max(-(-len(drawn) // across), 1)
    side = 1.2 + 0.55 * len(groups.names)
    figure = Figure(figsize=(side * across, (side + 0.3) * down), layout="constrained")
    axes = list(figure.subplots(down, across, squeeze=False).flat)
    cells = [cell["value"] for _, matrix in drawn for row in matrix for cell in row]
    largest = max([value for value in cells if value is not None], default=0.0) or 1.0
    for axis, (name, matrix) in zip(axes, drawn):
        _square(axis, matrix, groups, largest)
        axis.set_title(shortened(name, 26), fontsize=9, loc="left", parse_math=False)
    for spare in axes[len(drawn) :]:
        spare.set_visible(False)
    what = DISTANCES.get(distance, distance)
    figure.supxlabel(f"whom the prompt names ({what} of the row's group to the model)", fontsize=8)
    return figure


def _square(axis: Axes, matrix: Matrix, groups: PeopleGroups, largest: float) -> None:
    from matplotlib.patches import Rectangle

    names = [shortened(groups.title(name), 20) for name in groups.names]
    values = [[float("nan") if cell["value"] is None else cell["value"] for cell in row] for row in matrix]
    axis.imshow(values, cmap="Blues", vmin=0, vmax=largest)
    for i, row in enumerate(values):
        axis.add_patch(Rectangle((i - 0.5, i - 0.5), 1, 1, fill=False, ec="#1b1f24", lw=1.4))
        for j, value in enumerate(row):
            if value == value:  # not NaN
                color = "white" if value > DARK * largest else "black"
                axis.text(j, i, as_number(value)[:5], ha="center", va="center", fontsize=7, color=color)
    places = range(len(names))
    axis.set_xticks(places, names, fontsize=7, rotation=40, ha="right", parse_math=False)
    axis.set_yticks(places, names, fontsize=7, parse_math=False)
