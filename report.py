"""Reports: one table, report.json, a plot of distributions, and an HTML page that holds them all.

Contract: report.json is {"checkpoints": {name: {metric: {"value", "low", "high", "n"}}}, "settings": {...}}; everything else
shows the same numbers.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from utils import atomic_path, write_json

TITLES = {
    "js_distance_probability": "JSD (probability)",
    "js_distance_sampling": "JSD (sampling)",
    "js_distance_floor": "floor of JSD (sampling)",
    "cbc": "CBC",
    "bpc": "BPC",
    "rs": "RS",
    "majority_share": "majority share",
    "class_mass": "class mass",
    "pair_accuracy": "pair accuracy",
    "set_accuracy": "set accuracy",
    "kendall_tau": "Kendall's tau",
    "negative_mass": "mass on Y-",
    "margin": "margin",
    "kl_reference": "KL to reference",
    "logp_best": "log-prob of the best",
    "logp_others": "log-prob of the others",
}


class Shown(NamedTuple):
    """Distributions of one prompt to draw: the group's p* and each checkpoint's q, over the option texts."""

    prompt: str
    options: Sequence[str]
    distributions: Mapping[str, np.ndarray]


def format_cell(cell: Mapping[str, Any] | None) -> str:
    if cell is None or cell["value"] is None:
        return "-"
    return (
        f"{cell['value']:.3f}"
        if cell["low"] is None
        else f"{cell['value']:.3f} [{cell['low']:.3f}, {cell['high']:.3f}]"
    )


def table_rows(
    checkpoints: Mapping[str, Mapping[str, Any]], n_samples: int
) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the result table, one row a checkpoint or reference distribution, the metrics that any of them has."""
    metrics = [m for m in TITLES if any(m in c for c in checkpoints.values())]
    rows = [
        [
            name,
            *(format_cell(cells.get(m)) for m in metrics),
            str(max((c["n"] for c in cells.values()), default=0)),
        ]
        for name, cells in checkpoints.items()
    ]
    return ["", *(TITLES[m].replace("sampling", f"sampling, N={n_samples}") for m in metrics), "n"], rows


def plan_text(
    plan, world_size: int, memory_gb: float, tflops: float, utilisation: float, remedies: dict[str, str]
) -> str:
    """What a run would take, in words: memory a rank against `memory_gb` (10^9 bytes), time a step, GPU hours; with the remedy
    of what takes most where it does not fit."""
    parts = {
        "parameters": plan.parameters,
        "optimizer": plan.optimizer,
        "gradients": plan.gradients,
        "gathered blocks": plan.gathered,
        "activations": plan.activations,
        "log-probs": plan.log_probs,
    }
    seconds = plan.step_flops / (tflops * 1e12 * utilisation)
    hours = plan.steps * seconds / 3600
    lines = [f"memory of one of {world_size} ranks at its peak, GB:"]
    lines += [f"  {name:16s} {value / 1e9:9.2f}" for name, value in parts.items()]
    lines += [
        f"  {'together':16s} {plan.memory / 1e9:9.2f} of {memory_gb:g}",
        f"a step: {plan.tokens:.0f} tokens in {plan.packs:.1f} packs a rank, about {seconds:.3g} s "
        f"at {utilisation:.0%} of {tflops:g} TFLOP/s, communication not counted",
        f"the run: {plan.steps} steps, {plan.examples} examples, about {hours:.3g} h or {hours * world_size:.3g} GPU hours",
        f"a day: {24 * world_size} GPU hours, {86400 / seconds:.0f} steps",
    ]
    if (
        plan.memory > 0.92 * memory_gb * 1e9
    ):  # the rest goes to the driver, the communication library and fragmentation
        worst = max(parts, key=parts.get)
        lines.append(f"does not fit: {worst} take most; {remedies[worst]}")
    else:
        lines.append("fits")
    return "\n".join(lines)


