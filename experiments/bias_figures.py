"""Figures of Theorem 3 and of the collapse, for papers.

Contract: values of the two results' files go in, {name: figure} comes out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from experiments.bias_numbers import (
    arms_of,
    betas_of,
    biases,
    counts_of,
    interval,
    mean_of,
    points_of,
    untrained,
)
from experiments.drawing import COLORS, new_axes
from experiments.results import Results

if TYPE_CHECKING:  # slow to import, and needed for its name alone
    from matplotlib.figure import Figure

OF_DRAWS = {"mean of the draws": "--", "most frequent draw": ":"}  # what the draws say without a model
OVER_TRAINING = ("SFT (likelihood)", "DPO, all pairs", "Swepo")
HEIGHT = 3.6  # of axes side by side, in inches
NAMES = {"dpo": "DPO", "gdpo": "GDPO"}


def figures_of(lengths: Results, collapse: Results) -> dict[str, Figure]:
    """By the name of their file, without the experiment's."""
    return {"k": _over_k(lengths), "training": _over_training(lengths), "collapse": _collapse(collapse)}


def _over_k(results: Results) -> Figure:
    """Bias against k on logarithmic axes: the theorem's bound, the draws, and every arm."""
    figure, (axis,) = new_axes(1, 6.4, 4.6)
    counts = counts_of(results, arms_of(results)[0])
    bound = [results["sigma"] / np.sqrt(k) for k in counts]
    axis.plot(counts, bound, color="#999999", lw=1, label="C / sqrt(k), C the largest sigma")
    axis.axhline(np.mean(untrained(results)), color="#999999", lw=1, ls="-.", label="before training")
    colors = iter(COLORS)
    for arm in arms_of(results):
        at = counts_of(results, arm)
        found = [interval(biases(results, arm, k)) for k in at]
        means = [f.value for f in found]
        if arm in OF_DRAWS:
            axis.plot(at, means, OF_DRAWS[arm], color="black", lw=1.4, label=arm)
            continue
        spread = [0.0 if f.high is None else f.high - f.value for f in found]
        style = {"marker": "o", "ms": 4, "lw": 1.4, "capsize": 2, "color": next(colors)}
        axis.errorbar(at, means, spread, label=arm, **style)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter("{x:g}")
    axis.tick_params(which="minor", labelsize=7)
    axis.set_xticks(counts, [str(k) for k in counts])
    axis.set_xlabel("k: acceptable responses of a prompt", fontsize=9)
    axis.set_ylabel("bias: |E model − E true| of the length, words", fontsize=9)
    figure.legend(loc="outside right upper", fontsize=7, frameon=False)
    return figure


def _over_training(results: Results) -> Figure:
    """Bias over steps, a line a k; dashed: that of the draws' own mean."""
    arms = [arm for arm in OVER_TRAINING if arm in arms_of(results)]
    figure, axes = new_axes(len(arms), 3.6, HEIGHT)
    for axis, arm in zip(axes, arms):
        for color, k in zip(COLORS, counts_of(results, arm)):
            looks = range(len(results["looked_at"]))
            means = [np.mean(biases(results, arm, k, look)) for look in looks]
            axis.plot(results["looked_at"], means, color=color, lw=1.5, label=f"k = {k}")
            axis.axhline(np.mean(biases(results, "mean of the draws", k)), color=color, lw=0.8, ls="--")
        axis.set_title(arm, fontsize=10, loc="left")
        axis.set_xlabel("steps", fontsize=9)
        axis.set_ylim(bottom=0)
    axes[0].set_ylabel("bias, words", fontsize=9)
    handles, labels = axes[-1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    return figure


def _collapse(results: Results) -> Figure:
    """Trained log-odds against the theory's; and the majority's share over beta."""
    figure, (odds, share) = new_axes(2, 4.6, HEIGHT)
    betas = betas_of(results)
    for color, beta in zip(COLORS, betas):
        pairs = np.array([pair for point in points_of(results, "dpo", beta) for pair in point["log_odds"]])
        odds.plot(*pairs.T, "o", ms=3.5, color=color, alpha=0.6, label=f"beta = {beta:g}")
    lowest = min(line.get_xdata().min() for line in odds.lines)
    odds.plot([lowest, 0], [lowest, 0], color="black", lw=0.8)
    odds.set_xlabel("theory: log-odds against the majority, nats", fontsize=9)
    odds.set_ylabel("trained by DPO", fontsize=9)
    odds.legend(fontsize=7, frameon=False)
    theory = [mean_of(points_of(results, "dpo", beta), "majority_theory") for beta in betas]
    share.plot(betas, theory, color="black", lw=1, label="pi_ref p*^(1 / beta)")
    for color, (method, name) in zip(COLORS, NAMES.items()):
        means = [mean_of(points_of(results, method, beta), "majority") for beta in betas]
        share.plot(betas, means, "o", color=color, ms=5, label=f"{name}, at the belief's token")
    share.set_xscale("log")
    share.set_xlabel("beta", fontsize=9)
    share.set_ylabel("share of the majority's belief", fontsize=9)
    share.legend(fontsize=7, frameon=False)
    return figure
