"""Bar charts of belief distributions: for each prompt the group's beside each checkpoint's.

Contract: what is shown goes in, the bytes of a PNG come out.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:  # slow to import, and needed for its names alone
    from matplotlib.axes import Axes

GROUP_COLOR = "0.25"  # of the first distribution, the group's; checkpoints take the cycle's colors
BARS_WIDTH = 0.8  # of all bars of one option together; options are 1 apart
TITLE_CHARACTERS = 110
OPTION_CHARACTERS = 22


class Shown(NamedTuple):
    """Distributions of one prompt to draw: the group's p* and each checkpoint's q, over the option texts."""

    prompt: str
    options: Sequence[str]
    distributions: Mapping[str, Sequence[float]]  # by name, the group's first


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
