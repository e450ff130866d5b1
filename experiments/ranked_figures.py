"""Figures of the ranked experiment, for papers: reward against k by method, and paired differences.

Contract: values of the results' file go in, {name: figure} comes out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from experiments.drawing import COLORS, new_axes
from experiments.numbers import Numbers, Part
from experiments.ranked_methods import BASE, METHODS, Row, row_of, title_of
from reporting.words import PREFERENCE, REWARD, TITLES

if TYPE_CHECKING:  # slow to import, and needed for its name alone
    from matplotlib.figure import Figure

MARKS = ("o", "s", "^")  # methods beyond the colors have another mark


def figures_of(
    numbers: Numbers, part: Part, metric: str, compared: list[str], equal: Mapping[str, str]
) -> dict[str, Figure]:
    """By the name of their file, without the experiment's. metric: the one that the rows are judged by."""
    return {
        "k": _over_k(numbers, part, metric, equal),
        "differences": _differences(numbers, part, metric, compared),
    }


def has_level(numbers: Numbers, part: Part, metric: str) -> bool:
    """Was the base model measured by it, so that rows are seen beside it?"""
    return numbers.summary(part, BASE, metric) is not None


def _over_k(numbers: Numbers, part: Part, metric: str, equal: Mapping[str, str]) -> Figure:
    """A line a method, with intervals over prompts: what it gains on the base model, prompt by prompt, where
    that was measured; else its own level."""
    figure, (axis,) = new_axes(1, 7.2, 4.4)
    held = [name for name in numbers.methods(part) if name != BASE]
    rows = {row_of(name) for name in held} | {row_of(name) for name in equal}
    counts = sorted({row.k for row in rows})
    has_base = has_level(numbers, part, metric)
    if has_base:
        axis.axhline(0, color="#999999", lw=1, ls="--", label="base")
    shown = [method for method in METHODS if any(row.method == method for row in rows)]
    for number, method in enumerate(shown):
        points = []
        for place, k in enumerate(counts):
            name = Row(method, k).name
            row = equal.get(name, name)
            if has_base:
                found = numbers.difference(part, row, BASE, metric)
            else:
                found = numbers.summary(part, row, metric)
            if found is not None:
                points.append((place + 0.04 * (number - len(shown) / 2), found))
        at, means = [x for x, _ in points], [found["value"] for _, found in points]
        spread = [
            [f["value"] - f["low"] if f["low"] is not None else 0 for _, f in points],
            [f["high"] - f["value"] if f["high"] is not None else 0 for _, f in points],
        ]
        style = {"color": COLORS[number % len(COLORS)], "marker": MARKS[number // len(COLORS)]}
        axis.errorbar(at, means, spread, ms=4, lw=1.2, label=METHODS[method].title, **style)
    axis.set_xticks(range(len(counts)), [str(k) for k in counts])
    axis.set_xlim(-0.5, len(counts) - 0.5)
    axis.set_xlabel("k: responses of a prompt", fontsize=9)
    what = {**TITLES[REWARD], **TITLES[PREFERENCE]}[metric]
    axis.set_ylabel(f"{what}, minus the base model's" if has_base else what, fontsize=9)
    figure.legend(loc="outside right upper", fontsize=7, frameon=False)
    return figure


def _differences(numbers: Numbers, part: Part, metric: str, compared: list[str]) -> Figure:
    """A forest plot: every row against each of `compared`, paired by prompt."""
    held = numbers.methods(part)
    present = [name for name in compared if name in held]
    figure, axes = new_axes(max(1, len(present)), 3.4, 0.9 + 0.24 * len(held))
    for axis, to, color in zip(axes, present, COLORS):
        axis.axvline(0, color="#999999", lw=0.8, ls="--")
        for place, row in enumerate(held):
            d = numbers.difference(part, row, to, metric) if row != to else None
            if d is None:
                continue
            is_sure = d["low"] is not None and (d["low"] > 0 or d["high"] < 0)
            if d["low"] is not None:
                axis.plot([d["low"], d["high"]], [place, place], color=color, lw=1.6)
            axis.plot(d["value"], place, "o", color=color, mfc=color if is_sure else "white", ms=4.5)
        axis.set_yticks(range(len(held)), [])
        axis.set_ylim(len(held) - 0.5, -0.5)
        axis.set_title(f"minus {title_of(to)}", fontsize=9, loc="left")
    axes[0].set_yticks(range(len(held)), [title_of(row) for row in held], fontsize=7)
    return figure
