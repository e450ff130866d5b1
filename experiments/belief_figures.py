"""Figures of the opinions' experiment, for papers: margins and JSD over training, and the collapse of DPO.

Contract: values of the results' file go in, {name: figure} comes out; what was not logged is not drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from experiments.drawing import COLORS, new_axes
from experiments.rows import DPO, GDPO, title_of

if TYPE_CHECKING:  # slow to import, and needed for their names alone
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE = (4.6, 3.4)  # of each axes, in inches
ON_GRID = 24  # points at which curves of several seeds are averaged
FEWEST = 2  # points of a curve on validations, where it is drawn instead of that on training steps

Line = Mapping[str, object]
Curve = tuple[np.ndarray, np.ndarray]


def figures_of(results: Mapping[str, object]) -> dict[str, Figure]:
    """By the name of their file, without the experiment's."""
    curves: Sequence[Line] = results["curves"]
    groups = list(dict.fromkeys(line["group"] for line in curves))
    drawn = {"margins": _margins(curves, groups), "jsd": _jsd(curves, groups)}
    if results["collapse"] is not None:
        drawn["collapse"] = _collapse(results["collapse"])
    return {name: figure for name, figure in drawn.items() if figure is not None}


def _label(axis: Axes, title: str, x: str, y: str) -> None:
    axis.set_title(title, fontsize=10, loc="left", parse_math=False)
    axis.set_xlabel(x, fontsize=9)
    axis.set_ylabel(y, fontsize=9)


def _legend(figure: Figure, axes: Sequence[Axes]) -> None:
    named = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels()):
            named.setdefault(label, handle)
    figure.legend(named.values(), named, loc="outside lower center", ncols=4, fontsize=8, frameon=False)


# --- over training ------------------------------------------------------------------------------------------


def _margins(curves: Sequence[Line], groups: Sequence[str]) -> Figure | None:
    """Figure 1: majority (solid) and minority (dashed), DPO against GDPO."""
    figure, axes = new_axes(max(len(groups), 1), *SIZE)
    is_drawn = False
    for axis, group in zip(axes, groups):
        axis.axhline(0, color="#888888", lw=0.8)
        for color, method in zip(COLORS, (DPO, GDPO)):
            for side, style in (("majority", "-"), ("minority", "--")):
                names = [f"rewards_{split}/margins_{side}" for split in ("eval", "train")]
                label = f"{title_of(method)}, {side}"
                is_drawn |= _draw(axis, _of(curves, group, method, names), color, style, label)
        _label(axis, group, "examples", "margin of implied rewards")
    _legend(figure, axes)
    return figure if is_drawn else None


def _jsd(curves: Sequence[Line], groups: Sequence[str]) -> Figure | None:
    """Figure 2: JSD of every trained row, and that of GDPO over those that run beside it."""
    figure, axes = new_axes(max(len(groups), 1), *SIZE)
    is_drawn = False
    methods = list(dict.fromkeys(line["method"] for line in curves))
    for axis, group in zip(axes, groups):
        for number, method in enumerate(methods):
            style = "-" if number < len(COLORS) else "--"
            found = _of(curves, group, method, ["js_distance_eval", "js_distance_train"])
            color, title = COLORS[number % len(COLORS)], title_of(method)
            is_drawn |= _draw(axis, found, color, style, title, is_on_top=method == GDPO)
        _label(axis, group, "examples", "JSD to the group")
    _legend(figure, axes)
    return figure if is_drawn else None


def _of(curves: Sequence[Line], group: str, method: str, keys: Sequence[str]) -> list[Curve]:
    """A method's curves, one a seed, of the first key that has any."""
    for key in keys:
        found = []
        for line in curves:
            is_it = (line["group"], line["method"], line["key"]) == (group, method, key)
            if is_it and len(line["x"]) >= FEWEST:
                found.append((np.asarray(line["x"]), np.asarray(line["y"])))
        if found:
            return found
    return []


def over_seeds(curves: Sequence[Curve]) -> tuple[np.ndarray, np.ndarray]:
    """(x (G,), values (seeds, G)) on the stretch that all curves have."""
    first, last = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    grid = np.linspace(first, last, ON_GRID)
    return grid, np.stack([np.interp(grid, x, y) for x, y in curves])


def _draw(
    axis: Axes, curves: Sequence[Curve], color: str, style: str, label: str, is_on_top: bool = False
) -> bool:
    """The mean over seeds, and a band from the least to the most."""
    if not curves:
        return False
    grid, values = over_seeds(curves)
    width, order = (2.6, 3) if is_on_top else (1.7, 2)
    axis.plot(grid, values.mean(0), style, color=color, lw=width, zorder=order, label=label)
    if len(curves) > 1:
        axis.fill_between(grid, values.min(0), values.max(0), color=color, alpha=0.15, lw=0)
    return True


# --- the collapse -------------------------------------------------------------------------------------------


def _collapse(collapse: Mapping[str, object]) -> Figure:
    """Mass on the group's most common belief, and JSD, over beta: the theory's line and trained models."""
    figure, axes = new_axes(2, *SIZE)
    wanted = (("majority", "mass on the majority"), ("js_distance", "JSD to the group"))
    for axis, (key, title) in zip(axes, wanted):
        theory, points = collapse["theory"], collapse["points"]
        line = "theory: pi_ref p*^(1/beta)"
        axis.plot([t["beta"] for t in theory], [t[key] for t in theory], color=COLORS[0], label=line)
        label = "DPO, trained"
        axis.plot([p["beta"] for p in points], [p[key] for p in points], "o", color=COLORS[1], label=label)
        axis.axhline(collapse["sft"][key], color=COLORS[2], ls="--", lw=1.2, label="SFT (pi_ref)")
        if key == "majority":
            group = collapse["group_itself"][key]
            axis.axhline(group, color="#888888", ls=":", lw=1.2, label="the group")
        axis.set_xscale("log")
        _label(axis, title, "beta", "")
    _legend(figure, axes)
    return figure
