"""The page: one HTML file that needs no other, laid out by template/report.html.

Contract: a Story goes in, a document comes out. The template escapes every text (autoescape), and what
scripts read is JSON without any letter that could end a script element; they write it as text, not as markup.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from measures.summaries import Summary
from reporting import charts, group_tables
from reporting.charts import Chart
from reporting.curves import panels_of
from reporting.facts import Fact, Source, commands_of, facts_of, shown_path, sources_of
from reporting.gaps import calibrations_of, gaps_of
from reporting.group_tables import matrices_of
from reporting.groups import PeopleGroups
from reporting.panels import colors_of, differences_of, is_guess
from reporting.prompt_rewards import PromptRewards, prompt_rewards
from reporting.record import Answer, Evaluation, Shares, Story, text_of
from reporting.sentence import answer_of
from reporting.tables import Table, as_number, counts_table, differences_table, tables_of, title_of
from reporting.words import ABOUT, CAPTIONS, COUNTS, DIFFERENCES, IN_TABLE, LABELS, TITLES, better_side

TEMPLATES = Path(__file__).parent / "template"
MOST_ANSWERS = 6000  # on a page, over all checkpoints; more would make it slow to open
MOST_PROMPTS = 3000


class Cell(NamedTuple):
    """One number of a table, with the place of its interval in its column in percent."""

    value: str
    interval: str
    left: float | None  # None: there is no interval
    width: float
    point: float
    is_best: bool


class Row(NamedTuple):
    """One row of a table."""

    name: str
    is_guess: bool
    color: str
    cells: Sequence[Cell | None]
    count: int


class Results(NamedTuple):
    """The table of one kind of data, and all of its numbers."""

    caption: str
    about: str
    columns: Sequence[str]
    sides: Sequence[int]
    counted: str  # what n counts
    rows: Sequence[Row]
    whole: Table


class Heat(NamedTuple):
    """One cell of a matrix: its number, its interval, and how near it is to the largest in percent."""

    value: str
    interval: str
    shade: int
    is_own: bool  # a group on its own prompts


class HeatMap(NamedTuple):
    """Every group's answers against every group's prompts."""

    title: str
    names: Sequence[str]
    rows: Sequence[Sequence[Heat]]


class GroupsSection(NamedTuple):
    """Several groups of people."""

    gist: str
    table: Table
    steering: Table
    about: str
    maps: Sequence[HeatMap]


class Section(NamedTuple):
    """One evaluation on the page."""

    number: int
    name: str
    scope: str
    answer: str
    results: Sequence[Results]
    forest: Sequence[Chart]
    differences: Table
    calibration: Sequence[Chart]
    counts: Table
    facts: Sequence[Fact]
    commands: Sequence[str]
    hashes: Mapping[str, str]
    sources: Sequence[Source]
    groups: GroupsSection | None
    data: Mapping[str, object]  # of the questions and answers, for page.js
    notes: Sequence[str]  # what the page leaves out, and where it is


def html_page(story: Story) -> str:
    """The document of all evaluations and runs."""
    colors = colors_of(story)
    sections = [_section(number, e, colors) for number, e in enumerate(story.evaluations, 1)]
    panels = panels_of(story.runs)
    training = [charts.training_chart(panel, story.runs, colors) for panel in panels]
    has_charts = bool(training) or any(section.forest or section.calibration for section in sections)
    return _template().render(
        title=_title(story),
        sections=sections,
        training=training,
        runs=story.runs,
        colors=colors,
        shown_path=shown_path,
        texts={"differences": DIFFERENCES, "counts": COUNTS},
        library=Markup(charts.library()) if has_charts else "",
        style=Markup((TEMPLATES / "page.css").read_text(encoding="utf-8")),
        script=Markup((TEMPLATES / "page.js").read_text(encoding="utf-8")),
    )


@functools.cache
def _template() -> Template:
    """The page's template; compiled once, for it takes a tenth of a second."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["script_json"] = script_json
    return environment.get_template("report.html")