def markdown_table(checkpoints: Mapping[str, Mapping[str, Any]], n_samples: int) -> str:
    """The result table with aligned columns, readable in a terminal and as Markdown."""
    header, rows = table_rows(checkpoints, n_samples)
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    line = lambda cells: "| " + " | ".join(c.ljust(w) for c, w in zip(cells, widths)) + " |"  # noqa: E731
    return "\n".join([line(header), "|" + "|".join("-" * (w + 2) for w in widths) + "|", *map(line, rows)])


def plot(shown: Sequence[Shown]) -> bytes:
    """A PNG of bar charts: for each prompt the group's distribution beside each checkpoint's."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(len(shown), 1, figsize=(9, 2.7 * len(shown)), squeeze=False)
    for axis, case in zip(axes[:, 0], shown):
        names = list(case.distributions)
        width, place = 0.8 / len(names), np.arange(len(case.options))
        for i, name in enumerate(names):
            color = "0.25" if i == 0 else f"C{i - 1}"
            axis.bar(
                place + (i - (len(names) - 1) / 2) * width,
                case.distributions[name],
                width,
                label=name,
                color=color,
            )
        axis.set_xticks(
            place, [o if len(o) < 22 else o[:20] + "..." for o in case.options], fontsize=8, parse_math=False
        )
        axis.set_title(
            case.prompt if len(case.prompt) < 110 else case.prompt[:107] + "...",
            fontsize=9,
            loc="left",
            parse_math=False,
        )
        axis.set_ylim(0, 1)
        axis.set_ylabel("share", fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].legend(fontsize=8, frameon=False, ncols=4)
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    plt.close(figure)
    return buffer.getvalue()


def write_report(
    folder: Path,
    checkpoints: Mapping[str, Mapping[str, Any]],
    settings: Mapping[str, Any],
    shown: Sequence[Shown],
) -> Path:
    """Write report.json, distributions.png and index.html into `folder`; return the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "report.json", {"checkpoints": checkpoints, "settings": settings})
    image = plot(shown) if shown else b""
    if image:
        with atomic_path(folder / "distributions.png") as temporary:
            temporary.write_bytes(image)
            temporary.chmod(0o644)
    page = folder / "index.html"
    with atomic_path(page) as temporary:
        temporary.write_text(_page(checkpoints, settings, image), encoding="utf-8")
        temporary.chmod(0o644)
    return page


def _page(checkpoints: Mapping[str, Mapping[str, Any]], settings: Mapping[str, Any], image: bytes) -> str:
    header, rows = table_rows(checkpoints, settings["n_samples"])
    cells = lambda row, tag: "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in row) + "</tr>"  # noqa: E731
    facts = "".join(
        f"<tr><th>{html.escape(str(k))}</th><td>{html.escape(str(v))}</td></tr>" for k, v in settings.items()
    )
    picture = (
        f'<img alt="belief distributions" src="data:image/png;base64,{base64.b64encode(image).decode()}">'
        if image
        else ""
    )
    beliefs = any("js_distance_probability" in c for c in checkpoints.values())
    explanation = (
        "JSD is the Jensen-Shannon distance (natural log, at most 0.833) between the model's belief distribution and the group's; lower is "
        "better. CBC, BPC and RS: higher is better. A majority share of 1 is faithful."
        if beliefs
        else "Implied rewards, beta times the log-ratio to the reference, against the rewards that the responses carry. Pair accuracy: the best "
        "response above each other; set accuracy: all responses above the mean reward over all below it; mass on Y-: share of the softmax "
        "on those below. KL to the reference is the mean of reference minus policy log-probs, in nats a response."
    )
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Grove report</title>
<style>
 body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #222 }}
 table {{ border-collapse: collapse; margin: 1rem 0 }} th, td {{ padding: .3rem .7rem; border-bottom: 1px solid #ddd; text-align: left; \
font-variant-numeric: tabular-nums }}
 img {{ max-width: 100% }} .facts th {{ font-weight: normal; color: #666 }}
</style>
<h1>Evaluation</h1>
<p>Means over prompts with 95% bootstrap intervals. {explanation}</p>
<table>{cells(header, "th")}{"".join(cells(row, "td") for row in rows)}</table>
{picture}
<h2>Settings</h2><table class="facts">{facts}</table></html>
"""
