"""The page of several groups in one model: tables and the matrix's figure, of the results' file alone.

Contract: the same file gives the same page. Names are data: they are escaped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from experiments.group_collecting import HELD_OUT, TRAINED, UNNAMED, mean_matrix
from experiments.numbers import Numbers, Part
from experiments.pages import FROM_SFT, cost, folded, listed, made_line, override_lines, write_page
from experiments.results import Results, refusing_damage
from experiments.rows import DPO, SFT, title_of
from experiments.tables import Names, differences
from reporting.group_figure import groups_figure
from reporting.group_tables import DISTANCES
from reporting.groups import HELD_OUT as IS_HELD_OUT
from reporting.groups import OfCheckpoint, PeopleGroups
from reporting.markdown import escaped
from reporting.tables import Table, as_markdown, as_number, format_cell

STEERING = "steering"
JSD, WASSERSTEIN = "js_distance_probability", "wasserstein_probability"
NAMES = {JSD: "JSD", WASSERSTEIN: "Wasserstein", STEERING: "steering (JSD)"}
ABOUT = (
    "JSD is the Jensen-Shannon distance (natural log, at most 0.833) of a group's answers to the model's "
    "class probabilities on its own prompts; Wasserstein is on the classes' scale, 0 to 1. Lower is better. "
    "Steering is how much nearer (JSD) the model is to a group under its own name than under the others': 0 "
    "for a model that has one average of all, and at most what separates the groups themselves."
)
MATRIX = (
    "Row: whose answers; column: whom the prompt names. A model that follows the name is near on the "
    "diagonal alone; one that has an average has rows of one number. Means over seeds."
)


def publish(results: Results, folder: Path) -> Path:
    """Write NAME.md and its figures into `folder`. Raises UserError for damaged results."""
    numbers = Numbers(results)
    with refusing_damage():
        settings = results["settings"]
        name = str(settings["name"])
        figures = {split: groups_figure(_people(results, split)) for split in settings["splits"]}
        text = "\n\n".join(_page(results, numbers, name)) + "\n"
    return write_page(folder, name, text, figures)


def row_title(row: str) -> str:
    """What a row is called."""
    title = title_of(row.removesuffix(UNNAMED))
    return f"{title}, without names" if row.endswith(UNNAMED) else title


def _page(results: Results, numbers: Numbers, name: str) -> Iterator[str]:
    settings = results["settings"]
    yield f"# {escaped(name)}: several groups, one model"
    yield _head(results)
    for split in settings["splits"]:
        yield f"## {escaped(split)}"
        yield _overview(numbers, split)
        yield ABOUT
        yield _by_group(results, numbers, split)
        part = Part(TRAINED, split)
        table = as_markdown(differences(numbers, part, list(NAMES), (SFT, DPO), Names(NAMES, row_title)))
        yield folded("Paired differences, by question (Holm over all comparisons of a measure)", table)
        yield f"![{split}]({name}-{split}.svg)"
        yield MATRIX
        yield from _matrices(results, split)
    yield from cost(results["cells"])


def _head(results: Results) -> str:
    settings = results["settings"]
    trained = [name for name in results["groups"] if name not in results["held_out"]]
    lines = [
        f"- model: {escaped(settings['model'])}; trained on {listed(trained)} together; "
        f"held out: {listed(results['held_out']) or 'none'}; seeds: {', '.join(map(str, settings['seeds']))}",
        made_line(results["made"]),
        FROM_SFT,
        *override_lines(settings),
    ]
    return "\n".join(lines)


def _overview(numbers: Numbers, split: str) -> str:
    """Is it steered?"""
    rows = []
    parts = [part for part in numbers.parts if part.split == split and part.group in (TRAINED, HELD_OUT)]
    for part in parts:
        for row in numbers.methods(part):
            cells = [format_cell(numbers.summary(part, row, metric)) for metric in NAMES]
            spread = numbers.spread(part, row, JSD)
            sd = "-" if spread is None or spread.sd is None else as_number(spread.sd)
            rows.append([escaped(row_title(row)), part.group, *cells, sd])
    return as_markdown(Table("overview", ["", "on", *NAMES.values(), "JSD, sd over seeds"], rows))


def _by_group(results: Results, numbers: Numbers, split: str) -> str:
    """Each group's JSD to the model under its own name."""
    names = results["groups"]
    rows = []
    for row in numbers.methods(Part(TRAINED, split)):
        cells = [format_cell(numbers.summary(Part(name, split), row, JSD)) for name in names]
        rows.append([escaped(row_title(row)), *cells])
    titles = [_title(results, name) for name in names]
    return as_markdown(Table("groups", ["JSD of", *titles], rows))


def _title(results: Results, name: str) -> str:
    return escaped(f"{name}{IS_HELD_OUT}" if name in results["held_out"] else name)


# --- the matrix ---------------------------------------------------------------------------------------------


def _means(results: Results, split: str, distance: str) -> dict[str, list[list[float | None]]]:
    """By row ("" for the groups themselves): the mean over seeds."""
    by_row: dict[str, list[Mapping[str, object]]] = {}
    for line in results["matrices"]:
        if (line["split"], line["distance"]) == (split, distance):
            by_row.setdefault(line["row"], []).append(line)
    return {row: mean_matrix(lines) for row, lines in by_row.items()}


def _people(results: Results, split: str) -> PeopleGroups:
    """The means as the figure of an evaluation takes them."""
    checkpoints = {}
    between: Sequence[Sequence[object]] = []
    for row, values in _means(results, split, "js_distance").items():
        matrix = [[{"value": value, "low": None, "high": None, "n": 0} for value in of] for of in values]
        if row:
            checkpoints[row_title(row)] = OfCheckpoint({}, {"js_distance": matrix}, {})
        else:
            between = matrix
    names, held_out = results["groups"], results["held_out"]
    return PeopleGroups(names, held_out, True, checkpoints, {"js_distance": between}, {})


def _matrices(results: Results, split: str) -> Iterator[str]:
    titles = [_title(results, name) for name in results["groups"]]
    for distance, title in DISTANCES.items():
        for row, values in _means(results, split, distance).items():
            whose = escaped(row_title(row)) if row else "the groups themselves"
            rows = []
            for name, of in zip(titles, values):
                rows.append([name, *("-" if value is None else as_number(value) for value in of)])
            yield as_markdown(Table("matrix", [f"{whose}: {title}", *titles], rows))
