"""The page of the ranked experiment: Markdown tables and figures, of the results' file alone.

Contract: the same file gives the same page. Names are data: they are escaped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from experiments.numbers import Numbers, Part
from experiments.pages import folded, made_line, override_lines, write_page
from experiments.ranked_figures import figures_of, has_level
from experiments.ranked_methods import BASE, DPO, SWEPO, row_of, title_of
from experiments.results import Results, refusing_damage
from experiments.tables import Names, differences, means, measured, spreads
from reporting.markdown import escaped
from reporting.tables import Table, as_markdown
from reporting.words import PREFERENCE, REWARD, TITLES

NAMES = {**TITLES[PREFERENCE], **TITLES[REWARD]}
TABLES = {
    "Sampled responses": (
        "true_reward",
        "constraints_met",
        "all_constraints_met",
        "reward_win_rate",
        "true_reward_best",
        "response_words",
    ),
    "Held-out ranked responses": (
        "set_accuracy",
        "pair_accuracy",
        "kendall_tau",
        "negative_mass",
        "kl_reference",
    ),
}
OF_TABLES = Names(NAMES, title_of)
JUDGED_BY = ("true_reward", "set_accuracy")  # the first that was measured is drawn and compared
ABOUT = (
    "Means over seeds with 95% bootstrap intervals over prompts; values of a prompt are averaged over seeds "
    "first. Set accuracy: all of Y+ above all of Y- by implied reward; mass on Y-: lower is better."
)
ABOUT_SAMPLED = (  # where a program computes the reward
    "The reward is recomputed by a program from each sampled response, 0 to 10; WR is the share of pairs of "
    "a row's and the base model's responses to one prompt under the same seed in which the row's has the "
    "higher reward, a tie as a half."
)


def publish(results: Results, folder: Path) -> Path:
    """Write NAME.md and its figures into `folder`. Raises UserError for damaged results."""
    numbers = Numbers(results)
    with refusing_damage():
        name = str(results["settings"]["name"])
        (part,) = numbers.parts
        metric = judged_by(numbers, part)
        figures = figures_of(numbers, part, metric, compared_to(numbers, part), results["equal"])
        text = "\n\n".join(_page(results, numbers, part, metric)) + "\n"
    return write_page(folder, name, text, figures)


def judged_by(numbers: Numbers, part: Part) -> str:
    """The measure that rows are compared by."""
    return measured(numbers, part, {"": JUDGED_BY})[0]


def compared_to(numbers: Numbers, part: Part) -> list[str]:
    """The base model, DPO, and Swepo with p = 1 at its largest k."""
    rows = [row_of(name) for name in numbers.methods(part) if "@" in name]
    chosen = [BASE] if BASE in numbers.methods(part) else []
    for method in (DPO, SWEPO):
        of_method = [row for row in rows if row.method == method]
        if of_method:
            chosen.append(max(of_method, key=lambda row: row.k).name)
    return chosen


def _page(results: Results, numbers: Numbers, part: Part, metric: str) -> Iterator[str]:
    settings, name = results["settings"], results["settings"]["name"]
    yield f"# {escaped(name)}: losses of pairs and of sets, trained on ranked responses"
    yield _head(results)
    yield f"{ABOUT} {ABOUT_SAMPLED}" if metric == JUDGED_BY[0] else ABOUT
    yield f"{numbers.prompts[part]} prompts of {escaped(part.group)} ({escaped(part.split)})."
    for title, metrics in TABLES.items():
        table = means(numbers, part, metrics, OF_TABLES)
        if table.rows:
            yield f"## {title}\n\n{as_markdown(table)}"
    measure = NAMES[metric]
    if has_level(numbers, part, metric):
        measure += " minus the base model's, paired by prompt,"
    yield (
        f"![{NAMES[metric]} over k]({name}-k.svg)\n\nFigure 1. {measure} over k, with intervals over "
        "prompts. Where rows are one run, its point is drawn for each."
    )
    yield "## Paired differences"
    yield f"![Paired differences]({name}-differences.svg)"
    yield f"Figure 2. {NAMES[metric]}; filled: the interval excludes 0."
    known = measured(numbers, part, TABLES)
    table = as_markdown(differences(numbers, part, known, compared_to(numbers, part), OF_TABLES))
    yield folded("All of them (p by sign flips of prompts; Holm over all comparisons of a measure)", table)
    if len(settings["seeds"]) > 1:
        yield "## Spread of the seeds' means: standard deviation (least to most)"
        yield as_markdown(spreads(numbers, part, known, OF_TABLES))
    if results["equal"]:
        yield "## Rows that are one run"
        yield _equal(results["equal"])
    yield "## What it took"
    yield _cost_words(settings)
    yield as_markdown(_cost(results["speeds"]))


def _head(results: Results) -> str:
    settings = results["settings"]
    model, seeds = escaped(settings["model"]), ", ".join(settings["seeds"])
    what = f"- model: {model}, no SFT stage; seeds: {seeds}"
    return "\n".join([what, made_line(results["made"]), *override_lines(settings)])


def _equal(equal: Mapping[str, str]) -> str:
    """DPO keeps the best and the worst at any k; of two responses, weights cancel and pairs are one."""
    words = (
        "Every k keeps a prompt's best and worst response, so DPO of these two is one run. Of two responses, "
        "all views of pairs are that pair, and Swepo is DPO on it for any weights that are alike on both."
    )
    lines = [f"- {name} is {title_of(to)}" for name, to in equal.items()]
    return words + "\n\n" + "\n".join(lines)


def _cost_words(settings: Mapping[str, object]) -> str:
    if settings["budget"] == "seconds":
        amount = f"{settings['seconds'] * settings['size']:g} seconds of steps, by the speeds measured before"
    else:
        amount = f"{settings['responses'] * settings['size']:g} responses"
    return (
        f"Every run has the same budget: {amount}; a step has {settings['step_responses']} responses. "
        "Seconds are of a run's steps alone, mean over seeds; *whole* counts its start and its one "
        "validation, too."
    )


def _cost(lines: Sequence[Mapping[str, object]]) -> Table:
    rows = []
    for name in dict.fromkeys(line["row"] for line in lines):
        of_row = [line for line in lines if line["row"] == name]
        columns = ("examples", "responses", "seconds", "whole_seconds")
        means = [sum(line[column] for line in of_row) / len(of_row) for column in columns]
        speed = sum(line["responses"] for line in of_row) / sum(line["seconds"] for line in of_row)
        cells = [f"{means[0]:.0f}", f"{means[1]:.0f}", f"{means[2]:.1f}", f"{speed:.2f}", f"{means[3]:.0f}"]
        rows.append([title_of(name), *cells])
    header = ["", "examples", "responses seen", "seconds", "responses a second", "whole seconds"]
    return Table("cost", header, rows)