def script_json(value: object) -> Markup:
    """JSON for a script element: nothing in it ends the element, begins a comment or breaks a line."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=True, separators=(",", ":"))
    for letter in "<>&'`":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)


def _title(story: Story) -> str:
    names = [evaluation.name for evaluation in story.evaluations] or [run.name for run in story.runs]
    return ", ".join(dict.fromkeys(names))


def _section(number: int, evaluation: Evaluation, colors: Mapping[str, str]) -> Section:
    n_samples, judges = evaluation.n_samples, evaluation.judges
    calibrations = calibrations_of(evaluation.shares)
    forest = [charts.differences_chart(differences) for differences in differences_of(evaluation)]
    unjudged = evaluation.settings.get("unjudged")
    return Section(
        number=number,
        name=evaluation.name,
        scope=str(evaluation.settings.get("scope", "")),
        answer=answer_of(evaluation),
        results=_results_of(evaluation, colors),
        forest=forest,
        differences=differences_table(evaluation.differences, n_samples, judges),
        calibration=[
            charts.calibration_chart(c, evaluation.shares, colors[c.checkpoint]) for c in calibrations
        ],
        counts=counts_table(unjudged if isinstance(unjudged, Mapping) else {}),
        facts=facts_of(evaluation),
        commands=commands_of(evaluation),
        hashes=evaluation.hashes,
        sources=sources_of(evaluation),
        groups=None if evaluation.groups is None else _groups_of(evaluation.groups),
        data=_data_of(evaluation, colors),
        notes=_notes_of(evaluation),
    )


# --- tables -------------------------------------------------------------------------------------------------


def _results_of(evaluation: Evaluation, colors: Mapping[str, str]) -> list[Results]:
    wholes = tables_of(evaluation.results, evaluation.n_samples, evaluation.judges)
    return [_results(evaluation, whole, colors) for whole in wholes]


def _results(evaluation: Evaluation, whole: Table, colors: Mapping[str, str]) -> Results:
    held = [m for m in TITLES[whole.kind] if any(m in row for row in evaluation.results.values())]
    metrics = [metric for metric in held if metric in IN_TABLE] or held
    scales = {metric: _scale(evaluation, metric) for metric in metrics}
    best = {metric: _best(evaluation, metric) for metric in metrics}
    rows = []
    for name, summaries in evaluation.results.items():
        counts = [summaries[metric]["n"] for metric in held if metric in summaries]
        if counts:
            cells = [_cell(evaluation, name, metric, scales[metric], best[metric]) for metric in metrics]
            rows.append(Row(name, is_guess(name), colors.get(name, ""), cells, max(counts)))
    titles = [title_of(m, whole.kind, evaluation.n_samples, evaluation.judges) for m in metrics]
    return Results(
        caption=CAPTIONS[whole.kind],
        about=ABOUT[whole.kind],
        columns=titles,
        sides=[better_side(metric) for metric in metrics],
        counted="responses" if whole.kind == LABELS else "n",
        rows=rows,
        whole=whole,
    )


def _scale(evaluation: Evaluation, metric: str) -> tuple[float, float]:
    """The range of a column's numbers and intervals."""
    numbers = []
    for row in evaluation.results.values():
        if metric in row:
            numbers += [row[metric][key] for key in ("value", "low", "high") if row[metric][key] is not None]
    return (min(numbers), max(numbers)) if numbers else (0.0, 0.0)


def _best(evaluation: Evaluation, metric: str) -> str | None:
    """The best of several checkpoints, where the metric has a better side and one is ahead."""
    side = better_side(metric)
    values = {}
    for name in evaluation.checkpoints:
        summary = evaluation.results[name].get(metric)
        if summary is not None and summary["value"] is not None:
            values[name] = side * summary["value"]
    if not side or len(set(values.values())) < 2:
        return None
    return max(values, key=values.__getitem__)


def _cell(
    evaluation: Evaluation, name: str, metric: str, scale: tuple[float, float], best: str | None
) -> Cell | None:
    summary = evaluation.results[name].get(metric)
    if summary is None or summary["value"] is None:
        return None
    lowest, highest = scale
    span = (highest - lowest) or 1.0

    def place(number: float) -> float:
        return round(100 * (number - lowest) / span, 2)

    value, low, high = summary["value"], summary["low"], summary["high"]
    if low is None or high is None:
        return Cell(as_number(value), "", None, 0.0, place(value), name == best)
    between = "–" if low >= 0 else " to "  # a dash before a minus cannot be read
    interval = f"{as_number(low)}{between}{as_number(high)}"
    return Cell(as_number(value), interval, place(low), place(high) - place(low), place(value), name == best)


# --- groups of people ---------------------------------------------------------------------------------------


def _groups_of(groups: PeopleGroups) -> GroupsSection:
    maps = []
    for name, key, matrix in matrices_of(groups):
        largest = max(cell["value"] for row in matrix for cell in row if cell["value"] is not None) or 1.0
        rows = []
        for i, row in enumerate(matrix):
            rows.append([_heat(cell, largest, i == j) for j, cell in enumerate(row)])
        title = f"{name}: {group_tables.DISTANCES.get(key, key)}"
        maps.append(HeatMap(title, list(map(groups.title, groups.names)), rows))
    table, steering = group_tables.group_table(groups), group_tables.steering_table(groups)
    return GroupsSection(group_tables.in_words(groups), table, steering, group_tables.ABOUT, maps)


def _heat(summary: Summary, largest: float, is_own: bool) -> Heat:
    value, low, high = summary["value"], summary["low"], summary["high"]
    if value is None:
        return Heat("–", "", 0, is_own)
    interval = f"{as_number(low)}–{as_number(high)}" if low is not None and high is not None else ""
    return Heat(as_number(value), interval, round(60 * value / largest), is_own)


# --- what page.js shows -------------------------------------------------------------------------------------


def _data_of(evaluation: Evaluation, colors: Mapping[str, str]) -> dict[str, object]:
    """Questions and answers as page.js reads them: short keys, numbers instead of repeated texts."""
    shares = evaluation.shares[:MOST_PROMPTS]
    gaps = gaps_of(shares)
    names = list(dict.fromkeys([*gaps, *(answer.checkpoint for answer in evaluation.answers)]))
    prompts = {of_prompt.id: text_of(of_prompt.prompt) for of_prompt in evaluation.shares}
    answers = evaluation.answers[:MOST_ANSWERS]
    for answer in answers:
        prompts.setdefault(answer.id, text_of(answer.prompt))
    place_of = {name: place for place, name in enumerate(prompts)}
    rewards = [of_prompt for of_prompt in prompt_rewards(evaluation.answers) if of_prompt.id in place_of]
    return {
        "checkpoints": [{"name": name, "color": colors.get(name, "")} for name in names],
        "prompts": list(prompts.values()),
        "rewards": [_rewards(of_prompt, place_of) for of_prompt in rewards],
        "questions": [_question(i, of_prompt, gaps, place_of) for i, of_prompt in enumerate(shares)],
        "decodings": list(dict.fromkeys(answer.decoding for answer in answers)),
        "judged": any(answer.consistent is not None for answer in answers),
        "answers": [_answer(answer, names, place_of) for answer in answers],
        "beliefs": {place_of[of_prompt.id]: _beliefs(of_prompt) for of_prompt in evaluation.shares},
    }


def _rewards(of_prompt: PromptRewards, place_of: Mapping[str, int]) -> dict[str, object]:
    return {"prompt": place_of[of_prompt.id], "means": dict(of_prompt.means)}


def _beliefs(shares: Shares) -> dict[str, tuple[str, float]]:
    """By the class label of what a prompt offers: the option's words, and its share of the group."""
    held = zip(shares.classes, shares.options, shares.belief_probs, shares.offered)
    return {label: (words, share) for label, words, share, offered in held if offered}


def _question(
    number: int,
    shares: Shares,
    gaps: Mapping[str, Mapping[int, float]],
    place_of: Mapping[str, int],
) -> dict[str, object]:
    columns = [column for column, offered in enumerate(shares.offered) if offered]
    return {
        "prompt": place_of[shares.id],
        "dataset": shares.dataset,
        "options": [shares.options[column] for column in columns],
        "group": [shares.belief_probs[column] for column in columns],
        "models": {name: [q[column] for column in columns] for name, q in shares.checkpoints.items()},
        "sampled": list(shares.sampled),
        "gaps": {name: of_prompts[number] for name, of_prompts in gaps.items() if number in of_prompts},
    }


def _answer(answer: Answer, names: Sequence[str], place_of: Mapping[str, int]) -> dict[str, object]:
    said = {
        "label": answer.label,
        "belief": answer.belief,
        "fits": answer.class_consistent,
        "verdict": answer.consistent,
        "similarity": answer.similarity,
        "score": answer.score if answer.score is not None else answer.judge_score,
        "preference": answer.preference,
        "reward": answer.reward,
        "missed": None if answer.missed is None else list(answer.missed),
        "finish": answer.finish if answer.finish != "stop" else None,
    }
    known = {key: value for key, value in said.items() if value is not None}
    text = answer.answer if answer.label is not None and answer.answer is not None else answer.response
    of = {"c": names.index(answer.checkpoint), "p": place_of[answer.id], "d": answer.decoding}
    return {**of, "text": text, **known}


def _notes_of(evaluation: Evaluation) -> list[str]:
    """What the page leaves out."""
    notes = []
    if len(evaluation.answers) > MOST_ANSWERS:
        count = len(evaluation.answers)
        notes.append(f"The first {MOST_ANSWERS} of {count} answers are here; all are in predictions.jsonl.")
    if len(evaluation.shares) > MOST_PROMPTS:
        count = len(evaluation.shares)
        notes.append(
            f"The first {MOST_PROMPTS} of {count} questions are here; all are in distributions.jsonl."
        )
    return notes
